"""The permutohedral lattice, the only door to the native kernels: arguments are checked here, work is done there."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from densecrf import _native

MAX_DIMENSIONS = 128
POOL_LIMIT = 0.05


class Lattice:
    """A Gaussian filter over N points, built once from their features and applied to any number of value columns.

    It approximates ``Σ_j exp(−|f_i − f_j|² / 2) v_j`` (``exact.gaussian_filter``) up to a nearly constant factor, in
    time linear in N. Two runs give the same bits, whatever the number of threads.

    Args:
        features: (N, d) real, finite, already divided by their standard deviations; d from 1 to 128.
        threads: how many to use; by default as many as this process may run on.

    Raises:
        ValueError: for another shape, values that are not finite, or a range too wide for the lattice's keys.
        MemoryError: if the lattice does not fit.

    Source: Adams, Baek, Davis 2010, "Fast High-Dimensional Filtering Using the Permutohedral Lattice".
    """

    def __init__(self, features: ArrayLike, *, threads: int | None = None):
        array = np.ascontiguousarray(features, np.float32)
        if array.ndim != 2 or not 1 <= array.shape[1] <= MAX_DIMENSIONS:
            raise ValueError(f"got features {array.shape}, wanted (N, d) with d from 1 to {MAX_DIMENSIONS}")
        _require_finite("features", array)
        self._threads = thread_count(threads)
        self._native = _native.Lattice(array, self._threads)
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
        array = np.ascontiguousarray(values, np.float32)
        if array.ndim not in (1, 2) or array.shape[0] != self._points:
            raise ValueError(f"got values {array.shape}, wanted ({self._points}, v), a row for each point")
        _require_finite("values", array)
        columns = array if array.ndim == 2 else array[:, None]
        return self._native.filter(columns, self._threads).reshape(array.shape)


def mean_field(
    unary: np.ndarray,
    lattices: Sequence[Lattice],
    weights: Sequence[float],
    *,
    normalization: str,
    iterations: int,
    threads: int,
) -> np.ndarray:
    """Marginals (K, N) float32 from energies (K, N), Potts compatibility; see ``crf.refine`` for the meaning."""
    _require_finite("unary", unary)
    kernels = [_native.Kernel(lattice._native, normalization, True, threads) for lattice in lattices]
    strengths = [[weight] * len(unary) for weight in weights]
    field = _native.MeanField(np.ascontiguousarray(-unary, np.float32), kernels, strengths, POOL_LIMIT, threads)
    field.run(iterations)
    return field.marginals()


def thread_count(threads: int | None) -> int:
    """``threads`` if given and positive, else the number of processors this process may use."""
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise ValueError(f"got {threads} threads, wanted at least 1, or None for all")
    return threads


def _require_finite(name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        bad = array.size - np.count_nonzero(np.isfinite(array))
        raise ValueError(f"got {bad} {name} that are NaN or infinite, wanted finite numbers")
