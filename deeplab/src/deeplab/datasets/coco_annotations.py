"""The annotations of one photo in COCO's format, and their class ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.datasets.problems import LabelError, Problem
from deeplab.datasets.rasterize import decode_run_lengths, mask_from_run_lengths, polygon


@dataclass(frozen=True)
class Annotation:
    """One annotated object."""

    number: int
    """Id of the annotation in the file."""
    class_id: int
    crowd: bool
    outline: Any
    """The file's "segmentation": polygons or run lengths."""


@dataclass(frozen=True, eq=False)
class AnnotationReader:
    """Makes the class ids of one photo from its annotations.

    Crowds are drawn first, then objects from the largest to the smallest: COCO does not say which object is
    in front, and this way the cup stays visible on the table.
    """

    height: int
    width: int
    annotations: tuple[Annotation, ...] = field(repr=False)

    def __call__(self, path: Path) -> np.ndarray:
        """Draw the annotations: (H, W) uint8 ids, 255 void, background if there is no object.

        Raises:
            LabelError: for an outline that cannot be drawn; the message names the file and the annotation.
        """
        return self.read(path)[0]

    def read(self, path: Path) -> tuple[np.ndarray, list[Problem]]:
        """Draw the annotations as ``__call__`` does, with a warning for each part that is left out."""
        drawn = []
        warnings = []
        for annotation in self.annotations:
            try:
                outline, left_out = _drawable(annotation.outline)
                mask = outline_mask(outline, self.height, self.width)
                drawn.append((annotation, mask))
                if left_out:
                    warnings.append(_part_problem(annotation, path, left_out))
                if not mask.any():
                    warnings.append(_empty_problem(annotation, path))
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                what = f"annotation {annotation.number} cannot be drawn ({error})"
                fix = "wanted polygons of x, y or run lengths: draw it again, or remove it"
                raise LabelError.of("bad shape", path, what, fix) from None
        labels = np.zeros((self.height, self.width), np.uint8)
        for annotation, mask in sorted(drawn, key=lambda item: (not item[0].crowd, -int(item[1].sum()))):
            labels[mask] = annotation.class_id
        return labels, warnings


def _drawable(outline: Any) -> tuple[Any, int]:
    """An outline without the polygons of one or two points beside others, and their number."""
    if not isinstance(outline, list):
        return outline, 0
    parts = [part for part in outline if not (isinstance(part, list) and len(part) in (2, 4))]
    return (parts, len(outline) - len(parts)) if parts else (outline, 0)


def _part_problem(annotation: Annotation, path: Path, parts: int) -> Problem:
    what = f"annotation {annotation.number}: {parts} of its polygons have fewer than three points"
    return Problem("warning", "part left out", str(path), what, "those parts are left out: remove them")


def _empty_problem(annotation: Annotation, path: Path) -> Problem:
    what = f"annotation {annotation.number} covers no pixel's centre"
    return Problem("warning", "empty shape", str(path), what, "draw it larger, or remove it")


def outline_mask(outline: Any, height: int, width: int) -> np.ndarray:
    """Rasterize the "segmentation" of an annotation.

    Args:
        outline: polygons, each a list x, y, x, y …, whose union counts; or run lengths as a list or as COCO's
            compressed string, ``{"size": [height, width], "counts": …}``.
        height: height of the photo in pixels.
        width: width of the photo in pixels.

    Returns:
        (height, width) bool.

    Raises:
        ValueError: for anything else, or another size.
    """
    if isinstance(outline, dict):
        if list(outline["size"]) != [height, width]:
            raise ValueError(f"got run lengths of size {outline['size']}, wanted [{height}, {width}]")
        counts = outline["counts"]
        lengths = decode_run_lengths(counts) if isinstance(counts, (str, bytes)) else counts
        return mask_from_run_lengths(lengths, height, width)
    if not isinstance(outline, list) or not outline:
        raise ValueError("got no outline, a box at best; wanted polygons or run lengths")
    mask = np.zeros((height, width), bool)
    for numbers in outline:
        mask |= polygon(np.array(numbers, np.float64).reshape(-1, 2), height, width)
    return mask
