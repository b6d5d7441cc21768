"""The permutohedral lattice, the only door to the native kernels: arguments are checked here, work is done
there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from densecrf import _native, memory
from densecrf.kernels import BYTES_A_CORNER, require_room
from densecrf.params import NORMALIZATIONS
from densecrf.threads import thread_count
from densecrf.unary import real_array

MAX_DIMENSIONS = 128


class Lattice:
    """A Gaussian filter over N points, built once from their features and applied to any number of value
    columns.

    It approximates ``Σ_j exp(−|f_i − f_j|² / 2) v_j`` (``exact.gaussian_filter``) up to a nearly constant
    factor, in time linear in N. Two runs give the same bits, whatever the number of threads.

    Args:
        features: (N, d) real, finite, already divided by their standard deviations; d from 1 to 128.
        rings: 0, or 1 for a ring of untouched vertices around the touched ones, without which the blur drops
            what would pass through them: about half the error for some six times the vertices (not added
            where features are so many or so wide that places outgrow 64 bits).
        threads: how many to use; by default as many as this process may run on.

    Raises:
        ValueError: for another shape, rings, values that are not finite, or a range too wide for the
            lattice's keys.
        MemoryError: if the lattice does not fit.

    Source: Adams, Baek, Davis 2010, "Fast High-Dimensional Filtering Using the Permutohedral Lattice".
    """

    def __init__(self, features: ArrayLike, *, rings: int = 0, threads: int | None = None):
        array = _checked_features(features, rings)
        self._threads = thread_count(threads)
        self._native = _native.Lattice(array, rings, self._threads)
        self._points = array.shape[0]

    @property
    def vertices(self) -> int:
        """How many lattice vertices the points touch; time and memory of a filtering grow with it."""
        return self._native.vertices

    def filter(self, values: ArrayLike) -> np.ndarray:
        """Filter each column.

        Args:
            values: (N, v) real, finite; or (N,).

        Returns:
            float32 of the same shape.

        Raises:
            ValueError: for another number of rows, or values that are not finite.
        """
        array = np.ascontiguousarray(real_array("values", values))
        if array.ndim not in (1, 2) or array.shape[0] != self._points:
            raise ValueError(f"got values {array.shape}, wanted ({self._points}, v), a row for each point")
        columns = array if array.ndim == 2 else array[:, None]
        return self._native.filter(columns, self._threads).reshape(array.shape)


class Kernel:
    """A Gaussian over points with normalisation: what one pairwise term does to beliefs, by a lattice of its
    own.

    Args:
        features: see ``Lattice``, as are rings and the errors.
        normalization: see ``Params.normalization``.
        include_self: whether a pixel's own belief is part of its message.
        threads: how many to use; by default as many as this process may run on.
    """

    def __init__(
        self,
        features: ArrayLike,
        normalization: str,
        include_self: bool,
        *,
        rings: int = 0,
        threads: int | None = None,
    ):
        if normalization not in NORMALIZATIONS:
            raise ValueError(
                f"got normalization {normalization!r}, wanted one of: {', '.join(NORMALIZATIONS)}"
            )
        array = _checked_features(features, rings)
        self._threads = thread_count(threads)
        self._native = _native.Kernel(array, normalization, include_self, rings, self._threads)

    def filter(self, values: np.ndarray) -> np.ndarray:
        """(N, v) to (N, v) float32, each column filtered and normalised.

        Raises:
            ValueError: for another number of rows.
        """
        return self._native.filter(np.ascontiguousarray(values, np.float32), self._threads)


class MeanField:
    """A mean field on lattices, step by step; by one thread at a time, others get a RuntimeError.

    Ctrl-C ends a run in the middle of a step; what is then left is of no use, and says so.

    Args:
        unary: (K, N) energies in nats, finite; or probabilities, if there is a floor.
        kernels: the pairwise terms.
        strengths: for each, (K,) by how much a label's message raises its own logit, or (K, K) [to, from].
        merge_threshold: labels whose probability is nowhere higher than this share one message; 0 keeps all
            apart.
        convergence_tolerance: pixels none of whose probabilities moves by more than this in a step rest for
            two or three;
            0: none do.
        threads: how many to use.
        floor: probabilities count as at least this; 0 for energies.

    Raises:
        ValueError: for probabilities that are negative, NaN or infinite; for kernels or strengths whose sizes
            do not fit the unary; or for strengths over 1e20.
    """

    def __init__(
        self,
        unary: np.ndarray,
        kernels: Sequence[Kernel],
        strengths: Sequence[np.ndarray],
        *,
        merge_threshold: float,
        convergence_tolerance: float,
        threads: int,
        floor: float = 0.0,
    ):
        planes = np.ascontiguousarray(unary, np.float32)
        pulls = [np.asarray(strength, np.float32).ravel().tolist() for strength in strengths]
        terms = [kernel._native for kernel in kernels]
        self._native = _native.MeanField(
            planes, floor, terms, pulls, merge_threshold, convergence_tolerance, threads
        )

    def start_from(self, marginals: np.ndarray) -> None:
        """Go on from these marginals (K, N) instead of the softmax of −unary; ValueError for another
        shape."""
        self._native.set_marginals(np.ascontiguousarray(marginals, np.float32))

    def run(self, steps: int) -> None:
        """Take this many steps."""
        self._native.run(steps)

    def marginals(self) -> np.ndarray:
        """(K, N) float32."""
        return self._native.marginals()

    def finish(self) -> np.ndarray:
        """The same, as the last thing asked: memory that only further steps need is given up before."""
        return self._native.finish()


def weighted_messages(
    kernels: Sequence[Kernel],
    weights: Sequence[float],
    values: np.ndarray,
    *,
    factors: np.ndarray | None = None,
    transposed: bool = False,
    threads: int,
) -> tuple[np.ndarray, list[float]]:
    """The weighted sum of several kernels' messages, and the products that their gradient needs.

    Args:
        kernels: kernels over the same N points.
        weights: one for each kernel.
        values: (K, N) float32, contiguous.
        factors: (K, N) float32, or None.
        transposed: whether to apply the transpose of each kernel.
        threads: number of threads.

    Returns:
        messages: (K, N) float32.
        products: the inner product of each kernel's message, without weight, with ``factors``; an empty list
            without factors.

    Raises:
        ValueError: for sizes that do not fit.
    """
    native = [kernel._native for kernel in kernels]
    return _native.messages(native, list(weights), values, factors, transposed, threads)


def _checked_features(features: ArrayLike, rings: int) -> np.ndarray:
    if rings not in (0, 1):
        raise ValueError(f"got rings = {rings}, wanted 0 or 1")
    array = np.ascontiguousarray(real_array("features", features))
    if array.ndim != 2 or not 1 <= array.shape[1] <= MAX_DIMENSIONS:
        raise ValueError(f"got features {array.shape}, wanted (N, d) with d from 1 to {MAX_DIMENSIONS}")
    require_room(*array.shape)
    if rings:  # on photographs, six times as many vertices
        memory.require(6 * array.size * BYTES_A_CORNER, f"a lattice with a ring over {array.shape[0]} points")
    return array
