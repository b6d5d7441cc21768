"""Object masks whose boundary is moved to the edges of a photo: a CRF of two labels in a narrow band."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from densecrf.crf import DenseCRF
from densecrf.kernels import Features
from densecrf.mask_band import Band, reduced, replaced
from densecrf.params import Params
from densecrf.threads import whole_number

MASK_PARAMS = Params(
    appearance_weight=6, appearance_xy_std=20, appearance_rgb_std=6, smoothness_weight=2, smoothness_xy_std=2
)
"""Default parameters, chosen on masks from the scores of a network, see results/sharpen.md."""
RADIUS_PER_DIAGONAL = 0.018
"""Default radius as a share of the image's diagonal: 11 pixels at 500×375, 90 at 4000×3000."""
MIN_RADIUS = 4
"""Minimum of the default radius in pixels."""
MAX_RADIUS = 16
"""Maximum radius of a band in pixels; for a larger radius the image is reduced first."""
MAX_FACTOR = 4
"""Maximum factor of one reduction."""
CONFIDENCE = 0.95
"""Maximum probability with which the given mask is believed within the band."""

Infer = Callable[[np.ndarray, Band, np.ndarray], np.ndarray]


def sharpen(
    image: ArrayLike,
    mask: ArrayLike,
    *,
    radius: int | None = None,
    params: Params = MASK_PARAMS,
    iterations: int = 5,
    threads: int | None = None,
) -> np.ndarray:
    """Move the boundary of an object mask to the edges of the photo.

    For masks that are right but for their outline: from a network of low resolution, upsampled, or drawn by
    hand. Only pixels within ``radius`` of the boundary can change, so time and memory depend more on the
    length of the boundary than on the size of the image. Two runs give the same bits.

    Args:
        image: (H, W, 3) or (H, W) uint8, the photo, not normalised.
        mask: (H, W), one object: bool; integers 0 and 1, or 0 and 255; or foreground probabilities in [0, 1].
            Probabilities that are all 0 or 1 are treated as a mask of integers.
        radius: distance in pixels by which the boundary may move; by default 1.8 % of the image's diagonal,
            and at least 4. Where the mask may be wrong by more, e.g. if it was upsampled by a large factor, a
            larger radius helps.
        params: weights and widths of the kernels; unlike those of ``refine``, the widths of the default fit
            a narrow band. For a large radius they are pixels of the reduced image.
        iterations: number of mean-field steps.
        threads: maximum number of threads; by default one for each processor that this process may use.

    Returns:
        The mask of the same shape and dtype, with the same two values, or with probabilities if these were
        given: near the boundary those of the CRF, and towards the edge of the band more and more the given
        ones.

    Raises:
        TypeError: for a radius, iterations or threads that are not integers, or params that are not
            ``Params``.
        ValueError: for shapes or dtypes that do not fit, or a mask with other values.
        MemoryError: if the band does not fit into memory.

    Source: the CRF is that of Krähenbühl and Koltun 2011; the band and its parameters are our own choice.
    """
    if not isinstance(params, Params):
        raise TypeError(f"got params = {params!r}, wanted densecrf.Params")
    photo = _checked_image(image)
    given = _checked_mask(mask, photo.shape[:2])
    steps = whole_number("iterations", iterations)
    infer = partial(_foreground_marginals, params=params, iterations=steps, threads=threads)
    reach = _checked_radius(radius, photo.shape[:2])
    if _is_soft(given):
        soft = given.astype(np.float32)
        sharp = _sharpened(photo, soft, reach, infer)
        return np.where(sharp == soft, given, sharp.astype(given.dtype))  # exactly as given where unchanged
    sharp = _sharpened(photo, given != 0, reach, infer)
    return sharp if given.dtype == bool else np.where(sharp, given.max(initial=0), 0).astype(given.dtype)


def _sharpened(image: np.ndarray, mask: np.ndarray, radius: int, infer: Infer) -> np.ndarray:
    """The sharpened mask (H, W), bool or float32 as it was given; wide bands first at a reduced size."""
    use_ramp = mask.dtype == bool
    if radius > MAX_RADIUS:
        factor = min(MAX_FACTOR, -(-radius // MAX_RADIUS))
        before = reduced(mask, factor)
        after = _sharpened(reduced(image, factor), before, -(-radius // factor), infer)
        mask = replaced(mask, before, after, factor)
        radius = 2 * factor
        use_ramp = True  # the boundary of the reduced mask has steps
    foreground = mask if mask.dtype == bool else mask > 0.5
    band = Band.around(foreground, radius)
    out = mask.copy()
    if len(band.rows):
        ramp = band.ramp(foreground)
        given = mask[band.rows, band.columns]
        marginals = infer(image, band, np.clip(ramp if use_ramp else given, 1 - CONFIDENCE, CONFIDENCE))
        out[band.rows, band.columns] = (
            marginals > 0.5 if mask.dtype == bool else _blended(given, marginals, ramp)
        )
    return out


def _blended(given: np.ndarray, marginals: np.ndarray, ramp: np.ndarray) -> np.ndarray:
    """Marginals (N,) near the boundary and, towards the edge of the band, more and more the given values.

    Where a marginal is on the other side of ½ than the given value, it is kept.
    """
    weight = np.clip(2 - 2 * np.abs(2 * ramp - 1), 0, 1)
    return np.where((marginals > 0.5) != (given > 0.5), marginals, given + weight * (marginals - given))


def _foreground_marginals(
    image: np.ndarray,
    band: Band,
    probability: np.ndarray,
    *,
    params: Params,
    iterations: int,
    threads: int | None,
) -> np.ndarray:
    """(N,) float32 marginals of the CRF over a band's pixels, from their foreground probabilities (N,)."""
    position = np.stack([band.columns, band.rows], axis=1).astype(np.float32)
    levels = image[band.rows, band.columns].reshape(len(position), -1).astype(np.float32)
    appearance = [position / params.appearance_xy_std, levels / params.appearance_rgb_std]
    kernels = [
        Features(np.concatenate(appearance, axis=1), params.appearance_weight),
        Features(position / params.smoothness_xy_std, params.smoothness_weight),
    ]
    kernels = [kernel for kernel in kernels if kernel.weight > 0]
    crf = DenseCRF(kernels, normalization=params.normalization, threads=threads)
    unary = -np.log(np.stack([1 - probability, probability]))
    return crf.infer(unary, iterations=iterations)[1]


def _checked_image(image: ArrayLike) -> np.ndarray:
    array = np.asarray(image)
    if array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))):
        return array
    advice = "scale other types to 0–255 first"
    if array.ndim == 3 and array.shape[2] == 4 and array.dtype == np.uint8:
        advice = "pass image[..., :3] without the alpha channel"
    raise ValueError(
        f"got an image {array.shape} of {array.dtype}, wanted (H, W, 3) or (H, W) uint8; {advice}"
    )


def _checked_mask(mask: ArrayLike, size: tuple[int, ...]) -> np.ndarray:
    """The mask as an array; ValueError unless it is one of the three kinds."""
    array = np.asarray(mask)
    if array.shape != size:
        raise ValueError(f"got a mask {array.shape}, wanted {size} as the image; resize it first")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"got a mask of {array.dtype}, wanted bool, integers or probabilities")
    low, high = array.min(initial=0), array.max(initial=0)
    if array.dtype.kind in "iu":
        if high not in (0, 1, 255) or np.count_nonzero(array) != np.count_nonzero(array == high) * bool(high):
            values = ", ".join(map(str, np.unique(array)[:5]))
            raise ValueError(
                f"got a mask with values {values} …, wanted 0 and 1, or 0 and 255; of a label map take one "
                "label (labels == 3), of a soft 8-bit mask probabilities (mask / 255)"
            )
    elif not (low >= 0 and high <= 1):  # also for NaN
        raise ValueError(
            f"got a mask with values from {low} to {high}, wanted foreground probabilities from 0 to 1; for "
            "logits compute 1 / (1 + exp(−x)), for levels divide by 255"
        )
    return array


def _is_soft(mask: np.ndarray) -> bool:
    """Whether a mask has probabilities other than 0 and 1."""
    return mask.dtype.kind == "f" and bool(((mask != 0) & (mask != 1)).any())


def _checked_radius(radius: int | None, size: tuple[int, ...]) -> int:
    if radius is None:
        return max(MIN_RADIUS, round(RADIUS_PER_DIAGONAL * math.hypot(*size)))
    return min(whole_number("radius", radius, least=1), max(1, *size))
