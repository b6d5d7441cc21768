"""The check of a data set: every sample is opened, and all problems are reported together."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from deeplab.classes import IGNORE
from deeplab.datasets.check_sample import SampleCheck, check_sample
from deeplab.datasets.label_problems import (
    SMOOTHED_SHARE,
    absent_classes,
    mask_problems,
    palette_conflicts,
    palette_problem,
    set_problems,
)
from deeplab.datasets.opening import find_layout
from deeplab.datasets.problems import LabelError, Problem, Severity
from deeplab.datasets.samples import Layout, Listing, ReadOptions
from deeplab.datasets.splits import may_overlap


@dataclass(frozen=True)
class ClassCount:
    """How often one class occurs in a split."""

    name: str
    pixels: int
    photos: int
    """Number of photos that show the class."""


@dataclass(frozen=True)
class SizeCount:
    """How many photos of a split have one size."""

    height: int
    width: int
    photos: int


@dataclass(frozen=True)
class SplitReport:
    """The content of one split."""

    name: str
    samples: int
    """Number of photos with labels; the other fields leave out those that cannot be used."""
    classes: tuple[ClassCount, ...]
    """K counts in id order."""
    sizes: tuple[SizeCount, ...]
    """Sizes of the photos, the most frequent first."""
    void: float
    """Share of the pixels that are void, 0–1."""


@dataclass(frozen=True)
class Report:
    """The content of a data set and its problems."""

    root: str
    layout: str
    class_names: tuple[str, ...]
    splits: tuple[SplitReport, ...]
    problems: tuple[Problem, ...]
    """All problems, errors first."""

    def count(self, severity: Severity) -> int:
        """Count the problems of a severity."""
        return sum(problem.severity == severity for problem in self.problems)


def check(
    root: str | Path,
    splits: Sequence[str] = (),
    *,
    binary: bool = False,
    line_width: float = 0.0,
    threads: int | None = None,
    callback: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Open every sample of a data set and report its content and its problems.

    Args:
        root: a data set in a layout that ``open_dataset`` knows.
        splits: names of the splits; none for all that there are.
        binary: whether masks are black and white, as in ``open_dataset``.
        line_width: width of annotated lines and points in pixels, as in ``open_dataset``.
        threads: number of samples opened at a time; by default one for each core.
        callback: called after each sample with the number of samples done and the number of all.

    Returns:
        Counts for each split, and every problem with its fix.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if its layout is unknown, or the file that names its classes is wrong.
    """
    layout = find_layout(root, ReadOptions(binary, line_width))
    listings, problems = _list_splits(layout, tuple(dict.fromkeys(splits)) or layout.splits, str(root))
    checks = _check_samples(listings, threads or os.cpu_count() or 1, callback)
    unique = list({id(checked): checked for part in checks.values() for checked in part}.values())
    names = _class_names(listings.values(), unique)
    problems += _label_problems(str(root), listings, checks, unique, names)
    reports = tuple(_split_report(split, part, names) for split, part in checks.items())
    for part in checks.values():
        problems += _copies(part)
    for one, other in combinations(checks, 2):
        if not may_overlap(one, other):
            problems += _shared(one, checks[one], other, checks[other])
    for report in reports:
        pixels = [each.pixels for each in report.classes]
        problems += absent_classes(pixels, names, f"{root}, split {report.name}")
    once = {(problem.kind, problem.file, problem.what): problem for problem in problems}
    ordered = sorted(once.values(), key=lambda each: (each.severity != "error", each.kind, each.file))
    return Report(str(root), layout.name, names, reports, tuple(ordered))


def _label_problems(
    root: str,
    listings: Mapping[str, Listing],
    checks: Mapping[str, Sequence[SampleCheck]],
    unique: Sequence[SampleCheck],
    names: tuple[str, ...],
) -> list[Problem]:
    """The problems of labels, judged by the classes, by those of their split, and by those of all."""
    problems: list[Problem] = []
    is_named = any(listing.class_names for listing in listings.values())
    only_binary = not any(checked.labels.counts[1:IGNORE].any() for checked in unique)
    trusted = []
    for checked in unique:
        problems += checked.problems
        problems += mask_problems(checked.labels, len(names), only_binary=only_binary)
        palette = palette_problem(checked.labels.file, checked.labels.palette, names)
        if palette:
            problems.append(palette)
        else:
            trusted.append(checked.labels)
    everything = [checked.labels for checked in unique]
    problems += palette_conflicts(trusted)
    problems += set_problems(everything, names, root, is_named=is_named, is_whole=True)
    for split, part in checks.items():
        labels, name = [checked.labels for checked in part], f"{root}, split {split}"
        is_whole = split.casefold().startswith("train")
        problems += set_problems(labels, names, name, is_named=True, is_whole=is_whole)
    return problems


def _list_splits(
    layout: Layout, splits: Sequence[str], root: str
) -> tuple[dict[str, Listing], list[Problem]]:
    """List the splits, and find the problems that show before any photo is opened."""
    listings: dict[str, Listing] = {}
    problems: list[Problem] = []
    for split in splits:
        try:
            listings[split] = layout.listing(split)
        except LabelError as error:
            problems += [error.problem] if error.problem else []
        except (ValueError, OSError) as error:
            what, _, fix = str(error).partition("; ")
            problems.append(Problem("error", "unusable split", f"{root}, split {split}", what, fix))
        else:
            problems += listings[split].problems
    named = [(split, listing.class_names) for split, listing in listings.items() if listing.class_names]
    for split, names in named[1:]:
        first_split, first_names = named[0]
        if names != first_names:
            what = f"{split} has classes {', '.join(names)}, but {first_split} has {', '.join(first_names)}"
            problems.append(Problem("error", "classes differ", root, what, "name all classes in classes.txt"))
    return listings, problems


def _check_samples(
    listings: Mapping[str, Listing], threads: int, callback: Callable[[int, int], None]
) -> dict[str, list[SampleCheck]]:
    """Check the samples of each split; one that is in several splits is opened once."""
    samples = {(s.photo, s.labels): s for listing in listings.values() for s in listing.samples}
    checked = {}
    pool = ThreadPoolExecutor(threads)
    try:
        jobs = {pool.submit(check_sample, sample): key for key, sample in samples.items()}
        for done, job in enumerate(as_completed(jobs), 1):
            checked[jobs[job]] = job.result()
            callback(done, len(jobs))
    finally:  # after an interruption, too
        pool.shutdown(cancel_futures=True)
    parts = {}
    for split, listing in listings.items():
        keys = dict.fromkeys((sample.photo, sample.labels) for sample in listing.samples)
        parts[split] = [checked[key] for key in keys]
    return parts


def _class_names(listings: Iterable[Listing], checks: Sequence[SampleCheck]) -> tuple[str, ...]:
    """The class names that the data set gives, or else "class 0" to the highest id in its masks."""
    for listing in listings:
        if listing.class_names:
            return listing.class_names
    highest = max(
        (checked.labels.highest for checked in checks if checked.labels.smoothed < SMOOTHED_SHARE), default=-1
    )
    return tuple(f"class {number}" for number in range(highest + 1))


def _split_report(split: str, checks: Sequence[SampleCheck], names: Sequence[str]) -> SplitReport:
    counts = np.array([checked.labels.counts for checked in checks], np.int64).reshape(-1, IGNORE + 1)
    pixels, photos = counts.sum(axis=0), (counts > 0).sum(axis=0)
    sizes = Counter(checked.size for checked in checks if checked.size)
    return SplitReport(
        split,
        len(checks),
        tuple(ClassCount(name, int(pixels[i]), int(photos[i])) for i, name in enumerate(names)),
        tuple(SizeCount(height, width, times) for (height, width), times in sizes.most_common()),
        float(pixels[IGNORE] / pixels.sum()) if pixels.any() else 0.0,
    )


def _copies(checks: Sequence[SampleCheck]) -> list[Problem]:
    """A warning for each photo of a split that has the same bytes as another."""
    problems = []
    same = defaultdict(list)
    for checked in checks:
        same[_identity(checked)].append(checked.sample.photo)
    for first, *others in same.values():
        for photo in others:
            what = f"the same bytes as {first}"
            problems.append(Problem("warning", "same photo twice", str(photo), what, "remove one"))
    return problems


def _shared(
    one: str, checks: Sequence[SampleCheck], other: str, others: Sequence[SampleCheck]
) -> list[Problem]:
    """An error for each photo that is in two splits, and a warning for different photos of one name."""
    problems = []
    by_identity = {_identity(checked): checked.sample for checked in checks}
    names = {checked.sample.name for checked in checks}
    for checked in others:
        sample = checked.sample
        twin = by_identity.get(_identity(checked))
        if twin:
            what = f"is in {one} and in {other}"
            what += "" if twin.photo == sample.photo else f", there as {twin.photo}"
            fix = "remove it from one: scores on photos used in training are worthless"
            problems.append(Problem("error", "photo in two splits", str(sample.photo), what, fix))
        elif sample.name in names:
            what = f"another photo of that name is in {one}"
            problems.append(Problem("warning", "name in two splits", str(sample.photo), what, "rename one"))
    return problems


def _identity(checked: SampleCheck) -> str:
    """The digest of a photo, or its path if it cannot be read."""
    return checked.digest or str(checked.sample.photo)
