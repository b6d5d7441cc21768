"""A fully connected CRF: any Gaussian pairwise terms over any points, solved by mean field."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
from numpy.typing import ArrayLike

from densecrf import exact, lattice
from densecrf.kernels import Bilateral, Features, Gaussian
from densecrf.params import NORMALIZATIONS, Params
from densecrf.threads import thread_count, whole_number
from densecrf.unary import FLOOR, real_array, unary_from_probabilities

BACKENDS = ("lattice", "accurate", "exact")
MERGE_THRESHOLD = 0.1
"""Labels whose probability is nowhere higher share one message by default; on noisy maps of 21 labels this
changes no probability by more than 5e-3, and by no more than 1e-6 on the mean (see the package's README)."""
CONVERGENCE_TOLERANCE = 1e-4
"""From the third step on, pixels none of whose probabilities moved by more in a full step rest for two or
three steps, by default; the last step is a full one (measured differences in the package's README)."""

GRID_POINTS_KEPT = 2**19
"""Smoothness kernels over no more points are kept for the next image of their size (about 50 bytes a
point)."""


class DenseCRF:
    """A fully connected CRF with energy Σ_i U_i(x_i) + Σ_{i<j} μ(x_i, x_j) Σ_m w_m k_m(i, j).

    The kernels are prepared once; any number of inferences can follow, from several threads at a time.

    Args:
        kernels: ``Gaussian``, ``Bilateral`` or ``Features`` over the same N points; a batch of images gives a
            batch.
        compatibility: μ. None is Potts (1 for unlike labels, else 0); (K,) how strongly each label attracts
            itself, in place of Potts's 1; (K, K) penalties for pairs of labels.
        normalization: "symmetric" (as pydensecrf), "after" (as the DeepLab release), "before" or "none".
        include_self: whether a pixel's own belief is part of its message, as in pydensecrf and the release;
            the papers' formula leaves it out.
        backend: "lattice" (permutohedral, linear in N), "accurate" (the same with a ring of vertices around
            the touched
            ones: about half the error for two to five times the time) or "exact" (quadratic in N).
        threads: the most to use; by default, and at most, as many as there are processors that this process
            may run on.
        merge_threshold: labels whose probability is nowhere higher than this share one message, as long as
            that changes next to nothing; 0 keeps all apart.
        convergence_tolerance: pixels none of whose probabilities moves by more than this in a step rest for
            two or three steps, if no tolerance or callback asks for each step; 0: none rests.

    Raises:
        ValueError: for unknown options, or kernels that do not fit each other.
        MemoryError: if the lattices do not fit.

    Source: Krähenbühl and Koltun 2011; DeepLab, section 3.3.
    """

    def __init__(
        self,
        kernels: Sequence[Gaussian | Bilateral | Features],
        *,
        compatibility: ArrayLike | None = None,
        normalization: str = "symmetric",
        include_self: bool = True,
        backend: str = "lattice",
        threads: int | None = None,
        merge_threshold: float = MERGE_THRESHOLD,
        convergence_tolerance: float = CONVERGENCE_TOLERANCE,
    ):
        if backend not in BACKENDS:
            raise ValueError(f"got backend {backend!r}, wanted one of: {', '.join(BACKENDS)}")
        if normalization not in NORMALIZATIONS:
            raise ValueError(
                f"got normalization {normalization!r}, wanted one of: {', '.join(NORMALIZATIONS)}"
            )
        if not 0 <= merge_threshold < 1:
            raise ValueError(f"got merge_threshold = {merge_threshold}, wanted at least 0 and under 1")
        if not 0 <= convergence_tolerance < 1:
            raise ValueError(
                f"got convergence_tolerance = {convergence_tolerance}, wanted at least 0 and under 1"
            )
        self._compatibility = None if compatibility is None else real_array("compatibility", compatibility)
        self._backend, self._merge_threshold, self._convergence_tolerance = (
            backend,
            merge_threshold,
            convergence_tolerance,
        )
        self._rings = int(backend == "accurate")
        self._threads = thread_count(threads)
        self._weights = [float(real_array("weights", kernel.weight)) for kernel in kernels]
        self._points: int | None = None
        self._batch: int | None = None
        self._kernels = [self._prepare(kernel, normalization, include_self) for kernel in kernels]

    def infer(
        self,
        unary: ArrayLike,
        *,
        iterations: int = 10,
        tolerance: float | None = None,
        start: ArrayLike | None = None,
        callback: Callable[[int, np.ndarray], object] | None = None,
    ) -> np.ndarray:
        """Approximate marginals of every point.

        Args:
            unary: (K, …) energies in nats, N = the product of the other axes; (B, K, …) for a batch.
            iterations: the most steps to take.
            tolerance: stop as soon as no marginal changes by more than this in a step.
            start: marginals to start from, of unary's shape; by default the softmax of −unary.
            callback: called after each step with its number, from 1, and one image's marginals; a true answer
                stops.

        Returns:
            Marginals of unary's shape, float32; they sum to 1 over K.

        Raises:
            ValueError: for shapes that do not fit, values that are not finite, or, on lattices, weights that,
                times the compatibility, are over 1e20.
        """
        iterations = whole_number("iterations", iterations)
        energies = real_array("unary energies", unary)
        flat, shape = self._images(energies)
        starts: Sequence[np.ndarray | None] = [None] * len(flat)
        if start is not None:
            begin = real_array("start", start)
            if begin.shape != energies.shape:
                raise ValueError(f"got start {begin.shape} and unary {energies.shape}, wanted one shape")
            starts = list(self._images(begin)[0])
        tell = None if callback is None else partial(_tell, callback, shape)
        if len(flat) == 1:  # spares a copy
            return self._infer_one(0, flat[0], starts[0], iterations, tolerance, tell).reshape(energies.shape)
        out = np.empty(flat.shape, np.float32)
        for image, (one, first) in enumerate(zip(flat, starts, strict=True)):
            out[image] = self._infer_one(image, one, first, iterations, tolerance, tell)
        return out.reshape(energies.shape)

    def _finish(self, probabilities: np.ndarray, iterations: int) -> np.ndarray:
        """``infer`` of one image's probabilities (K, N) by lattice, after which the kernels are gone.

        Neither a copy of all planes as energies is made, nor are kernels and result held at one time.
        """
        kernels = [terms[0] for terms in self._kernels]
        self._kernels = []
        field = lattice.MeanField(
            probabilities,
            kernels,  # type: ignore[arg-type]
            self._strengths(len(probabilities)),
            merge_threshold=self._merge_threshold,
            convergence_tolerance=self._convergence_tolerance,
            threads=self._threads,
            floor=FLOOR,
        )
        del kernels
        field.run(iterations)
        return field.finish()

    def map(self, unary: ArrayLike, *, iterations: int = 10) -> np.ndarray:
        """The label of highest marginal at every point: unary's shape without K, int64. Arguments as in
        ``infer``."""
        marginals = self.infer(unary, iterations=iterations)
        return marginals.argmax(axis=int(self._is_batch(marginals)))

    def energy(self, labels: ArrayLike, unary: ArrayLike) -> float | np.ndarray:
        """E of a labelling; the kernels are normalised as in inference, and each pair counts once.

        Args:
            labels: (…) integers from 0 to K − 1; (B, …) for a batch.
            unary: (K, …) energies; (B, K, …) for a batch.

        Returns:
            The energy in nats, or (B,) float64.

        Raises:
            ValueError: for shapes that do not fit, or labels out of range.
        """
        energies = real_array("unary energies", unary)
        flat, _ = self._images(energies)
        ids = np.asarray(labels)
        if ids.size * flat.shape[1] != flat.size or ids.dtype.kind not in "iu":
            raise ValueError(
                f"got labels {ids.shape} of {ids.dtype} and unary {energies.shape}, wanted an id a point"
            )
        if ids.size and not (ids.min() >= 0 and ids.max() < flat.shape[1]):
            raise ValueError(f"got labels from {ids.min()} to {ids.max()}, wanted 0 to {flat.shape[1] - 1}")
        sure = (ids.reshape(len(flat), 1, -1) == np.arange(flat.shape[1])[:, None]).astype(np.float32)
        values = [
            self._expected_energy(image, q, one)
            for image, (q, one) in enumerate(zip(sure, flat, strict=True))
        ]
        return np.array(values) if self._is_batch(energies) else values[0]

    def kl_divergence(self, marginals: ArrayLike, unary: ArrayLike) -> float | np.ndarray:
        """KL(Q ‖ P) up to the constant log Z: expected energy minus entropy, in nats; what mean field makes
        small.

        Args:
            marginals: Q, of unary's shape.
            unary: (K, …) energies; (B, K, …) for a batch.

        Returns:
            The divergence, or (B,) float64.
        """
        energies, beliefs = real_array("unary energies", unary), real_array("marginals", marginals)
        if energies.shape != beliefs.shape:
            raise ValueError(f"got marginals {beliefs.shape} and unary {energies.shape}, wanted one shape")
        values = []
        pairs = zip(self._images(beliefs)[0], self._images(energies)[0], strict=True)
        for image, (q, one) in enumerate(pairs):
            entropy = -float((q * np.log(np.maximum(q, 1e-20))).sum(dtype=np.float64))
            values.append(self._expected_energy(image, q, one) - entropy)
        return np.array(values) if self._is_batch(energies) else values[0]

    def _prepare(
        self, kernel: Gaussian | Bilateral | Features, normalization: str, include_self: bool
    ) -> list[exact.Kernel | lattice.Kernel]:
        """One prepared kernel, or one for each image of a batch."""
        if (
            isinstance(kernel, Gaussian)
            and self._backend != "exact"
            and math.prod(kernel.shape) <= GRID_POINTS_KEPT
        ):
            self._check_size(math.prod(kernel.shape), None)
            plan = Gaussian(kernel.shape, kernel.xy_std, origin=kernel.origin)  # whatever its weight
            return [_grid_kernel(plan, normalization, include_self, self._rings, self._threads)]
        features = kernel.features()
        self._check_size(features.shape[-2], len(features) if features.ndim == 3 else None)
        images = features if features.ndim == 3 else features[None]
        if self._backend == "exact":
            return [exact.Kernel(one, normalization, include_self) for one in images]
        return [
            lattice.Kernel(one, normalization, include_self, rings=self._rings, threads=self._threads)
            for one in images
        ]

    def _check_size(self, points: int, batch: int | None) -> None:
        if self._points not in (None, points) or (batch and self._batch not in (None, batch)):
            raise ValueError(
                f"got kernels over {sorted({self._points or points, points})} points and batches of "
                f"{sorted({self._batch or 1, batch or 1})}, wanted one size"
            )
        self._points = points
        self._batch = batch or self._batch

    def _is_batch(self, array: np.ndarray) -> bool:
        """Whether an array is (B, K, …): the kernels are a batch, or only so does its size fit."""
        if self._batch is not None or self._points is None:
            return self._batch is not None
        return array.ndim > 2 and math.prod(array.shape[1:]) != self._points == math.prod(array.shape[2:])

    def _images(self, array: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        """(K, …) or (B, K, …) as (B, K, N), and the shape (K, …) of one; ValueError if it does not fit the
        kernels."""
        batch = self._is_batch(array)
        shape = array.shape[1:] if batch else array.shape
        count = len(array) if batch else 1
        points = math.prod(shape[1:])
        fits = self._points in (None, points) and self._batch in (None, count)
        if len(shape) < 2 or shape[0] < 1 or not fits:
            wanted = "(K, …)" if self._batch is None else f"({self._batch}, K, …)"
            raise ValueError(
                f"got an array {array.shape}, wanted {wanted} with {self._points} points and a label or more"
            )
        return array.reshape(count, shape[0], points), shape

    def _strengths(self, labels: int) -> list[np.ndarray]:
        """For each kernel (K,) or (K, K): what its messages add to the logits."""
        mu = self._compatibility
        if mu is None:
            return [np.full(labels, weight) for weight in self._weights]
        if mu.shape not in ((labels,), (labels, labels)):
            raise ValueError(
                f"got compatibility {mu.shape} and {labels} labels, wanted ({labels},) or ({labels}, {labels})"
            )
        with np.errstate(over="ignore"):  # what does not fit becomes infinite and is refused
            return [weight * mu if mu.ndim == 1 else -weight * mu for weight in self._weights]

    def _infer_one(
        self,
        image: int,
        unary: np.ndarray,
        start: np.ndarray | None,
        iterations: int,
        tolerance: float | None,
        tell: Callable[[int, np.ndarray], object] | None,
    ) -> np.ndarray:
        if unary.size == 0:
            return unary
        kernels = [terms[image % len(terms)] for terms in self._kernels]
        strengths = self._strengths(len(unary))
        field: exact.MeanField | lattice.MeanField
        if self._backend == "exact":
            field = exact.MeanField(unary, kernels, strengths)  # type: ignore[arg-type]
        else:
            field = lattice.MeanField(
                unary,
                kernels,  # type: ignore[arg-type]
                strengths,
                merge_threshold=self._merge_threshold,
                convergence_tolerance=self._convergence_tolerance,
                threads=self._threads,
            )
        if start is not None:
            field.start_from(start)
        if tolerance is None and tell is None:
            field.run(iterations)
            return field.finish().astype(np.float32, copy=False)
        before = after = field.marginals()
        for step in range(1, iterations + 1):
            field.run(1)
            after = field.marginals()
            if tell is not None and tell(step, after):
                break
            if tolerance is not None and np.abs(after - before).max() <= tolerance:
                break
            before = after
        return after.astype(np.float32, copy=False)

    def _expected_energy(self, image: int, q: np.ndarray, unary: np.ndarray) -> float:
        """Σ Q U + ½ Σ_m w_m Σ_ij k_m(i, j) Σ_kl Q_i(k) μ(k, l) Q_j(l)."""
        total = float((q * unary).sum(dtype=np.float64))
        for terms, weight in zip(self._kernels, self._weights, strict=True):
            kernel = terms[image % len(terms)]
            message = kernel.filter(np.ascontiguousarray(q.T)).T
            mu = self._compatibility
            if mu is not None and mu.ndim == 2:
                total += 0.5 * weight * float((q * (mu @ message)).sum(dtype=np.float64))
                continue
            attraction = 1.0 if mu is None else mu[:, None]
            pairs = kernel.filter(np.ones((q.shape[1], 1))).sum(dtype=np.float64) if mu is None else 0.0
            total += 0.5 * weight * float(pairs - (q * attraction * message).sum(dtype=np.float64))
        return total


def _tell(
    callback: Callable[[int, np.ndarray], object], shape: tuple[int, ...], step: int, marginals: np.ndarray
) -> object:
    return callback(step, marginals.reshape(shape).astype(np.float32))


def refine(
    image: ArrayLike,
    probabilities: ArrayLike,
    *,
    params: Params | None = None,
    iterations: int = 10,
    threads: int | None = None,
    backend: str = "lattice",
    origin: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Class probabilities made consistent with the edges of the photo they belong to.

    Args:
        image: (H, W, C) or (H, W), the raw photo in 0–255 levels (any real type); (B, H, W, C) for a batch.
        probabilities: (K, H, W) real, finite, not negative; (B, K, H, W) for a batch.
        params: weights and widths; ``Params()`` by default.
        iterations: mean-field steps; the paper uses 10.
        threads: the most to use; by default, and at most, as many as there are processors that this process
            may run on.
        backend: "lattice" (permutohedral, linear in pixels), "accurate" (the same, half the error, two to
            five times the time) or "exact" (quadratic: for small images and for checks).
        origin: (y, x) of the first pixel, where the image is a window of a larger one: its lattice is then
            the whole's, so that far from the window's edges marginals are the whole's, too.

    Returns:
        Marginals of probabilities' shape, float32, that sum to 1 over K; ``.argmax(0)`` is the label map.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, weights over 1e20, or an unknown
            backend.
        MemoryError: if the image is too large for the memory at hand.

    Source: DeepLab, section 3.3; Krähenbühl and Koltun 2011.
    """
    params = params or Params()
    iterations = whole_number("iterations", iterations)
    photo, scores = np.asarray(image), np.asarray(probabilities)
    batch = scores.ndim == 4
    if scores.ndim not in (3, 4) or scores.shape[batch] < 1:
        raise ValueError(f"got probabilities {scores.shape}, wanted (K, H, W) with K of at least 1")
    size = scores.shape[1 + batch :]
    fits = photo.shape[batch : 2 + batch] == size and (not batch or photo.shape[0] == scores.shape[0])
    if photo.ndim not in ((4,) if batch else (2, 3)) or not fits:
        raise ValueError(
            f"got an image {photo.shape} and probabilities {scores.shape}, wanted (H, W, 3) and (K, H, W)"
        )
    if batch:
        out = np.empty(scores.shape, np.float32)
        for one, its_photo, its_scores in zip(out, photo, scores, strict=True):
            one[...] = refine(
                its_photo,
                its_scores,
                params=params,
                iterations=iterations,
                threads=threads,
                backend=backend,
                origin=origin,
            )
        return out
    kernels = [
        kernel
        for kernel in (
            Gaussian((size[0], size[1]), params.smoothness_xy_std, params.smoothness_weight, origin),
            Bilateral(
                photo, params.appearance_xy_std, params.appearance_rgb_std, params.appearance_weight, origin
            ),
        )
        if kernel.weight > 0
    ]
    if backend == "exact" or scores.size == 0 or scores.dtype.kind not in "fiub":
        unary = unary_from_probabilities(scores, threads=threads)
        crf = DenseCRF(kernels, normalization=params.normalization, backend=backend, threads=threads)
        return crf.infer(unary, iterations=iterations) if unary.size else unary
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is found
        planes = np.ascontiguousarray(scores, np.float32).reshape(len(scores), -1)
    crf = DenseCRF(kernels, normalization=params.normalization, backend=backend, threads=threads)
    try:
        return crf._finish(planes, iterations).reshape(scores.shape)
    except ValueError:
        unary_from_probabilities(scores)  # says what is wrong with them
        raise


@lru_cache(maxsize=2)
def _grid_kernel(
    grid: Gaussian, normalization: str, include_self: bool, rings: int, threads: int
) -> lattice.Kernel:
    """A smoothness kernel; the last two are kept, as photos of a set often share their size."""
    return lattice.Kernel(grid.features(), normalization, include_self, rings=rings, threads=threads)
