"""A fully connected CRF with Gaussian pairwise terms over any points, solved by mean field."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from densecrf.arrays import as_numpy, kind_of
from densecrf.kernels import Bilateral, Features, Gaussian
from densecrf.pairwise import PairwiseTerms
from densecrf.threads import whole_number
from densecrf.unary import expected_unary_energy, real_array
from densecrf.user_warnings import warn_user
from densecrf.validation import fraction, real_number

MERGE_THRESHOLD = 0.1
"""Labels whose probability is nowhere higher share one message by default. At 500×375 with 21 labels this
changes probabilities by 1e-6 on average, by 5e-5 where noise lifts all labels (see the package's README)."""
CONVERGENCE_TOLERANCE = 1e-4
"""Default change of probability, per full step, below which a pixel is left out of the next two or three
steps. This starts with the third step, and the last step is a full one (effect: see the package's README)."""

Callback = Callable[[int, np.ndarray], object]


class DenseCRF:
    """A fully connected CRF with energy Σ_i U_i(x_i) + Σ_{i<j} μ(x_i, x_j) Σ_m w_m k_m(i, j).

    The kernels are prepared once. Any number of inferences can follow, also from several threads at a time. A
    model can be copied and pickled: what is stored are its images and features, from which a copy prepares
    its kernels again.

    Args:
        kernels: ``Gaussian``, ``Bilateral`` or ``Features`` over the same N points; a batch of images gives a
            batch.
        compatibility: μ. None is Potts (1 for unlike labels, else 0); (K,) how strongly each label attracts
            itself, in place of Potts's 1; (K, K) penalties for pairs of labels.
        normalization: "symmetric" (as pydensecrf), "after" (as the DeepLab release), "before" or "none".
        include_self: whether a pixel's own belief is part of its message, as in pydensecrf and the release;
            the papers' formula leaves it out.
        backend: "lattice" (permutohedral, linear in N), "accurate" (the same with a halo of vertices around
            the touched ones: about half the error in two to five times the time) or "exact" (quadratic in N).
        threads: maximum number of threads; by default, and at most, one for each processor that this process
            may use.
        merge_threshold: labels whose probability is nowhere higher than this share one message, and so do,
            in larger images, labels that noise lifts above it; as long as that changes little (see the
            package's README). 0 computes a message for every label.
        convergence_tolerance: pixels none of whose probabilities changes by more than this in a step are left
            out of the next two or three steps, unless a tolerance or a callback needs every step; 0 updates
            every pixel in every step.

    Raises:
        TypeError: for weights, standard deviations, thresholds or threads that are not numbers.
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
        self._merge_threshold = fraction("merge_threshold", merge_threshold)
        self._convergence_tolerance = fraction("convergence_tolerance", convergence_tolerance)
        options: dict[str, Any] = {
            "compatibility": None
            if compatibility is None
            else np.array(as_numpy("compatibility", compatibility)),
            "normalization": normalization,
            "include_self": include_self,
            "backend": backend,
            "threads": threads,
        }
        self._terms = PairwiseTerms(kernels, **options)
        savings = {"merge_threshold": merge_threshold, "convergence_tolerance": convergence_tolerance}
        self._arguments = {"kernels": [_own_copy(kernel) for kernel in kernels], **options, **savings}

    def __reduce__(self) -> tuple[object, ...]:
        """For ``pickle`` and ``copy``: the arguments, from which the model is built again."""
        return _rebuilt, (type(self), self._arguments)

    def infer(
        self,
        unary: ArrayLike,
        *,
        iterations: int = 10,
        tolerance: float | None = None,
        start: ArrayLike | None = None,
        callback: Callback | None = None,
    ) -> np.ndarray:
        """Approximate marginals of every point.

        Args:
            unary: (K, …) energies in nats, N = the product of the other axes; (B, K, …) for a batch. A
                label with the energy +inf is impossible; its marginal is 0.
            iterations: maximum number of steps.
            tolerance: stop as soon as no marginal changes by more than this in a step.
            start: marginals to start from, of unary's shape; by default the softmax of −unary.
            callback: called after each step with its number, from 1, and one image's marginals; a true return
                value stops the inference of that image.

        Returns:
            Marginals of unary's shape, float32; they sum to 1 over K. A tensor if unary is a tensor.

        Raises:
            TypeError: for iterations that are not an integer, or a tolerance that is not a number.
            ValueError: for shapes that do not fit, values that are not finite, or, on lattices, weights that,
                times the compatibility, are over 1e20.
        """
        iterations = whole_number("iterations", iterations)
        tolerance = None if tolerance is None else real_number("tolerance", tolerance)
        energies = real_array("unary energies", unary, allow_infinity=True)
        images, shape = self._split_images(energies)
        starts: Sequence[np.ndarray | None] = [None] * len(images)
        if start is not None:
            beginning = real_array("start", start)
            if beginning.shape != energies.shape:
                raise ValueError(f"got start {beginning.shape} and unary {energies.shape}, wanted one shape")
            starts = list(self._split_images(beginning)[0])
        report = None if callback is None else partial(_report, callback, shape)
        options = (iterations, tolerance, report)
        if images.shape[1] == 1:
            warn_user(
                "got energies of 1 label, whose marginals are 1 everywhere; for one foreground label p "
                "wanted two, unary_from_probabilities(np.stack([1 - p, p])), or refine(image, p)"
            )
        convert = kind_of(unary)
        if len(images) == 1:  # without a copy of the result
            return convert(self._infer_image(0, images[0], starts[0], *options).reshape(energies.shape))
        out = np.empty(images.shape, np.float32)
        for number, (image, first) in enumerate(zip(images, starts, strict=True)):
            out[number] = self._infer_image(number, image, first, *options)
        return convert(out.reshape(energies.shape))

    def map(self, unary: ArrayLike, *, iterations: int = 10) -> np.ndarray:
        """The label with the highest marginal at every point.

        Args:
            unary: (K, …) energies in nats; (B, K, …) for a batch.
            iterations: number of steps.

        Returns:
            Labels of unary's shape without K, int64; a tensor if unary is a tensor.
        """
        marginals = self.infer(as_numpy("unary energies", unary), iterations=iterations)
        return kind_of(unary)(marginals.argmax(axis=int(self._is_batch(marginals))))

    def energy(self, labels: ArrayLike, unary: ArrayLike) -> float | np.ndarray:
        """The energy E of a labelling; kernels are normalised as in inference, and each pair counts once.

        Args:
            labels: (…) integers from 0 to K − 1; (B, …) for a batch.
            unary: (K, …) energies; (B, K, …) for a batch.

        Returns:
            The energy in nats, or (B,) float64.

        Raises:
            ValueError: for shapes that do not fit, or labels out of range.
        """
        energies = real_array("unary energies", unary, allow_infinity=True)
        images, _ = self._split_images(energies)
        classes = images.shape[1]
        ids = np.asarray(labels)
        if ids.size * classes != images.size or ids.dtype.kind not in "iu":
            raise ValueError(
                f"got labels {ids.shape} of {ids.dtype} and unary {energies.shape}, "
                "wanted an integer for each point"
            )
        if ids.size and not (ids.min() >= 0 and ids.max() < classes):
            raise ValueError(f"got labels from {ids.min()} to {ids.max()}, wanted 0 to {classes - 1}")
        one_hot = (ids.reshape(len(images), 1, -1) == np.arange(classes)[:, None]).astype(np.float32)
        values = [
            self._expected_energy(number, q, image)
            for number, (q, image) in enumerate(zip(one_hot, images, strict=True))
        ]
        return np.array(values) if self._is_batch(energies) else values[0]

    def kl_divergence(self, marginals: ArrayLike, unary: ArrayLike) -> float | np.ndarray:
        """KL(Q ‖ P) up to the constant log Z: expected energy minus entropy, which mean field minimises.

        Args:
            marginals: Q, of unary's shape.
            unary: (K, …) energies; (B, K, …) for a batch.

        Returns:
            The divergence in nats, or (B,) float64.

        Raises:
            ValueError: for shapes that do not fit, or values that are not finite.
        """
        energies = real_array("unary energies", unary, allow_infinity=True)
        beliefs = real_array("marginals", marginals)
        if energies.shape != beliefs.shape:
            raise ValueError(f"got marginals {beliefs.shape} and unary {energies.shape}, wanted one shape")
        values = []
        images = zip(self._split_images(beliefs)[0], self._split_images(energies)[0], strict=True)
        for number, (q, image) in enumerate(images):
            entropy = -float((q * np.log(np.maximum(q, 1e-20))).sum(dtype=np.float64))
            values.append(self._expected_energy(number, q, image) - entropy)
        return np.array(values) if self._is_batch(energies) else values[0]

    def _is_batch(self, array: np.ndarray) -> bool:
        """Whether an array is (B, K, …): the kernels are a batch, or its size fits in no other way."""
        points = self._terms.points
        if self._terms.batch is not None or points is None:
            return self._terms.batch is not None
        return array.ndim > 2 and math.prod(array.shape[1:]) != points == math.prod(array.shape[2:])

    def _split_images(self, array: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        """(K, …) or (B, K, …) as (B, K, N), and the shape (K, …) of one image; ValueError for other sizes."""
        is_batch = self._is_batch(array)
        shape = array.shape[1:] if is_batch else array.shape
        count = len(array) if is_batch else 1
        points = math.prod(shape[1:])
        batch = self._terms.batch
        fits = self._terms.points in (None, points) and batch in (None, count)
        if len(shape) < 2 or shape[0] < 1 or not fits:
            expected = "(K, …)" if batch is None else f"({batch}, K, …)"
            raise ValueError(
                f"got an array {array.shape}, wanted {expected} with {self._terms.points} points "
                "and at least one label"
            )
        grid = self._terms.grid
        if grid is not None and len(shape) == 3 and shape[1:] == grid[::-1] != grid:
            raise ValueError(
                f"got an array {array.shape} and kernels over images of (H, W) = {grid}: width and height "
                "are swapped, wanted np.swapaxes(array, -1, -2)"
            )
        return array.reshape(count, shape[0], points), shape

    def _infer_image(
        self,
        image: int,
        unary: np.ndarray,
        start: np.ndarray | None,
        iterations: int,
        tolerance: float | None,
        report: Callback | None,
    ) -> np.ndarray:
        """Marginals (K, N) of one image."""
        if unary.size == 0:
            return unary
        field = self._terms.mean_field(
            unary,
            image=image,
            merge_threshold=self._merge_threshold,
            convergence_tolerance=self._convergence_tolerance,
        )
        if start is not None:
            field.start_from(start)
        if tolerance is None and report is None:
            field.run(iterations)
            return field.finish().astype(np.float32, copy=False)
        before = after = field.marginals()
        for step in range(1, iterations + 1):
            field.run(1)
            after = field.marginals()
            if report is not None and report(step, after):
                break
            if tolerance is not None and np.abs(after - before).max() <= tolerance:
                break
            before = after
        return after.astype(np.float32, copy=False)

    def _expected_energy(self, image: int, marginals: np.ndarray, unary: np.ndarray) -> float:
        """The expectation of the energy under (K, N) marginals, in nats."""
        return expected_unary_energy(marginals, unary) + self._terms.expected_energy(marginals, image=image)


def _own_copy(kernel: Gaussian | Bilateral | Features) -> Gaussian | Bilateral | Features:
    """A kernel whose array the caller cannot change."""
    if isinstance(kernel, Bilateral):
        return replace(kernel, image=np.array(as_numpy("image", kernel.image)))
    if isinstance(kernel, Features):
        return replace(kernel, values=np.array(as_numpy("features", kernel.values)))
    return kernel


def _rebuilt(model: type[DenseCRF], arguments: dict[str, Any]) -> DenseCRF:
    return model(**arguments)


def _report(callback: Callback, shape: tuple[int, ...], step: int, marginals: np.ndarray) -> object:
    """Call a callback with the marginals of one image in the caller's shape."""
    return callback(step, marginals.reshape(shape).astype(np.float32))
