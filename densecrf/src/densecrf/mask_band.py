"""The pixels around the boundary of a mask, and the reduction of masks for wide bands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MARGIN = 0.1
"""Minimum distance of a ramp's probabilities from ½."""


@dataclass(frozen=True)
class Band:
    """The pixels whose distance from the boundary of a mask is at most ``radius``, along both axes.

    Args:
        rows: (N,) row of each pixel.
        columns: (N,) column of each pixel.
        radius: half the width of the band in pixels.
    """

    rows: np.ndarray
    columns: np.ndarray
    radius: int

    @classmethod
    def around(cls, foreground: np.ndarray, radius: int) -> Band:
        """Find the band of a mask (H, W) bool; the image's border is no boundary."""
        rows, columns = np.nonzero(_dilated(_boundary(foreground), radius - 1))
        return cls(rows, columns, radius)

    def ramp(self, foreground: np.ndarray) -> np.ndarray:
        """Compute foreground probabilities that rise across the boundary.

        They are means of the mask over two squares, one as wide as the band and one half as wide, but no
        nearer to ½ than ``MARGIN`` on either side of the boundary, so thin parts do not vanish.

        Args:
            foreground: (H, W) bool, the mask.

        Returns:
            (N,) float64.
        """
        sums = _integral_image(foreground)
        wide, narrow = (self._square_mean(sums, radius) for radius in (self.radius, (self.radius + 1) // 2))
        mean = (wide + narrow) / 2
        inside = foreground[self.rows, self.columns]
        return np.where(inside, np.maximum(mean, 0.5 + MARGIN), np.minimum(mean, 0.5 - MARGIN))

    def _square_mean(self, sums: np.ndarray, radius: int) -> np.ndarray:
        """(N,) means over squares of 2·radius + 1 pixels, cut off at the image's border."""
        height, width = sums.shape[0] - 1, sums.shape[1] - 1
        top, bottom = np.maximum(self.rows - radius, 0), np.minimum(self.rows + radius + 1, height)
        left, right = np.maximum(self.columns - radius, 0), np.minimum(self.columns + radius + 1, width)
        total = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return total / ((bottom - top) * (right - left))


def reduced(array: np.ndarray, factor: int) -> np.ndarray:
    """Reduce an image or mask by means over squares of ``factor`` pixels, smaller ones at the far borders.

    Args:
        array: (H, W) or (H, W, C).
        factor: side of the squares in pixels.

    Returns:
        (H / factor, W / factor, …), both rounded up, of the array's dtype; bool is true for more than half.
    """
    height, width = -(-array.shape[0] // factor), -(-array.shape[1] // factor)
    total = np.zeros((height, width, *array.shape[2:]), np.float32)
    for y in range(factor):
        for x in range(factor):
            part = array[y::factor, x::factor]
            total[: part.shape[0], : part.shape[1]] += part
    rows = np.minimum(factor, array.shape[0] - factor * np.arange(height))
    columns = np.minimum(factor, array.shape[1] - factor * np.arange(width))
    count = np.outer(rows, columns).astype(np.float32)
    total /= count.reshape(height, width, *[1] * (array.ndim - 2))
    return total > 0.5 if array.dtype == bool else total.astype(array.dtype)


def replaced(mask: np.ndarray, before: np.ndarray, after: np.ndarray, factor: int) -> np.ndarray:
    """Put the changes of a reduced mask into the mask itself.

    Args:
        mask: (H, W).
        before: ``reduced(mask, factor)``.
        after: the reduced mask with changes.
        factor: side in pixels of the square that a pixel of the reduced mask stands for.

    Returns:
        (H, W): a copy of the mask, in which the squares of changed pixels have their new value.
    """
    changed = after != before
    out = mask.copy()
    for y in range(factor):
        for x in range(factor):
            part = out[y::factor, x::factor]
            window = (slice(part.shape[0]), slice(part.shape[1]))
            np.copyto(part, after[window], where=changed[window])
    return out


def _boundary(foreground: np.ndarray) -> np.ndarray:
    """Pixels (H, W) bool with another value above, below, left or right."""
    out = np.zeros(foreground.shape, bool)
    differs = foreground[1:] != foreground[:-1]
    out[1:] |= differs
    out[:-1] |= differs
    differs = foreground[:, 1:] != foreground[:, :-1]
    out[:, 1:] |= differs
    out[:, :-1] |= differs
    return out


def _dilated(marked: np.ndarray, radius: int) -> np.ndarray:
    """Pixels (H, W) bool in a square of 2·radius + 1 pixels around a marked one, in log(radius) passes."""
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


def _integral_image(foreground: np.ndarray) -> np.ndarray:
    """(H + 1, W + 1) sums over the pixels above and to the left.

    In int32 the sums may overflow, but differences of four of them are right as long as a square has fewer
    than 2³¹ pixels.
    """
    height, width = foreground.shape
    sums = np.zeros((height + 1, width + 1), np.int32)
    np.cumsum(foreground, axis=0, dtype=np.int32, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    return sums
