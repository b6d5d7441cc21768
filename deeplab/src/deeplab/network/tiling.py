"""Overlapping windows over pictures that do not fit into memory, laid out so that no seams are visible."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deeplab.network.architecture import OUTPUT_STRIDE
from deeplab.network.layer_table import describe


@dataclass(frozen=True)
class Span:
    """One axis of a window, which sees pixels ``start`` to ``stop`` and labels ``first`` to ``last``."""

    start: int
    stop: int
    first: int
    last: int


def margin_of(variant: str) -> int:
    """Pixels that a window must see beyond those it labels, so that its scores do not depend on its position.

    Args:
        variant: Name of a variant in ``network.VARIANTS``.

    Returns:
        Half the field of view and one step of the score map, rounded up to a multiple of 8.
    """
    reach = max(layer.field_of_view for layer in describe(variant)) // 2 + OUTPUT_STRIDE
    return -(-reach // OUTPUT_STRIDE) * OUTPUT_STRIDE


def spans(length: int, core: int, margin: int) -> list[Span]:
    """Lay windows along one axis.

    Args:
        length: Length of the axis in pixels.
        core: Pixels that a window labels, rounded down to a multiple of 8, at least 8.
        margin: Pixels that it sees on each side of these, as far as the picture goes. It must be a multiple
            of 8, so that the score maps of all windows fall on the same pixels.

    Returns:
        The windows in order; their cores cover each pixel once.
    """
    core = max(OUTPUT_STRIDE, core // OUTPUT_STRIDE * OUTPUT_STRIDE)
    return [
        Span(max(0, first - margin), min(length, first + core + margin), first, min(length, first + core))
        for first in range(0, length, core)
    ]


def windows(height: int, width: int, core: int, margin: int) -> Iterator[tuple[Span, Span]]:
    """Lay windows over a picture.

    Args:
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
        core: Pixels that a window labels in each direction; see ``spans``.
        margin: Pixels that it sees on each side of these; see ``spans``.

    Yields:
        Rows and columns of each window, row by row; their cores cover each pixel once.
    """
    for rows in spans(height, core, margin):
        for columns in spans(width, core, margin):
            yield rows, columns
