"""What is in a data set, and what is wrong with it: every pair is opened, and no fault stops the others."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from deeplab.classes import IGNORE
from deeplab.datasets.check_sample import SMOOTHED, SampleCheck, inspect, judge
from deeplab.datasets.class_files import is_void
from deeplab.datasets.opening import find_layout
from deeplab.datasets.problems import LabelError, Problem, Severity
from deeplab.datasets.samples import Layout, Listing
from deeplab.datasets.splits import WHOLE


@dataclass(frozen=True)
class ClassCount:
    """How much of a split is of one class."""

    name: str
    pixels: int
    photos: int


@dataclass(frozen=True)
class SizeCount:
    """How many photos of a split have one size."""

    height: int
    width: int
    photos: int


@dataclass(frozen=True)
class SplitReport:
    """What is in one split."""

    name: str
    pairs: int
    """Photos with labels; those that cannot be used take no part in what follows."""
    classes: tuple[ClassCount, ...]
    """K counts, id order."""
    sizes: tuple[SizeCount, ...]
    """The most frequent first."""
    void: float
    """Share of the pixels that are void, 0–1."""


@dataclass(frozen=True)
class Report:
    """What is in a data set and what is wrong with it."""

    root: str
    layout: str
    class_names: tuple[str, ...]
    splits: tuple[SplitReport, ...]
    faults: tuple[Problem, ...]
    """Errors first."""

    def count(self, severity: Severity) -> int:
        """How many faults are of that severity."""
        return sum(fault.severity == severity for fault in self.faults)


def check(
    root: str | Path,
    splits: Sequence[str] = (),
    *,
    threads: int | None = None,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Open every pair of a data set and tell what is there and what is wrong.

    Args:
        root: a data set in a layout that ``open_dataset`` knows.
        splits: names of its parts; none for all that are there.
        threads: how many pairs are opened at a time; by default one for each core.
        watch: called as pairs are done, with how many are and how many there are.

    Returns:
        Counts for each split, and every fault with its cure.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if its layout is not known, or the file that names its classes is wrong.
    """
    layout = find_layout(root)
    listings, faults = _listings(layout, tuple(dict.fromkeys(splits)) or layout.splits, str(root))
    seen = _inspected(listings, threads or os.cpu_count() or 1, watch)
    every = list({id(found): found for part in seen.values() for found in part}.values())
    names = next((listing.class_names for listing in listings.values() if listing.class_names), None)
    if names is None:
        highest = max((found.highest for found in every if found.smoothed < SMOOTHED), default=-1)
        names = tuple(f"class {number}" for number in range(highest + 1))
    only_binary = not any(found.counts[1:IGNORE].any() for found in every)
    for found in every:
        faults += [*found.faults, *judge(found, len(names), only_binary=only_binary)]
    reports = tuple(_report(split, part, names) for split, part in seen.items())
    faults += _copies(seen)
    faults += [fault for report in reports for fault in _absent(report, str(root))]
    once = {(fault.kind, fault.file, fault.what): fault for fault in faults}
    ordered = sorted(once.values(), key=lambda fault: (fault.severity != "error", fault.kind, fault.file))
    return Report(str(root), layout.name, names, reports, tuple(ordered))


def _listings(layout: Layout, splits: Sequence[str], root: str) -> tuple[dict[str, Listing], list[Problem]]:
    """What is there of each split, and what is wrong before any photo is opened."""
    listings: dict[str, Listing] = {}
    faults: list[Problem] = []
    for split in splits:
        try:
            listings[split] = layout.listing(split)
        except LabelError as error:
            faults += [error.fault] if error.fault else []
        except (ValueError, OSError) as error:
            what, _, cure = str(error).partition("; ")
            faults.append(Problem("error", "unusable split", f"{root}, split {split}", what, cure))
        else:
            faults += listings[split].faults
    named = [(split, listing.class_names) for split, listing in listings.items() if listing.class_names]
    for split, names in named[1:]:
        if names != named[0][1]:
            what = f"{split} has classes {', '.join(names)}, but {named[0][0]} has {', '.join(named[0][1] or ())}"
            faults.append(Problem("error", "classes differ", root, what, "name all classes in classes.txt"))
    return listings, faults


def _inspected(
    listings: Mapping[str, Listing], threads: int, watch: Callable[[int, int], None]
) -> dict[str, list[SampleCheck]]:
    """The pairs of each split, each opened once."""
    pairs = {(p.photo, p.labels): p for listing in listings.values() for p in listing.pairs}
    found = {}
    pool = ThreadPoolExecutor(threads)
    try:
        jobs = {pool.submit(inspect, pair): key for key, pair in pairs.items()}
        for done, job in enumerate(as_completed(jobs), 1):
            found[jobs[job]] = job.result()
            watch(done, len(jobs))
    finally:  # interrupted, too
        pool.shutdown(cancel_futures=True)
    keys = {split: dict.fromkeys((p.photo, p.labels) for p in x.pairs) for split, x in listings.items()}
    return {split: [found[key] for key in part] for split, part in keys.items()}


def _report(split: str, part: Sequence[SampleCheck], names: Sequence[str]) -> SplitReport:
    counts = np.array([found.counts for found in part], np.int64).reshape(-1, IGNORE + 1)
    pixels, photos = counts.sum(axis=0), (counts > 0).sum(axis=0)
    sizes = Counter(found.size for found in part if found.size)
    return SplitReport(
        split,
        len(part),
        tuple(ClassCount(name, int(pixels[i]), int(photos[i])) for i, name in enumerate(names)),
        tuple(SizeCount(height, width, times) for (height, width), times in sizes.most_common()),
        float(pixels[IGNORE] / pixels.sum()) if pixels.any() else 0.0,
    )


def _absent(report: SplitReport, root: str) -> list[Problem]:
    """A warning if classes do not occur in a split that has any."""
    absent = [each.name for each in report.classes if not each.pixels and not is_void(each.name)]
    if not absent or not any(each.pixels for each in report.classes):
        return []
    cure = "label some, or take the class out of the class file; its IoU will be n/a, and it cannot be learnt"
    what = f"no pixel of {', '.join(absent)}"
    return [Problem("warning", "class never present", f"{root}, split {report.name}", what, cure)]


def _copies(parts: Mapping[str, Sequence[SampleCheck]]) -> list[Problem]:
    """Photos that are in two splits, and copies within one."""
    faults = []
    for part in parts.values():
        same = defaultdict(list)
        for found in part:
            same[found.digest or str(found.pair.photo)].append(found)
        for first, *others in same.values():
            for other in others:
                what, cure = f"the same bytes as {first.pair.photo}", "take one out"
                faults.append(Problem("warning", "same photo twice", str(other.pair.photo), what, cure))
    for one, two in combinations(parts, 2):
        if _overlap_is_meant(one, two):
            continue
        bytes_of = {found.digest or str(found.pair.photo): found for found in parts[one]}
        names = {found.pair.name for found in parts[one]}
        for found in parts[two]:
            twin = bytes_of.get(found.digest or str(found.pair.photo))
            if twin:
                what = f"is in {one} and in {two}"
                what += "" if twin.pair.photo == found.pair.photo else f", there as {twin.pair.photo}"
                cure = "take it out of one: scores on photos that were trained on say nothing"
                faults.append(Problem("error", "photo in two splits", str(found.pair.photo), what, cure))
            elif found.pair.name in names:
                what = f"another photo of that name is in {one}"
                faults.append(
                    Problem("warning", "name in two splits", str(found.pair.photo), what, "rename one")
                )
    return faults


def _overlap_is_meant(one: str, two: str) -> bool:
    """Whether splits share photos by their very names: train and train_aug, trainval and val, all and any
    other."""
    both_train = one.startswith("train") and two.startswith("train")
    return both_train or one in two or two in one or one in WHOLE or two in WHOLE
