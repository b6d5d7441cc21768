"""Class scores made consistent with the edges of a photo, in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from densecrf.arrays import as_numpy, kind_of
from densecrf.crf import CONVERGENCE_TOLERANCE, MERGE_THRESHOLD, DenseCRF
from densecrf.kernels import Bilateral, Gaussian
from densecrf.pairwise import PairwiseTerms
from densecrf.params import Params
from densecrf.scores import ALIGNMENTS, KINDS, two_labels, unary_term, upsampled
from densecrf.threads import whole_number
from densecrf.unary import unary_from_probabilities
from densecrf.validation import one_of


def refine(
    image: ArrayLike,
    scores: ArrayLike,
    *,
    kind: str = "probabilities",
    upsample: bool | str = False,
    params: Params | None = None,
    iterations: int = 10,
    threads: int | None = None,
    backend: str = "lattice",
    origin: tuple[int, int] = (0, 0),
) -> Any:
    """Make class scores consistent with the edges of the photo they belong to.

    Args:
        image: (H, W, C) or (H, W), the raw photo in 0–255 levels (any real type); (B, H, W, C) for a batch.
        scores: (K, H, W) with K of at least 2; (B, K, H, W) for a batch. Or of the foreground alone, (H, W);
            (B, H, W) for a batch. NumPy arrays, tensors and arrays of other libraries in the CPU's memory.
        kind: "probabilities" from 0 to 1, "logits" (before the softmax; before the sigmoid for the foreground
            alone) or "energies" (−log p). Probabilities that do not sum to 1 over K are divided by their
            sum, with a warning.
        upsample: whether scores of another size, (K, h, w), are enlarged to the image's size by bilinear
            interpolation. True or "centers" is PyTorch's ``align_corners=False``; "corners" is
            ``align_corners=True``.
        params: weights and widths; ``Params()`` by default.
        iterations: number of mean-field steps; the paper uses 10.
        threads: maximum number of threads; by default, and at most, one for each processor that this process
            may use.
        backend: "lattice" (permutohedral, linear in pixels), "accurate" (the same, half the error, two to
            five times the time) or "exact" (quadratic: for small images and for checks).
        origin: (y, x) of the first pixel if the image is a window of a larger one. The window then has the
            same lattice as the whole, and the same marginals far from the window's edges.

    Returns:
        Marginals (K, H, W), float32, that sum to 1 over K; ``.argmax(0)`` is the label map. For foreground
        scores (H, W) the marginals of the foreground. A tensor if ``scores`` is a tensor.

    Raises:
        TypeError: for iterations or threads that are not integers, or params that are not ``Params``.
        ValueError: for shapes that do not fit, values that are not finite or not of their kind, weights over
            1e20, or an unknown option.
        MemoryError: if the image is too large for the memory that is free.

    Source: DeepLab, section 3.3; Krähenbühl and Koltun 2011.
    """
    if params is None:
        params = Params()
    elif not isinstance(params, Params):
        raise TypeError(f"got params = {params!r}, wanted densecrf.Params or None")
    options = _Options(
        kind=one_of("kind", kind, KINDS),
        alignment=_alignment(upsample),
        params=params,
        iterations=whole_number("iterations", iterations),
        threads=threads,
        backend=backend,
        origin=origin,
    )
    photo = as_numpy("image", image)
    values = as_numpy("scores", scores)
    _check_shapes(photo, values, options)
    convert = kind_of(scores)
    if photo.ndim < 4:
        return convert(_refine_photo(photo, values, options))
    out = np.empty((*values.shape[:-2], *photo.shape[1:3]), np.float32)
    for number, (one_photo, one_map) in enumerate(zip(photo, values, strict=True)):
        out[number] = _refine_photo(one_photo, one_map, options)
    return convert(out)


@dataclass(frozen=True)
class _Options:
    """The checked options of ``refine``; ``alignment`` is None if scores are not to be enlarged."""

    kind: str
    alignment: str | None
    params: Params
    iterations: int
    threads: int | None
    backend: str
    origin: tuple[int, int]


def _alignment(upsample: bool | str) -> str | None:
    if isinstance(upsample, bool | np.bool_):
        return ALIGNMENTS[0] if upsample else None
    return one_of("upsample", upsample, ALIGNMENTS)


def _check_shapes(photo: np.ndarray, scores: np.ndarray, options: _Options) -> None:
    """ValueError unless the arrays are a photo and its class scores, or a batch of both."""
    name, is_batch = options.kind, photo.ndim == 4
    if photo.ndim not in (2, 3, 4) or scores.ndim not in (2 + is_batch, 3 + is_batch):
        raise ValueError(
            f"got an image {photo.shape} and {name} {scores.shape}, wanted (H, W, 3) and (K, H, W), or (H, "
            "W) of the foreground alone; (B, H, W, 3) and (B, K, H, W) for a batch"
        )
    size = photo.shape[is_batch : 2 + is_batch]
    fits = options.alignment is not None and 0 not in scores.shape[-2:]
    if not (fits or scores.shape[-2:] == size) or (is_batch and len(photo) != len(scores)):
        raise ValueError(
            f"got an image {photo.shape} and {name} {scores.shape}, wanted (H, W, 3) and (K, H, W)"
            f"{_advice(photo, scores, size)}"
        )
    labels = scores.shape[-3] if scores.ndim == 3 + is_batch else 2
    if labels < 1:
        raise ValueError(f"got {name} {scores.shape}, wanted (K, H, W) with K of at least 1")
    if labels == 1:
        raise ValueError(
            f"got {name} {scores.shape} of 1 label, whose marginals are 1 everywhere; for the probability "
            "p of the foreground wanted (H, W), such as scores[0], or both labels, np.stack([1 - p, p])"
        )


def _advice(photo: np.ndarray, scores: np.ndarray, size: tuple[int, ...]) -> str:
    """What would make shapes fit, if that is plain from them."""
    if scores.shape[-3:-1] == size:
        return "; the labels come first: np.moveaxis(scores, -1, -3)"
    if photo.ndim >= 3 and photo.shape[-2:] == scores.shape[-2:]:
        return "; the channels come last: np.moveaxis(image, -3, -1)"
    if scores.shape[-2:] == size[::-1]:
        return "; width and height are swapped: np.swapaxes(scores, -1, -2)"
    if scores.ndim >= 2 and all(
        0 < part <= whole for part, whole in zip(scores.shape[-2:], size, strict=True)
    ):
        return "; for coarse scores upsample=True (--upsample)"
    return ""


def _refine_photo(photo: np.ndarray, scores: np.ndarray, options: _Options) -> np.ndarray:
    """Marginals of one photo: (K, H, W), or (H, W) of the foreground."""
    is_foreground = scores.ndim == 2
    if is_foreground:
        scores = two_labels(scores, options.kind)
    if options.alignment is not None and scores.shape[1:] != photo.shape[:2]:
        scores = upsampled(scores, photo.shape[:2], options.alignment)
    marginals = _marginals(photo, scores, options)
    return np.ascontiguousarray(marginals[1]) if is_foreground else marginals


def _marginals(photo: np.ndarray, scores: np.ndarray, options: _Options) -> np.ndarray:
    """Marginals (K, H, W) of one photo."""
    params = options.params
    kernels = _kernels(photo, params, options.origin)
    terms: dict[str, Any] = {
        "normalization": params.normalization,
        "backend": options.backend,
        "threads": options.threads,
    }
    values, floor = unary_term(scores, options.kind)
    if options.backend == "exact" or values.size == 0:
        unary = unary_from_probabilities(values, floor=floor, threads=options.threads) if floor else values
        crf = DenseCRF(kernels, **terms)
        return crf.infer(unary, iterations=options.iterations) if unary.size else unary
    prepared = PairwiseTerms(kernels, **terms)
    field = prepared.mean_field(
        np.ascontiguousarray(values).reshape(len(values), -1),  # a copy as energies would double the memory
        floor=floor,
        merge_threshold=MERGE_THRESHOLD,
        convergence_tolerance=CONVERGENCE_TOLERANCE,
    )
    del prepared  # so that finish() can free the kernels before it makes the result
    field.run(options.iterations)
    return field.finish().reshape(scores.shape)


def _kernels(photo: np.ndarray, params: Params, origin: tuple[int, int]) -> list[Gaussian | Bilateral]:
    """The smoothness and the appearance kernel, without those of weight 0."""
    size = (photo.shape[0], photo.shape[1])
    smoothness = Gaussian(size, params.smoothness_xy_std, params.smoothness_weight, origin)
    appearance = Bilateral(
        photo, params.appearance_xy_std, params.appearance_rgb_std, params.appearance_weight, origin
    )
    return [kernel for kernel in (smoothness, appearance) if kernel.weight > 0]
