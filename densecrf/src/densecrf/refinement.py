"""Class probabilities made consistent with the edges of a photo, in one call."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from densecrf.crf import CONVERGENCE_TOLERANCE, MERGE_THRESHOLD, DenseCRF
from densecrf.kernels import Bilateral, Gaussian
from densecrf.pairwise import PairwiseTerms
from densecrf.params import Params
from densecrf.threads import whole_number
from densecrf.unary import FLOOR, unary_from_probabilities


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
    """Make class probabilities consistent with the edges of the photo they belong to.

    Args:
        image: (H, W, C) or (H, W), the raw photo in 0–255 levels (any real type); (B, H, W, C) for a batch.
        probabilities: (K, H, W) real, finite, not negative; (B, K, H, W) for a batch.
        params: weights and widths; ``Params()`` by default.
        iterations: number of mean-field steps; the paper uses 10.
        threads: maximum number of threads; by default, and at most, one for each processor that this process
            may use.
        backend: "lattice" (permutohedral, linear in pixels), "accurate" (the same, half the error, two to
            five times the time) or "exact" (quadratic: for small images and for checks).
        origin: (y, x) of the first pixel if the image is a window of a larger one. The window then has the
            same lattice as the whole, and the same marginals far from the window's edges.

    Returns:
        Marginals of probabilities' shape, float32, that sum to 1 over K; ``.argmax(0)`` is the label map.

    Raises:
        TypeError: for iterations or threads that are not integers, or params that are not ``Params``.
        ValueError: for shapes that do not fit, values that are not finite, weights over 1e20, or an unknown
            backend.
        MemoryError: if the image is too large for the memory that is free.

    Source: DeepLab, section 3.3; Krähenbühl and Koltun 2011.
    """
    if params is None:
        params = Params()
    elif not isinstance(params, Params):
        raise TypeError(f"got params = {params!r}, wanted densecrf.Params or None")
    iterations = whole_number("iterations", iterations)
    photo = np.asarray(image)
    scores = np.asarray(probabilities)
    _check_shapes(photo, scores)
    options = (params, iterations, threads, backend, origin)
    if scores.ndim == 3:
        return _refine_photo(photo, scores, *options)
    out = np.empty(scores.shape, np.float32)
    for number, (one_photo, one_scores) in enumerate(zip(photo, scores, strict=True)):
        out[number] = _refine_photo(one_photo, one_scores, *options)
    return out


def _check_shapes(photo: np.ndarray, scores: np.ndarray) -> None:
    """ValueError unless the arrays are a photo and its class probabilities, or a batch of both."""
    is_batch = scores.ndim == 4
    if scores.ndim not in (3, 4) or scores.shape[is_batch] < 1:
        raise ValueError(f"got probabilities {scores.shape}, wanted (K, H, W) with K of at least 1")
    fits = (
        photo.ndim in ((4,) if is_batch else (2, 3))
        and photo.shape[is_batch : 2 + is_batch] == scores.shape[-2:]
    )
    if not fits or (is_batch and len(photo) != len(scores)):
        raise ValueError(
            f"got an image {photo.shape} and probabilities {scores.shape}, wanted (H, W, 3) and (K, H, W)"
        )


def _refine_photo(
    photo: np.ndarray,
    scores: np.ndarray,
    params: Params,
    iterations: int,
    threads: int | None,
    backend: str,
    origin: tuple[int, int],
) -> np.ndarray:
    """Marginals (K, H, W) of one photo."""
    kernels = _kernels(photo, params, origin)
    if backend == "exact" or scores.size == 0 or scores.dtype.kind not in "fiub":
        unary = unary_from_probabilities(scores, threads=threads)
        crf = DenseCRF(kernels, normalization=params.normalization, backend=backend, threads=threads)
        return crf.infer(unary, iterations=iterations) if unary.size else unary
    with np.errstate(over="ignore"):  # values that overflow become infinite, and are refused as such
        planes = np.ascontiguousarray(scores, np.float32).reshape(len(scores), -1)
    terms = PairwiseTerms(kernels, normalization=params.normalization, backend=backend, threads=threads)
    try:
        field = terms.mean_field(
            planes,  # as they are: a copy of all planes as energies would double the memory
            floor=FLOOR,
            merge_threshold=MERGE_THRESHOLD,
            convergence_tolerance=CONVERGENCE_TOLERANCE,
        )
        del terms  # so that finish() can free the kernels before it makes the result
        field.run(iterations)
        return field.finish().reshape(scores.shape)
    except ValueError:
        unary_from_probabilities(scores)  # raises an error that says what is wrong with the probabilities
        raise


def _kernels(photo: np.ndarray, params: Params, origin: tuple[int, int]) -> list[Gaussian | Bilateral]:
    """The smoothness and the appearance kernel, without those of weight 0."""
    size = (photo.shape[0], photo.shape[1])
    smoothness = Gaussian(size, params.smoothness_xy_std, params.smoothness_weight, origin)
    appearance = Bilateral(
        photo, params.appearance_xy_std, params.appearance_rgb_std, params.appearance_weight, origin
    )
    return [kernel for kernel in (smoothness, appearance) if kernel.weight > 0]
