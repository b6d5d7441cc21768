"""Sharpen one object mask: a two-label CRF in a band around the mask's boundary, whatever the size of the image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from densecrf.crf import DenseCRF
from densecrf.kernels import Features
from densecrf.params import Params

MASK_PARAMS = Params(
    appearance_weight=6, appearance_xy_std=20, appearance_rgb_std=6, smoothness_weight=2, smoothness_xy_std=2
)
"""Default parameters; chosen on masks of two networks' scores, see results/sharpen.md."""
RADIUS_PER_DIAGONAL = 0.012
"""Default radius as a share of the image's diagonal: 8 pixels at 500×375, 60 at 4000×3000."""
MIN_RADIUS = 4
MAX_RADIUS = 16
"""Radius up to which a band is processed at full size; wider ones are reduced first, then finished at full size."""
CONFIDENCE = 0.95
"""Largest probability that the mask gives a pixel of the band."""

Infer = Callable[["_Band", np.ndarray, np.ndarray], np.ndarray]


def sharpen(
    image: ArrayLike,
    mask: ArrayLike,
    *,
    radius: int | None = None,
    params: Params = MASK_PARAMS,
    iterations: int = 5,
    threads: int | None = None,
) -> np.ndarray:
    """Move the boundary of an object mask to the edges of the image.

    Only pixels within ``radius`` of the boundary can change; time and memory follow the length of the
    boundary, not the size of the image.

    Args:
        image: (H, W, 3) or (H, W) uint8, the photo itself, not normalised.
        mask: (H, W): bool, integers 0 and 1 or 0 and 255, or foreground probabilities in [0, 1].
        radius: how far the boundary may move, in pixels; by default 1.2 % of the image's diagonal.
        params: weights and widths of the CRF's kernels.
        iterations: mean-field steps.
        threads: maximum number of threads; by default one per available processor.

    Returns:
        The mask in the kind that was given: bool, integers of the same dtype and the same two values, or
        float32 probabilities.

    Raises:
        ValueError: for shapes that do not fit, another dtype, or values that are neither of the kinds above.
        MemoryError: if the CRF of the band does not fit.
    """
    picture = _checked_image(image)
    given = _checked_mask(mask, picture.shape[:2])
    reach = _checked_radius(radius, picture.shape[:2])
    soft = given.dtype.kind == "f"
    infer = partial(_Band.infer, params=params, iterations=iterations, threads=threads)
    sharp = _sharpened(picture, given.astype(np.float32) if soft else given != 0, reach, infer)
    return sharp if soft else np.where(sharp, given.max(initial=0), given.dtype.type(0)).astype(given.dtype)


def _sharpened(image: np.ndarray, mask: np.ndarray, radius: int, infer: Infer) -> np.ndarray:
    """The sharpened mask (H, W), bool or float32 as it was given; wide bands first at a reduced size."""
    if radius > MAX_RADIUS:
        factor = -(-radius // MAX_RADIUS)
        small = _sharpened(_reduced(image, factor), _reduced(mask, factor), -(-radius // factor), infer)
        mask = _replaced(mask, small, factor)
        radius = 2 * factor
    foreground = mask > 0.5 if mask.dtype == np.float32 else mask
    band = _Band.around(foreground, radius)
    out = mask.copy()
    if len(band.rows):
        marginals = infer(band, image, band.probabilities(foreground, mask))
        out[band.rows, band.columns] = marginals if mask.dtype == np.float32 else marginals > 0.5
    return out


@dataclass(frozen=True)
class _Band:
    """The pixels around a boundary.

    Args:
        rows, columns: (N,) of the pixels.
        radius: half the width of the band in pixels.
    """

    rows: np.ndarray
    columns: np.ndarray
    radius: int

    @classmethod
    def around(cls, foreground: np.ndarray, radius: int) -> _Band:
        """The band around the boundary of a mask (H, W) bool."""
        rows, columns = np.nonzero(_dilated(_boundary(foreground), radius))
        return cls(rows, columns, radius)

    def probabilities(self, foreground: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """(N,) float32 foreground probabilities: those of a soft mask, else a ramp across the boundary."""
        if mask.dtype == bool:
            sums = _integral_image(foreground)
            wide, narrow = self._box_mean(sums, self.radius), self._box_mean(sums, (self.radius + 1) // 2)
            values = (wide + narrow) / 2
        else:
            values = mask[self.rows, self.columns]
        return np.clip(values, 1 - CONFIDENCE, CONFIDENCE).astype(np.float32)

    def infer(
        self, image: np.ndarray, probability: np.ndarray, params: Params, iterations: int, threads: int | None
    ) -> np.ndarray:
        """(N,) float32 foreground marginals of the CRF over the band."""
        position = np.stack([self.columns, self.rows], axis=1).astype(np.float32)
        levels = image[self.rows, self.columns].reshape(len(self.rows), -1).astype(np.float32)
        appearance = np.concatenate(
            [position / params.appearance_xy_std, levels / params.appearance_rgb_std], axis=1
        )
        kernels = [
            Features(appearance, params.appearance_weight),
            Features(position / params.smoothness_xy_std, params.smoothness_weight),
        ]
        kernels = [kernel for kernel in kernels if kernel.weight > 0]
        crf = DenseCRF(kernels, normalization=params.normalization, threads=threads)
        return crf.infer(-np.log(np.stack([1 - probability, probability])), iterations=iterations)[1]

    def _box_mean(self, sums: np.ndarray, radius: int) -> np.ndarray:
        """(N,) means over squares of 2·radius + 1 pixels, cut off at the image's border."""
        height, width = sums.shape[0] - 1, sums.shape[1] - 1
        top, bottom = np.maximum(self.rows - radius, 0), np.minimum(self.rows + radius + 1, height)
        left, right = np.maximum(self.columns - radius, 0), np.minimum(self.columns + radius + 1, width)
        total = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return total / ((bottom - top) * (right - left))


def _checked_image(image: ArrayLike) -> np.ndarray:
    array = np.asarray(image)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(
            f"got an image {array.shape} of {array.dtype}, wanted (H, W, 3) or (H, W) uint8; "
            "scale other images to 0–255 first"
        )
    return array


def _checked_mask(mask: ArrayLike, size: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(mask)
    if array.shape != size:
        raise ValueError(f"got a mask {array.shape}, wanted {size} as the image has; resize it first")
    if array.dtype.kind == "b":
        return array
    if array.dtype.kind in "iu":
        high = array.max(initial=0)
        if high not in (0, 1, 255) or ((array != 0) & (array != high)).any():
            values = ", ".join(map(str, np.unique(array)[:5]))
            raise ValueError(f"got a mask with values {values}, wanted 0 and 1, or 0 and 255: one object's mask")
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"got a mask of {array.dtype}, wanted bool, integers or probabilities")
    low, high = array.min(initial=0), array.max(initial=0)
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"got a mask with values from {low} to {high}, wanted foreground probabilities from 0 to 1; "
            "logits need 1 / (1 + exp(−x)) first"
        )
    return array


def _checked_radius(radius: int | None, size: tuple[int, ...]) -> int:
    if radius is None:
        return max(MIN_RADIUS, round(RADIUS_PER_DIAGONAL * math.hypot(*size)))
    if radius != int(radius) or radius < 1:
        raise ValueError(f"got radius = {radius}, wanted a whole number of pixels of at least 1")
    return int(radius)


def _boundary(foreground: np.ndarray) -> np.ndarray:
    """Pixels (H, W) bool with a 4-neighbour of the other label."""
    out = np.zeros(foreground.shape, bool)
    differs = foreground[1:] != foreground[:-1]
    out[1:] |= differs
    out[:-1] |= differs
    differs = foreground[:, 1:] != foreground[:, :-1]
    out[:, 1:] |= differs
    out[:, :-1] |= differs
    return out


def _dilated(marked: np.ndarray, radius: int) -> np.ndarray:
    """Pixels (H, W) bool within ``radius`` of a marked one, along both axes; doubled steps, so log2(radius) passes."""
    for axis in (0, 1):
        reach = 0
        while reach < radius:
            step = min(max(reach, 1), radius - reach)
            before = np.moveaxis(marked, axis, 0)
            after = before.copy()
            after[step:] |= before[:-step]
            after[:-step] |= before[step:]
            marked = np.moveaxis(after, 0, axis)
            reach += step
    return marked


def _reduced(array: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of ``factor`` pixels, of the array's dtype (bool: the majority); a rest at the border is
    left out."""
    height, width = array.shape[0] // factor, array.shape[1] // factor
    total = np.zeros((height, width, *array.shape[2:]), np.float32)
    for y in range(factor):
        for x in range(factor):
            total += array[y : height * factor : factor, x : width * factor : factor]
    mean = total / factor**2
    return mean > 0.5 if array.dtype == bool else mean.astype(array.dtype)


def _replaced(mask: np.ndarray, small: np.ndarray, factor: int) -> np.ndarray:
    """A copy of a mask with the values of its reduced version, each repeated, where these differ from before."""
    changed = small != _reduced(mask, factor)
    out = mask.copy()
    area = out[: small.shape[0] * factor, : small.shape[1] * factor]
    for y in range(factor):
        for x in range(factor):
            np.copyto(area[y::factor, x::factor], small, where=changed)
    return out


def _integral_image(foreground: np.ndarray) -> np.ndarray:
    """(H + 1, W + 1) int32 sums over the pixels above and to the left."""
    height, width = foreground.shape
    sums = np.zeros((height + 1, width + 1), np.int32)
    np.cumsum(foreground, axis=0, dtype=np.int32, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    return sums
