"""What is wrong with labels, judged by the classes and by all masks of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deeplab.classes import IGNORE, VOC_CLASSES, palette
from deeplab.datasets.class_files import is_void
from deeplab.datasets.class_lines import Colour
from deeplab.datasets.label_check import MANY_LEVELS, LabelCheck
from deeplab.datasets.problems import BINARY_FIX, Problem

SMOOTHED_SHARE = 0.1
"""Share of edge pixels with a level between those of their neighbours from which a mask counts as smoothed.

Measured: at most 0.02 for masks drawn by hand (VOC, SBD, CamVid), at least 0.20 for the same masks after
bilinear resizing.
"""
MAX_SHOWN = 5
"""How many ids that are out of range a message names."""
VOC_COLOURS: dict[Colour, int] = {
    (int(r), int(g), int(b)): number
    for number, (r, g, b) in [*enumerate(palette(len(VOC_CLASSES))), (IGNORE, palette()[IGNORE])]
}
VOC_GREYS = {(299 * r + 587 * g + 114 * b + 500) // 1000 for r, g, b in VOC_COLOURS}
"""VOC's colours turned grey."""
PALETTE_FIX = (
    "save the masks again with the original palette, as grey PNG of ids, or give colours in classes.txt"
)


def mask_problems(check: LabelCheck, classes: int, *, only_binary: bool) -> list[Problem]:
    """Judge the ids of a mask by the classes of the data set.

    Args:
        check: the checked labels.
        classes: K; 0 if unknown.
        only_binary: whether no mask of the whole data set holds any id but 0 and 255.

    Returns:
        At most one problem: a binary mask, an anti-aliased mask, or ids out of range.
    """
    file = str(check.file)
    unknown = np.flatnonzero(check.counts[classes:IGNORE]) + classes if classes else np.empty(0, int)
    if check.binary:
        what = "holds 0 and 255 only, as binary masks do"
        fix = f"255 is void: {BINARY_FIX}"
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
    fix = f"{allowed}: change them, or name their classes in classes.txt{_hint_at_levels(check.counts)}"
    return [Problem("error", "ids out of range", file, f"id {shown}{more}", fix)]


def set_problems(
    checks: Sequence[LabelCheck], class_names: Sequence[str], name: str, *, is_named: bool, is_whole: bool
) -> list[Problem]:
    """Judge all labels of a split or of a whole data set together.

    Args:
        checks: the checked labels.
        class_names: K names in id order.
        name: the data set and the split, for messages.
        is_named: whether a file names the classes; else they are as many as the masks hold.
        is_whole: whether these are all labels that a network learns from.

    Returns:
        Errors: nothing but void, nothing but one class, levels far apart.
    """
    counts = sum((check.counts for check in checks), np.zeros(IGNORE + 1, np.int64))
    used = np.flatnonzero(counts[:IGNORE]).tolist()
    problems = []
    if not used and counts[IGNORE]:
        what = "every pixel of all labels is void (255)"
        problems.append(Problem("error", "all void", name, what, "label something: nothing can be learnt"))
    if not is_named and used and used[-1] > 4 * len(used) + 16:
        what = f"the masks hold the levels {_listed(used)} only, which would be {used[-1] + 1} classes"
        fix = f"ids are 0, 1, 2 …: name the classes in classes.txt{_hint_at_levels(counts)}"
        problems.append(Problem("error", "levels far apart", name, what, fix))
    if is_whole and len(used) == 1 and used[0] < len(class_names):
        what = f"no pixel of any class but {class_names[used[0]]!r}"
        fix = BINARY_FIX if counts[IGNORE] else "label the objects: nothing can be learnt from one class"
        problems.append(Problem("error", "one class only", name, what, fix))
    return problems


def absent_classes(
    counts: Sequence[int] | np.ndarray, class_names: Sequence[str], name: str
) -> list[Problem]:
    """A warning if labels lack some of their classes, but not all.

    Args:
        counts: pixels by class, K or more.
        class_names: K names in id order.
        name: the data set and the split, for messages.
    """
    absent = [each for each, pixels in zip(class_names, counts, strict=False) if not pixels]
    absent = [each for each in absent if not is_void(each)]
    if not absent or not any(counts[: len(class_names)]):
        return []
    what = f"no pixel of {', '.join(absent)}"
    fix = "label some, or remove the class from the class file; its IoU will be n/a, and it cannot be learnt"
    return [Problem("warning", "class never present", name, what, fix)]


def palette_problem(
    file: Path, colours: Sequence[tuple[int, Colour]], names: Sequence[str]
) -> Problem | None:
    """Judge the palette of a mask whose palette indices are ids.

    Args:
        file: the mask.
        colours: palette indices that occur, and their colours, void left out.
        names: K names in id order.

    Returns:
        An error if the classes are VOC's, and most of the colours are VOC's, but at other indices.
    """
    known = [(index, colour) for index, colour in colours if colour in VOC_COLOURS]
    wrong = [(index, colour) for index, colour in known if VOC_COLOURS[colour] != index]
    if tuple(names) != VOC_CLASSES or not wrong or 2 * len(known) <= len(colours):
        return None
    index, colour = wrong[0]
    number = VOC_COLOURS[colour]
    meant = "void" if number == IGNORE else f"{VOC_CLASSES[number]!r} ({number})"
    what = f"palette index {index} has VOC's colour {colour} of {meant}: the palette was changed"
    return Problem("error", "palette", str(file), what, PALETTE_FIX)


def palette_conflicts(checks: Sequence[LabelCheck]) -> list[Problem]:
    """An error for each mask whose palette gives an index another colour than a mask before it.

    Grey ramps and palettes of one colour say nothing and are left out.
    """
    problems = []
    seen: dict[int, tuple[Colour, Path]] = {}
    for check in checks:
        if _says_nothing(check.palette):
            continue
        for index, colour in check.palette:
            other, file = seen.setdefault(index, (colour, check.file))
            if other != colour:
                what = f"palette index {index} is {colour} here and {other} in {file.name}"
                problems.append(Problem("error", "palettes differ", str(check.file), what, PALETTE_FIX))
                break
    return problems


def _says_nothing(colours: Sequence[tuple[int, Colour]]) -> bool:
    is_ramp = all(colour == (index, index, index) for index, colour in colours)
    return is_ramp or (len(colours) > 1 and len({colour for _, colour in colours}) == 1)


def _hint_at_levels(counts: np.ndarray) -> str:
    """What levels far apart may be, as the end of a fix."""
    used = np.flatnonzero(counts[:IGNORE]).tolist()
    if len(used) > 2 and used[-1] >= len(VOC_CLASSES) and VOC_GREYS.issuperset(used):
        lines = "'background 0 0 0', 'aeroplane 38 38 38' …"
        return f"; these are VOC's colours turned grey: take the colour masks, or give levels there: {lines}"
    if len(used) == 2 and used[0] == 0 and used[1] > 1:
        return f"; {BINARY_FIX.replace('255 255 255', ' '.join([str(used[1])] * 3))}"
    return ", each with its level: 'name 128 128 128'"


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:MAX_SHOWN]))
    return f"{shown} …" if len(numbers) > MAX_SHOWN else shown
