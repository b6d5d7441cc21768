"""Windows over a picture larger than memory allows, laid so that no seam shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deeplab.network.architecture import OUTPUT_STRIDE
from deeplab.network.layer_table import describe


@dataclass(frozen=True)
class Span:
    """One axis of a window: it sees pixels start to stop, and answers for those from ``first`` to
    ``last``."""

    start: int
    stop: int
    first: int
    last: int


def margin_of(variant: str) -> int:
    """Pixels a window must see beyond those it answers for: half the field of view, and one step of the score
    map.

    With so much to see on each side, scores do not depend on where the windows lie.
    """
    reach = max(layer.field_of_view for layer in describe(variant)) // 2 + OUTPUT_STRIDE
    return -(-reach // OUTPUT_STRIDE) * OUTPUT_STRIDE


def spans(length: int, core: int, margin: int) -> list[Span]:
    """Windows along one axis: each answers for ``core`` pixels and sees ``margin`` more on each side, if
    there are.

    Args:
        length: of the axis in pixels.
        core: pixels a window answers for; rounded down to a multiple of 8, at least 8.
        margin: a multiple of 8, so that the windows' score maps fall on the same pixels.
    """
    core = max(OUTPUT_STRIDE, core // OUTPUT_STRIDE * OUTPUT_STRIDE)
    return [
        Span(max(0, first - margin), min(length, first + core + margin), first, min(length, first + core))
        for first in range(0, length, core)
    ]


def windows(height: int, width: int, core: int, margin: int) -> Iterator[tuple[Span, Span]]:
    """Rows and columns of every window, row by row; their cores cover each pixel once."""
    for rows in spans(height, core, margin):
        for columns in spans(width, core, margin):
            yield rows, columns
