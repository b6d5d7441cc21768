"""Shapes that people draw, as the pixels they hold: those whose centres lie inside.

Points are (x, y) in pixels from the picture's upper left corner, so the centre of the first pixel is (0.5,
0.5). Shapes that share an edge share no pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels inside a closed polygon; where it crosses itself, those inside an odd number of times.

    Args:
        points: (N, 2) x, y, at least three; may lie outside the picture.
        height: of the picture, pixels.
        width: of the picture, pixels.

    Returns:
        (height, width) bool.

    Raises:
        ValueError: for fewer than three points, or any that is not finite.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise ValueError(
            f"got a polygon of shape {points.shape}, wanted at least three points (x, y), all finite"
        )
    after = np.roll(points, -1, axis=0)
    # From the upper end down, whichever way round the shape is: neighbours then round a shared edge alike.
    down = (points[:, 1] <= after[:, 1])[:, None]
    (x0, y0), (x1, y1) = np.where(down, points, after).T, np.where(down, after, points).T
    # An edge crosses the line of the centres of row r, y = r + 0.5, if its upper end is not below it and its
    # lower is.
    first, stop = (np.clip(np.ceil(y - 0.5), 0, height).astype(int) for y in (y0, y1))
    count = stop - first
    edge = np.repeat(np.arange(len(points)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    x = x0[edge] + (row + 0.5 - y0[edge]) / (y1 - y0)[edge] * (x1 - x0)[edge]
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(
        int
    )  # the first pixel whose centre is not left of the edge
    inside = np.zeros((height, width), bool)
    if len(edge):
        top, left, right = row.min(), column.min(), column.max()
        crossings = np.zeros((row.max() - top + 1, right - left + 1), np.uint8)
        np.add.at(crossings, (row - top, column - left), 1)
        odd = (
            np.cumsum(crossings, axis=1, dtype=np.uint8) % 2 == 1
        )  # uint8 may run over: whether odd stays right
        inside[top : top + len(odd), left:right] = odd[:, : right - left]
    return inside


def rectangle(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels of an upright rectangle between two opposite corners (2, 2) x, y; (height, width) bool."""
    (x0, y0), (x1, y1) = np.asarray(corners, np.float64)
    return polygon(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), height, width)


def circle(centre: np.ndarray, radius: float, height: int, width: int) -> np.ndarray:
    """The pixels of a circle about a point (2,) x, y; (height, width) bool."""
    y, x = np.mgrid[:height, :width] + 0.5
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2


def runs(counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """The pixels that run lengths give: by turns outside and inside, down the columns from the left.

    Args:
        counts: lengths, the first of pixels outside; they add up to height · width.
        height: of the picture, pixels.
        width: of the picture, pixels.

    Returns:
        (height, width) bool.

    Raises:
        ValueError: if a length is below 0 or they add up to anything else.
    """
    lengths = np.asarray(counts, np.int64).reshape(-1)
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(
            f"got runs of {lengths.sum()} pixels, wanted {height}·{width} = {height * width}, none below 0"
        )
    inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return inside.reshape(width, height).T


def run_lengths(text: str | bytes) -> list[int]:
    """The run lengths in COCO's compressed string.

    Each character holds, 48 subtracted, five bits, the lowest first, and a sixth that says whether more
    follow; the highest of the last five is the sign. From the fourth on, a number is the difference from the
    last but one.

    Raises:
        ValueError: for a character of no such number, or a string that ends within one.
    """
    codes = text.encode() if isinstance(text, str) else text
    lengths: list[int] = []
    value = shift = 0
    for code in codes:
        bits = code - 48
        if not 0 <= bits < 64:
            raise ValueError(f"got the character {chr(code)!r} in run lengths, wanted '0' to 'o'")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (bits >> 4 & 1) << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("got run lengths that end within a number")
    return lengths
