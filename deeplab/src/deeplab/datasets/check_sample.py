"""The check of one sample: what it holds and what is wrong with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from deeplab.classes import IGNORE
from deeplab.datasets.problems import LabelError, Problem
from deeplab.datasets.samples import Sample, load_mask, mask_ids
from deeplab.photos import PHOTO_ENDINGS, PhotoError

SMOOTHED_SHARE = 0.1
"""Share of edge pixels with a level between those of their neighbours from which a mask counts as smoothed.

Measured: at most 0.02 for masks drawn by hand (VOC, SBD, CamVid), at least 0.20 for the same masks after
bilinear resizing.
"""
MIN_EDGE_PIXELS = 50
"""Masks with fewer edge pixels are not judged by that share, unless they have many levels."""
MANY_LEVELS = 8
"""A smoothed mask with more levels than this is an error, with fewer a warning."""
MAX_SHOWN = 5
"""How many ids that are out of range a message names."""


@dataclass(frozen=True, eq=False)
class SampleCheck:
    """What was found in one sample."""

    sample: Sample
    digest: str
    """SHA-256 of the photo's bytes; empty if it cannot be read."""
    size: tuple[int, int] | None
    """Height and width of the photo; None if the photo or its labels cannot be used."""
    counts: np.ndarray
    """(256,) int64, pixels by id."""
    binary: bool
    """Whether the mask holds 0 and 255 and nothing else."""
    smoothed: float
    """Share of edge pixels between their neighbours; 0 if there are too few to tell."""
    problems: tuple[Problem, ...]
    """Problems that do not depend on the classes of the data set."""

    @property
    def highest(self) -> int:
        """The highest id that is not void; -1 if all is void."""
        return int(np.flatnonzero(self.counts[:IGNORE]).max(initial=-1))


def check_sample(sample: Sample) -> SampleCheck:
    """Open a sample and check it; errors become problems of the result."""
    problems: list[Problem] = []
    shape, digest = _read_photo(sample, problems)
    ids = _read_labels(sample, problems)
    if ids is None:
        nothing = np.zeros(IGNORE + 1, np.int64)
        return SampleCheck(sample, digest, None, nothing, False, 0.0, tuple(problems))
    counts = np.bincount(ids.reshape(-1), minlength=IGNORE + 1)
    binary, smoothed = False, 0.0
    if sample.labels.suffix.lower() in PHOTO_ENDINGS:  # a mask, not annotations that were rasterized
        binary, smoothed = _is_binary(sample, counts), _smoothed_share(ids)
    if not counts[:IGNORE].any():
        what = "every pixel is void (255)"
        fix = "label something, or remove the sample: nothing can be learnt from it"
        problems.append(Problem("warning", "all void", str(sample.labels), what, fix))
    if shape and shape != ids.shape:
        problems.append(_size_mismatch(sample, shape, ids.shape))
    return SampleCheck(sample, digest, shape, counts, binary, smoothed, tuple(problems))


def mask_problems(check: SampleCheck, classes: int, *, only_binary: bool) -> list[Problem]:
    """Judge the ids of a mask by the classes of the data set.

    Args:
        check: the checked sample.
        classes: K; 0 if unknown.
        only_binary: whether no mask of the whole data set holds any id but 0 and 255.

    Returns:
        At most one problem: a binary mask, an anti-aliased mask, or ids out of range.
    """
    file = str(check.sample.labels)
    unknown = np.flatnonzero(check.counts[classes:IGNORE]) + classes if classes else np.empty(0, int)
    if check.binary:
        what = "holds 0 and 255 only, as binary masks do"
        fix = (
            "255 is void: save 1 for the object, or give colours in classes.txt: lines 'background 0 0 0' "
            "and 'object 255 255 255'"
        )
        return [Problem("error" if only_binary else "warning", "binary mask", file, what, fix)]
    if check.smoothed >= SMOOTHED_SHARE:
        levels = int((check.counts > 0).sum())
        share = f"{100 * check.smoothed:.0f} % of the edge pixels between their neighbours'"
        what = f"smoothed edges: {levels} levels, {share}"
        fix = "export without anti-aliasing, resize masks by nearest neighbour only"
        certain = len(unknown) > 0 or levels > MANY_LEVELS
        return [Problem("error" if certain else "warning", "anti-aliased mask", file, what, fix)]
    if not len(unknown):
        return []
    shown = ", ".join(f"{number} in {check.counts[number]} pixels" for number in unknown[:MAX_SHOWN])
    more = f" and {len(unknown) - MAX_SHOWN} more" if len(unknown) > MAX_SHOWN else ""
    allowed = f"ids must be 0 to {classes - 1}, and 255 for void"
    fix = f"{allowed}: change them, or name their classes in classes.txt"
    return [Problem("error", "ids out of range", file, f"id {shown}{more}", fix)]


def _read_photo(sample: Sample, problems: list[Problem]) -> tuple[tuple[int, int] | None, str]:
    """The photo's height and width, and the digest of its bytes; a problem is added if it is damaged."""
    try:
        height, width = sample.read_photo().shape[:2]
        return (height, width), hashlib.sha256(sample.photo.read_bytes()).hexdigest()
    except PhotoError as error:
        what = str(error).removeprefix(f"{sample.photo}: ")
        fix = "copy it again from its source, or remove the sample"
        problems.append(Problem("error", "damaged photo", str(sample.photo), what, fix))
        return None, ""


def _read_labels(sample: Sample, problems: list[Problem]) -> np.ndarray | None:
    """The ids of the labels; None if they cannot be read, and a problem is added."""
    try:
        return sample.read_labels()
    except LabelError as error:
        problems += [error.problem] if error.problem else []
    except (OSError, MemoryError, ValueError) as error:
        what = str(error) or "does not fit into memory"
        problems.append(Problem("error", "damaged mask", str(sample.labels), what, "export it again"))
    return None


def _size_mismatch(sample: Sample, photo: tuple[int, int], labels: tuple[int, ...]) -> Problem:
    """The problem of labels whose size is not the photo's."""
    what = f"labels of {labels[0]}×{labels[1]} pixels (H×W) for a photo of {photo[0]}×{photo[1]}"
    fix = "make them of one size"
    if photo == labels[::-1]:
        fix = "EXIF data rotates the photo when it is shown: label it as shown, or save it upright"
    return Problem("error", "size mismatch", str(sample.labels), what, fix)


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
