"""The check of one sample's labels: what they hold, and what is wrong with them whatever the classes are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.classes import IGNORE
from deeplab.datasets.class_lines import Colour
from deeplab.datasets.coco_annotations import AnnotationReader
from deeplab.datasets.labelme import ShapeReader
from deeplab.datasets.mask_colours import reads_indices
from deeplab.datasets.mask_files import load_mask, mask_ids, palette_colours
from deeplab.datasets.problems import LabelError, Problem
from deeplab.datasets.samples import Sample
from deeplab.photos import PHOTO_ENDINGS

MIN_EDGE_PIXELS = 50
"""Masks with fewer edge pixels are not judged by their smoothness, unless they have many levels."""
MANY_LEVELS = 8
"""A smoothed mask with more levels than this is an error, with fewer a warning."""


@dataclass(frozen=True, eq=False)
class LabelCheck:
    """What was found in the labels of one sample."""

    file: Path
    """File of the labels."""
    shape: tuple[int, int] | None
    """Height and width of the labels; None if they cannot be read."""
    counts: np.ndarray
    """(256,) int64, pixels by id."""
    binary: bool = False
    """Whether the mask holds 0 and 255 and nothing else."""
    smoothed: float = 0.0
    """Share of edge pixels between their neighbours; 0 if there are too few to tell."""
    palette: tuple[tuple[int, Colour], ...] = ()
    """Colours of the palette indices that occur, void left out, where indices are the ids."""
    problems: tuple[Problem, ...] = ()
    """Problems that do not depend on the classes of the data set."""

    @property
    def highest(self) -> int:
        """The highest id that is not void; -1 if all is void."""
        return int(np.flatnonzero(self.counts[:IGNORE]).max(initial=-1))

    def as_json(self) -> dict[str, Any]:
        """The content without the file's name, as JSON can hold it."""
        return {
            "shape": self.shape,
            "counts": {int(number): int(self.counts[number]) for number in np.flatnonzero(self.counts)},
            "binary": self.binary,
            "smoothed": self.smoothed,
            "palette": self.palette,
            "problems": [vars(problem) for problem in self.problems],
        }

    @classmethod
    def from_json(cls, file: Path, content: dict[str, Any]) -> LabelCheck:
        """Restore a result from the JSON value of ``as_json``.

        Args:
            file: the file of labels.
            content: the JSON value.

        Raises:
            KeyError, TypeError, ValueError: if the value is not one of ``as_json``.
        """
        counts = np.zeros(IGNORE + 1, np.int64)
        for number, pixels in content["counts"].items():
            counts[int(number)] = pixels
        height, width = content["shape"] or (0, 0)
        palette = tuple((int(index), (int(r), int(g), int(b))) for index, (r, g, b) in content["palette"])
        problems = tuple(Problem(**problem) for problem in content["problems"])
        shape = (int(height), int(width)) if content["shape"] else None
        return cls(
            file, shape, counts, bool(content["binary"]), float(content["smoothed"]), palette, problems
        )


def check_labels(sample: Sample) -> LabelCheck:
    """Read the labels of a sample and check them; errors become problems of the result."""
    problems: list[Problem] = []
    ids = _read_labels(sample, problems)
    if ids is None:
        return LabelCheck(sample.labels, None, np.zeros(IGNORE + 1, np.int64), problems=tuple(problems))
    counts = np.bincount(ids.reshape(-1), minlength=IGNORE + 1)
    binary, smoothed = False, 0.0
    palette: tuple[tuple[int, Colour], ...] = ()
    if sample.labels.suffix.lower() in PHOTO_ENDINGS:  # a mask, not annotations that were rasterized
        binary, smoothed = _is_binary(sample, counts), _smoothed_share(ids)
        palette = used_palette(sample.labels, counts) if reads_indices(sample.reader) else ()
    if not counts[:IGNORE].any():
        what = "every pixel is void (255)"
        fix = "label something, or remove the sample: nothing can be learnt from it"
        problems.append(Problem("warning", "all void", str(sample.labels), what, fix))
    height, width = ids.shape
    return LabelCheck(sample.labels, (height, width), counts, binary, smoothed, palette, tuple(problems))


def used_palette(path: Path, counts: np.ndarray) -> tuple[tuple[int, Colour], ...]:
    """Get the colours that a palette mask shows.

    Args:
        path: the mask.
        counts: (256,) pixels by palette index.

    Returns:
        Index and colour, void left out; nothing for a mask without a palette.
    """
    mask = load_mask(path)
    if mask.mode != "P":
        return ()
    colours = palette_colours(mask)
    indices = (int(index) for index in np.flatnonzero(counts[:IGNORE]))
    return tuple((index, (int(r), int(g), int(b))) for index in indices for r, g, b in [colours[index]])


def _read_labels(sample: Sample, problems: list[Problem]) -> np.ndarray | None:
    """The ids of the labels; None if they cannot be read, and a problem is added."""
    try:
        if isinstance(sample.reader, (ShapeReader, AnnotationReader)):
            ids, warnings = sample.reader.read(sample.labels)
            problems += warnings
            return ids
        return sample.reader(sample.labels)
    except LabelError as error:
        problems += [error.problem] if error.problem else []
    except (OSError, MemoryError, ValueError) as error:
        what = str(error) or "does not fit into memory"
        problems.append(Problem("error", "damaged mask", str(sample.labels), what, "export it again"))
    return None


def _is_binary(sample: Sample, counts: np.ndarray) -> bool:
    """Whether the levels in the mask's file are 0 and 255.

    Void that a class file assigns to another level does not make a mask binary.
    """
    if not (counts[0] and counts[IGNORE]) or counts[1:IGNORE].any():
        return False
    try:
        return set(np.unique(mask_ids(load_mask(sample.labels), sample.labels))) == {0, IGNORE}
    except LabelError:  # in colours
        return False


def _smoothed_share(ids: np.ndarray) -> float:
    """Share of the edge pixels whose level lies between those of their two neighbours in a row or column."""
    edges = between = 0
    for rows in (ids, ids.T):
        before, here, after = rows[:, :-2], rows[:, 1:-1], rows[:, 2:]
        edge = (before != after) & (here != IGNORE)
        edges += int(edge.sum())
        between += int((edge & (np.minimum(before, after) < here) & (here < np.maximum(before, after))).sum())
    enough = edges >= MIN_EDGE_PIXELS or len(np.unique(ids)) > MANY_LEVELS
    return between / edges if edges and enough else 0.0
