"""One pair of photo and labels, opened and looked at: what it holds and what is wrong with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from deeplab.classes import IGNORE
from deeplab.datasets.problems import LabelError, Problem
from deeplab.datasets.samples import Sample, ids_of, load_mask
from deeplab.photos import PHOTO_ENDINGS, PhotoError

SMOOTHED = 0.1
"""Share of edge pixels with a level between their neighbours' from which on a mask counts as smoothed.

Measured: masks drawn by hand (VOC, SBD, CamVid) have at most 0.02, the same masks resized bilinearly at least
    0.20.
"""
FEWEST, MANY = 50, 8
"""That share tells something from so many edge pixels on, or where a mask has more levels than this."""
SHOWN = 5


@dataclass(frozen=True, eq=False)
class SampleCheck:
    """What was found in one pair."""

    pair: Sample
    digest: str
    """Of the photo's bytes; empty if they cannot be read."""
    size: tuple[int, int] | None
    """Height and width of the photo; None if it or its labels cannot be used."""
    counts: np.ndarray
    """(256,) int64, pixels by id."""
    binary: bool
    """The mask holds 0 and 255 and nothing else."""
    smoothed: float
    """Share of edge pixels between their neighbours; 0 where that says nothing."""
    faults: tuple[Problem, ...]
    """What is wrong whichever classes there are."""

    @property
    def highest(self) -> int:
        """The highest id that is not void; -1 if all is void."""
        return int(np.flatnonzero(self.counts[:IGNORE]).max(initial=-1))


def inspect(pair: Sample) -> SampleCheck:
    """Open a pair; whatever is wrong with it is a fault of the result."""
    faults, shape, digest = [], None, ""
    try:
        shape = pair.read_photo().shape[:2]
        digest = hashlib.sha256(pair.photo.read_bytes()).hexdigest()
    except PhotoError as error:
        what = str(error).removeprefix(f"{pair.photo}: ")
        cure = "copy it again from where it came, or take the pair out"
        faults.append(Problem("error", "damaged photo", str(pair.photo), what, cure))
    counts, binary, smoothed = np.zeros(IGNORE + 1, np.int64), False, 0.0
    try:
        ids = pair.read_labels()
    except LabelError as error:
        faults += [error.fault] if error.fault else []
        return SampleCheck(pair, digest, None, counts, binary, smoothed, tuple(faults))
    except (OSError, MemoryError, ValueError) as error:
        what = str(error) or "does not fit into memory"
        faults.append(Problem("error", "damaged mask", str(pair.labels), what, "export it again"))
        return SampleCheck(pair, digest, None, counts, binary, smoothed, tuple(faults))
    counts = np.bincount(ids.reshape(-1), minlength=IGNORE + 1)
    if pair.labels.suffix.lower() in PHOTO_ENDINGS:  # not drawn by us from shapes
        binary, smoothed = _is_binary(pair, counts), _share_between(ids)
    if not counts[:IGNORE].any():
        cure = "label something, or take the pair out: nothing can be learnt from it"
        faults.append(Problem("warning", "all void", str(pair.labels), "every pixel is void (255)", cure))
    if shape and shape != ids.shape:
        (h, w), (height, width) = shape, ids.shape
        what = f"labels of {height}×{width} pixels (H×W) for a photo of {h}×{w}"
        turned = "the photo is shown turned by its EXIF orientation: label it as shown, or save it upright"
        cure = "make them of one size" if shape != ids.shape[::-1] else turned
        faults.append(Problem("error", "size mismatch", str(pair.labels), what, cure))
    size = (int(shape[0]), int(shape[1])) if shape else None
    return SampleCheck(pair, digest, size, counts, binary, smoothed, tuple(faults))


def judge(found: SampleCheck, classes: int, *, only_binary: bool) -> list[Problem]:
    """What is wrong with a mask, given how many classes there are.

    Args:
        found: what the pair holds.
        classes: K; 0 if nobody knows.
        only_binary: whether no mask of the whole data set holds any id but 0 and 255.
    """
    file = str(found.pair.labels)
    outside = np.flatnonzero(found.counts[classes:IGNORE]) + classes if classes else np.empty(0, int)
    if found.binary:
        cure = (
            "255 is void: save 1 for the object, or give colours in classes.txt: lines 'background 0 0 0' and "
            "'object 255 255 255'"
        )
        what = "holds 0 and 255 only, as binary masks do"
        return [Problem("error" if only_binary else "warning", "binary mask", file, what, cure)]
    if found.smoothed >= SMOOTHED:
        levels = int((found.counts > 0).sum())
        share = f"{100 * found.smoothed:.0f} % of the edge pixels between their neighbours'"
        what = f"smoothed edges: {levels} levels, {share}"
        cure = "export without anti-aliasing, resize masks by nearest neighbour only"
        return [
            Problem(
                "error" if len(outside) or levels > MANY else "warning", "anti-aliased mask", file, what, cure
            )
        ]
    if not len(outside):
        return []
    shown = ", ".join(f"{number} in {found.counts[number]} pixels" for number in outside[:SHOWN])
    more = f" and {len(outside) - SHOWN} more" if len(outside) > SHOWN else ""
    cure = (
        f"ids must be 0 to {classes - 1}, and 255 for void: change them, or name their classes in classes.txt"
    )
    return [Problem("error", "ids out of range", file, f"id {shown}{more}", cure)]


def _is_binary(pair: Sample, counts: np.ndarray) -> bool:
    """Whether a mask's own levels are 0 and 255: void that a class file makes of another level does not
    count."""
    if not (counts[0] and counts[IGNORE]) or counts[1:IGNORE].any():
        return False
    try:
        return set(np.unique(ids_of(load_mask(pair.labels), pair.labels))) == {0, IGNORE}
    except LabelError:  # in colours
        return False


def _share_between(ids: np.ndarray) -> float:
    """Share of the pixels on an edge whose level lies between those of their two neighbours in a row or
    column."""
    edges = between = 0
    for rows in (ids, ids.T):
        before, here, after = rows[:, :-2], rows[:, 1:-1], rows[:, 2:]
        edge = (before != after) & (here != IGNORE)
        edges += int(edge.sum())
        between += int((edge & (np.minimum(before, after) < here) & (here < np.maximum(before, after))).sum())
    enough = edges >= FEWEST or len(np.unique(ids)) > MANY
    return between / edges if edges and enough else 0.0
