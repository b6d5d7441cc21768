"""The pairwise part of a CRF: kernels over the same points, their weights and the label compatibility."""

from __future__ import annotations

import atexit
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from densecrf import exact, lattice
from densecrf.kernels import Bilateral, Features, Gaussian
from densecrf.params import NORMALIZATIONS
from densecrf.threads import thread_count
from densecrf.unary import real_array
from densecrf.validation import one_of, real_number

BACKENDS = ("lattice", "accurate", "exact")
MAX_CACHED_POINTS = 2**19
"""Smoothness kernels over at most this many points are cached, at about 50 bytes a point."""


class PairwiseTerms:
    """Prepared kernels with their weights and the label compatibility.

    Args:
        kernels: pairwise kernels over the same N points; a batch of images gives a batch of kernels.
        compatibility: None, (K,) or (K, K); see ``DenseCRF``.
        normalization: "symmetric", "after", "before" or "none".
        include_self: whether a pixel's own belief is part of its message.
        backend: "lattice", "accurate" or "exact".
        threads: maximum number of threads; None for all processors.

    Raises:
        TypeError: for weights, standard deviations or a number of threads that are not numbers.
        ValueError: for unknown options, or kernels that do not fit each other, such as one over (W, H) beside
            one over (H, W).
        MemoryError: if the lattices do not fit.
    """

    points: int | None
    """Number of points N; None if there are no kernels."""
    batch: int | None
    """Number of images in the batch; None if all kernels are over a single image."""
    grid: tuple[int, int] | None
    """(H, W) of the pixels; None if no kernel is over an image."""

    def __init__(
        self,
        kernels: Sequence[Gaussian | Bilateral | Features],
        *,
        compatibility: ArrayLike | None = None,
        normalization: str = "symmetric",
        include_self: bool = True,
        backend: str = "lattice",
        threads: int | None = None,
    ):
        self._backend = one_of("backend", backend, BACKENDS)
        self._normalization = one_of("normalization", normalization, NORMALIZATIONS)
        self._compatibility = None if compatibility is None else real_array("compatibility", compatibility)
        self._include_self = include_self
        self._rings = int(backend == "accurate")
        self._threads = thread_count(threads)
        self._weights = [_finite_weight(kernel.weight) for kernel in kernels]
        self.points = None
        self.batch = None
        self.grid = _common_grid(kernels)
        self._kernels = [self._prepare(kernel) for kernel in kernels]

    def mean_field(
        self,
        unary: np.ndarray,
        *,
        image: int = 0,
        merge_threshold: float = 0.0,
        convergence_tolerance: float = 0.0,
        floor: float = 0.0,
    ) -> exact.MeanField | lattice.MeanField:
        """Mean-field inference for one image, before its first step.

        Args:
            unary: (K, N) energies in nats; or probabilities, if there is a floor.
            image: number of the image in the batch.
            merge_threshold: see ``DenseCRF``; only lattices use it.
            convergence_tolerance: see ``DenseCRF``; only lattices use it.
            floor: minimum that probabilities count as; 0 for energies. The exact backend takes energies only.
        """
        kernels = [images[image % len(images)] for images in self._kernels]
        strengths = message_strengths(self._weights, self._compatibility, len(unary))
        if self._backend == "exact":
            assert floor == 0
            return exact.MeanField(unary, kernels, strengths)  # type: ignore[arg-type]
        return lattice.MeanField(
            unary,
            kernels,  # type: ignore[arg-type]
            strengths,
            merge_threshold=merge_threshold,
            convergence_tolerance=convergence_tolerance,
            threads=self._threads,
            floor=floor,
        )

    def expected_energy(self, marginals: np.ndarray, *, image: int = 0) -> float:
        """The expected pairwise energy ½ Σ_m w_m Σ_ij k_m(i, j) Σ_kl Q_i(k) μ(k, l) Q_j(l) in nats.

        Args:
            marginals: Q, (K, N).
            image: number of the image in the batch.
        """
        total = 0.0
        for images, weight in zip(self._kernels, self._weights, strict=True):
            kernel = images[image % len(images)]
            message = kernel.filter(np.ascontiguousarray(marginals.T)).T
            mu = self._compatibility
            if mu is not None and mu.ndim == 2:
                total += 0.5 * weight * float((marginals * (mu @ message)).sum(dtype=np.float64))
                continue
            attraction = 1.0 if mu is None else mu[:, None]
            ones = np.ones((marginals.shape[1], 1))
            constant = kernel.filter(ones).sum(dtype=np.float64) if mu is None else 0.0
            agreement = (marginals * attraction * message).sum(dtype=np.float64)
            total += 0.5 * weight * float(constant - agreement)
        return total

    def _prepare(self, kernel: Gaussian | Bilateral | Features) -> list[exact.Kernel | lattice.Kernel]:
        """One prepared kernel, or one for each image of a batch."""
        options = (self._normalization, self._include_self)
        if isinstance(kernel, Gaussian) and self._backend != "exact":
            points = math.prod(kernel.shape)
            if points <= MAX_CACHED_POINTS:
                self._check_size(points, None)
                origin = None if kernel.origin is None else tuple(kernel.origin)
                grid = Gaussian(tuple(kernel.shape), kernel.stds, origin=origin)  # the cache ignores weights
                return [grid_kernel(grid, *options, self._rings, self._threads)]
        features = kernel.features()
        self._check_size(features.shape[-2], len(features) if features.ndim == 3 else None)
        images = features if features.ndim == 3 else features[None]
        if self._backend == "exact":
            return [exact.Kernel(one, *options) for one in images]
        return [lattice.Kernel(one, *options, rings=self._rings, threads=self._threads) for one in images]

    def _check_size(self, points: int, batch: int | None) -> None:
        if self.points not in (None, points) or (batch and self.batch not in (None, batch)):
            raise ValueError(
                f"got kernels over {sorted({self.points or points, points})} points and batches of "
                f"{sorted({self.batch or 1, batch or 1})}, wanted one size"
            )
        self.points = points
        self.batch = batch or self.batch


def message_strengths(
    weights: Sequence[float], compatibility: np.ndarray | None, labels: int
) -> list[np.ndarray]:
    """How much each kernel's messages add to the logits.

    Args:
        weights: one for each kernel.
        compatibility: None for Potts, (K,) or (K, K); see ``DenseCRF``.
        labels: number of labels K.

    Returns:
        For each kernel (K,), where a label's message raises its own logit, or (K, K) [to, from].

    Raises:
        ValueError: for a compatibility that does not fit the labels.
    """
    mu = compatibility
    if mu is None:
        return [np.full(labels, weight) for weight in weights]
    if mu.shape not in ((labels,), (labels, labels)):
        raise ValueError(
            f"got compatibility {mu.shape} and {labels} labels, wanted ({labels},) or ({labels}, {labels})"
        )
    with np.errstate(
        over="ignore"
    ):  # products that overflow become infinite, which the native kernels refuse
        return [weight * mu if mu.ndim == 1 else -weight * mu for weight in weights]


@lru_cache(maxsize=2)
def grid_kernel(
    grid: Gaussian, normalization: str, include_self: bool, rings: int, threads: int
) -> lattice.Kernel:
    """The prepared smoothness kernel of a grid; the last two are cached, as photos often share one size.

    Args:
        grid: kernel over a grid of pixels, with tuples for its shape and standard deviations.
        normalization: see ``Params.normalization``.
        include_self: whether a pixel's own belief is part of its message.
        rings: see ``Lattice``.
        threads: number of threads.
    """
    return lattice.Kernel(grid.features(), normalization, include_self, rings=rings, threads=threads)


atexit.register(grid_kernel.cache_clear)  # else nanobind calls the cached kernels leaked when torch is there


def _common_grid(kernels: Sequence[Gaussian | Bilateral | Features]) -> tuple[int, int] | None:
    """(H, W) of kernels over images, or None; ValueError if two of them differ."""
    grids = [size for kernel in kernels if (size := _grid_size(kernel)) is not None]
    for other in grids[1:]:
        if other != grids[0] and math.prod(other) == math.prod(grids[0]):  # else the points tell
            is_swapped = other == grids[0][::-1]
            hint = "width and height are swapped, Gaussian takes (H, W)" if is_swapped else "wanted one size"
            raise ValueError(f"got kernels over images of (H, W) = {grids[0]} and {other}: {hint}")
    return grids[0] if grids else None


def _grid_size(kernel: Gaussian | Bilateral | Features) -> tuple[int, int] | None:
    """(H, W) of a kernel over an image, None for volumes and features."""
    if isinstance(kernel, Features):
        return None
    if isinstance(kernel, Bilateral):
        shape = np.shape(kernel.image)
        shape = shape[1:3] if len(shape) == 4 else shape[:2]
    else:
        shape = tuple(kernel.shape)
    return (int(shape[0]), int(shape[1])) if len(shape) == 2 else None


def _finite_weight(value: object) -> float:
    weight = float(real_number("weight", value))
    if not math.isfinite(weight):
        raise ValueError(f"got weight = {weight}, wanted a finite number")
    return weight
