"""The permutohedral lattice and inference on it: checks of arguments around the native kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from densecrf import _native, memory
from densecrf.arrays import kind_of
from densecrf.feature_offsets import feature_array
from densecrf.kernels import BYTES_PER_CORNER, require_room
from densecrf.params import NORMALIZATIONS
from densecrf.threads import thread_count
from densecrf.unary import impossible_labels, real_array

MAX_DIMENSIONS = 255
MANY_DIMENSIONS = 32
"""Of more features than this, the memory of each vertex is looked at as well."""
_INFINITE_ENERGY = np.float32(1e38)
"""What the native kernels get for +inf; no message can outweigh it."""


class Lattice:
    """A Gaussian filter over N points, built once and applied to any number of value columns.

    It approximates ``Σ_j exp(−|f_i − f_j|² / 2) v_j`` (``exact.gaussian_filter``) up to a nearly constant
    factor, in time linear in N. Two runs give the same bits, whatever the number of threads.

    Args:
        features: (N, d) real, finite, already divided by their standard deviations; d from 1 to 255. Large
            common offsets, such as map coordinates, are subtracted if the values are float64 or integers.
        rings: 0, or 1 for a halo of untouched vertices around the touched ones. Without a halo the blur
            loses what would pass through such vertices; with it, the error is about half, for some six times
            the vertices. (No halo is added where d or the range of features is so large that the coordinates
            of a vertex do not fit into 64 bits.)
        threads: maximum number of threads; by default as many as this process may run on.

    Raises:
        TypeError: for a number of threads that is not an integer.
        ValueError: for another shape or number of rings, values that are not finite, or a range too wide for
            the lattice.
        MemoryError: if the lattice does not fit.

    Source: Adams, Baek, Davis 2010, "Fast High-Dimensional Filtering Using the Permutohedral Lattice".
    """

    def __init__(self, features: ArrayLike, *, rings: int = 0, threads: int | None = None):
        array = _checked_features(feature_array(features), rings)
        is_own = array.base is None and array is not features  # the caller may change what is shared
        self._arguments = (array if is_own else array.copy(), rings, threads)
        self._threads = thread_count(threads)
        self._native = _native.Lattice(array, rings, self._threads)
        self._points = array.shape[0]

    def __reduce__(self) -> tuple[object, ...]:
        """For ``pickle`` and ``copy``: the features, from which the lattice is built again."""
        return _rebuilt_lattice, self._arguments

    @property
    def vertices(self) -> int:
        """Number of lattice vertices; time and memory of a filtering grow with it."""
        return self._native.vertices

    def filter(self, values: ArrayLike) -> np.ndarray:
        """Filter each column.

        Args:
            values: (N, v) real, finite; or (N,). (``densecrf.torch.Lattice.filter`` takes the transpose.)

        Returns:
            float32 of the same shape; a tensor if values are a tensor.

        Raises:
            ValueError: for another number of rows, or values that are not finite.
        """
        array = np.ascontiguousarray(real_array("values", values))
        if array.ndim not in (1, 2) or array.shape[0] != self._points:
            raise ValueError(f"got values {array.shape}, wanted ({self._points}, v), a row for each point")
        columns = array if array.ndim == 2 else array[:, None]
        return kind_of(values)(self._native.filter(columns, self._threads).reshape(array.shape))


class Kernel:
    """The normalised Gaussian of one pairwise term, on a lattice of its own.

    Args:
        features: (N, d), see ``Lattice``.
        normalization: see ``Params.normalization``.
        include_self: whether a pixel's own belief is part of its message.
        rings: see ``Lattice``.
        threads: maximum number of threads; by default as many as this process may run on.

    Raises:
        TypeError: see ``Lattice``.
        ValueError: for an unknown normalization; see also ``Lattice``.
        MemoryError: if the lattice does not fit.
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
        """Filter and normalise each column.

        Args:
            values: (N, v).

        Returns:
            (N, v) float32.

        Raises:
            ValueError: for another number of rows.
        """
        return self._native.filter(np.ascontiguousarray(values, np.float32), self._threads)


class MeanField:
    """Mean-field inference on lattices, step by step, by one thread at a time.

    A call while another thread uses the object raises a RuntimeError. So does a call after Ctrl-C has ended a
    run in the middle of a step, as the marginals are then incomplete, and a call after ``finish``.

    Args:
        unary: (K, N) energies in nats, +inf for labels that a pixel cannot have; probabilities if ``floor``
            is above 0.
        kernels: kernels of the pairwise terms.
        strengths: for each kernel, (K,) factors of a label's message in its own logit, or a matrix (K, K)
            [to, from].
        merge_threshold: labels whose probability is nowhere higher than this share one message; 0 keeps all
            labels separate.
        convergence_tolerance: pixels whose probabilities change by at most this in a step skip the next two
            or three steps; with 0, no pixel does.
        threads: number of threads.
        floor: lower limit of probabilities; 0 for energies.

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
        unaries = np.ascontiguousarray(unary, np.float32)
        self._impossible = None if floor else impossible_labels(unaries)
        if self._impossible is not None:
            unaries = np.where(self._impossible, _INFINITE_ENERGY, unaries)
        self._native = _native.MeanField(
            unaries=unaries,
            floor=floor,
            kernels=[kernel._native for kernel in kernels],
            strengths=[np.asarray(strength, np.float32).ravel().tolist() for strength in strengths],
            merge_threshold=merge_threshold,
            convergence_tolerance=convergence_tolerance,
            threads=threads,
        )

    def start_from(self, marginals: np.ndarray) -> None:
        """Start from other marginals than the softmax of −unary.

        Args:
            marginals: (K, N).

        Raises:
            ValueError: for another shape.
        """
        self._native.set_marginals(np.ascontiguousarray(marginals, np.float32))

    def run(self, steps: int) -> None:
        """Take this many steps."""
        self._native.run(steps)

    def marginals(self) -> np.ndarray:
        """(K, N) float32; exactly 0 for labels that a pixel cannot have."""
        return self._without_impossible(self._native.marginals())

    def finish(self) -> np.ndarray:
        """The marginals, (K, N) float32, by the last call: what only further steps need is freed first."""
        return self._without_impossible(self._native.finish())

    def _without_impossible(self, marginals: np.ndarray) -> np.ndarray:
        if self._impossible is not None:
            marginals[self._impossible] = 0
        return marginals

    def phase_seconds(self) -> dict[str, float]:
        """Processor time, of all threads of this process, by phase of what has been computed so far."""
        return self._native.phase_seconds()


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


def _require_room_for_many(features: np.ndarray) -> None:
    """MemoryError if the coordinates and neighbours of vertices with many dimensions would not fit."""
    points, dimensions = features.shape
    sample = features[:: max(1, points // 1000)]
    share = len(np.unique(np.round(sample), axis=0)) / max(1, len(sample))  # of points with own vertices
    needed = int(share * points * (dimensions + 1) * 12 * dimensions)
    memory.require(needed, f"a lattice over {points} points of {dimensions} features")


def _rebuilt_lattice(features: np.ndarray, rings: int, threads: int | None) -> Lattice:
    return Lattice(features, rings=rings, threads=threads)


def _checked_features(features: ArrayLike, rings: int) -> np.ndarray:
    """The features as contiguous float32; errors as in ``Lattice``."""
    if rings not in (0, 1):
        raise ValueError(f"got rings = {rings}, wanted 0 or 1")
    array = np.ascontiguousarray(real_array("features", features))
    if array.ndim != 2 or not 1 <= array.shape[1] <= MAX_DIMENSIONS:
        raise ValueError(f"got features {array.shape}, wanted (N, d) with d from 1 to {MAX_DIMENSIONS}")
    require_room(*array.shape)
    if array.shape[1] > MANY_DIMENSIONS:
        _require_room_for_many(array)
    if rings:  # on photographs, six times as many vertices
        memory.require(
            6 * array.size * BYTES_PER_CORNER, f"a lattice with a halo over {array.shape[0]} points"
        )
    return array
