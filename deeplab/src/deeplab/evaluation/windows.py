"""Minima and maxima over windows of a label map, without SciPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def window_extreme(ids: np.ndarray, reach: int, axis: int, extreme: np.ufunc) -> np.ndarray:
    """Compute the minimum or maximum over 2·reach + 1 pixels along an axis, fewer at the border.

    Args:
        ids: (H, W).
        reach: distance in pixels, 0 or more.
        axis: 0 for columns of pixels, 1 for rows.
        extreme: ``np.minimum`` or ``np.maximum``.

    Returns:
        (H, W); ``ids`` itself for a reach of 0.
    """
    done = 0
    while done < reach:
        step = min(2 * done + 1, reach - done)
        before = np.moveaxis(ids, axis, 0)
        after = before.copy()
        extreme(after[step:], before[:-step], out=after[step:])
        extreme(after[:-step], before[step:], out=after[:-step])
        ids = np.moveaxis(after, 0, axis)
        done += step
    return ids


def differs_within(ids: np.ndarray, half_widths: Sequence[int]) -> np.ndarray:
    """Mark the pixels around which a window that is symmetric to both axes has more than one id.

    Args:
        ids: (H, W).
        half_widths: reach of the window along rows, in its middle row first, then 1, 2, … rows from it.

    Returns:
        (H, W) bool; only the part of a window that is in the image counts.
    """
    lowest, highest = ids.copy(), ids.copy()
    for offset, reach in enumerate(half_widths):
        for out, extreme in ((lowest, np.minimum), (highest, np.maximum)):
            row = window_extreme(ids, reach, 1, extreme)
            rows = len(ids) - offset
            if rows > 0:
                extreme(out[offset:], row[:rows], out=out[offset:])
                extreme(out[:rows], row[offset:], out=out[:rows])
    return lowest != highest
