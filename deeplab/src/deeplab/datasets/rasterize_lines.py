"""Rasterizing annotated lines and points, which have no area, with a width."""

from __future__ import annotations

import numpy as np


def thick_line(points: np.ndarray, width: float, height: int, columns: int) -> np.ndarray:
    """Rasterize a chain of line segments, or points on their own, with round ends.

    Args:
        points: (N, 2) x, y, at least one; one point gives a disc.
        width: width of the line, and diameter of a disc, in pixels.
        height: height of the picture in pixels.
        columns: width of the picture in pixels.

    Returns:
        (height, columns) bool: pixels whose centres are at most half the width away from the line.
    """
    inside = np.zeros((height, columns), bool)
    starts, ends = (points, points) if len(points) == 1 else (points[:-1], points[1:])
    for start, end in zip(starts, ends, strict=True):
        box = _box(start, end, width / 2, height, columns)
        y, x = np.mgrid[box]
        offset = np.stack([x + 0.5 - start[0], y + 0.5 - start[1]], axis=-1)
        direction = end - start
        length = float(direction @ direction)
        along = np.clip(offset @ direction / length, 0, 1)[..., None] if length else 0.0
        distance = offset - along * direction
        inside[box] |= (distance**2).sum(axis=-1) <= (width / 2) ** 2
    return inside


def _box(start: np.ndarray, end: np.ndarray, radius: float, height: int, columns: int) -> tuple[slice, slice]:
    """The rows and columns of pixels that may lie near a segment."""
    low = np.floor(np.minimum(start, end) - radius)
    high = np.ceil(np.maximum(start, end) + radius)
    (left, top), (right, bottom) = (
        np.clip(corner, 0, (columns, height)).astype(int) for corner in (low, high)
    )
    return slice(top, bottom), slice(left, right)
