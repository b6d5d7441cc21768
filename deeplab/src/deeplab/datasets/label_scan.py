"""All labels of a data set read before it is used, so that none of them ends the work half-way."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import numpy as np
from tqdm import tqdm

from deeplab.classes import IGNORE
from deeplab.datasets.check_sample import size_mismatch
from deeplab.datasets.label_cache import LabelCache
from deeplab.datasets.label_check import LabelCheck, check_labels
from deeplab.datasets.label_problems import (
    absent_classes,
    mask_problems,
    palette_conflicts,
    palette_problem,
    set_problems,
)
from deeplab.datasets.problems import LabelError, Problem
from deeplab.datasets.samples import Dataset, Sample
from deeplab.photos import PhotoError, upright_size

MAX_BAD_SHARE = 0.01
"""Share of the photos that may be unusable before a run stops."""
MIN_BAD_LIMIT = 3
"""Unusable photos that are tolerated in a data set of any size."""

PhotoCheck = Literal["none", "size", "decoded"]
"""How photos are checked: not at all, by the size that their files give, or by decoding them."""


def too_many_bad(bad: int, total: int) -> bool:
    """Whether so many photos are unusable that a run has to stop.

    Args:
        bad: number of unusable photos.
        total: number of all photos.
    """
    return bad > max(MIN_BAD_LIMIT, MAX_BAD_SHARE * total)


def usable(
    dataset: Dataset,
    name: str,
    *,
    is_learnt: bool = False,
    is_strict: bool = False,
    photos: PhotoCheck = "size",
    on_problem: Callable[[str], None] = lambda message: None,
) -> Dataset:
    """Read all labels of a data set, and leave out samples that cannot be used.

    What was found in a file of labels is kept in the user's cache folder until the file changes.

    Args:
        dataset: the samples.
        name: the data set and the split, for messages.
        is_learnt: whether a network learns from these samples, and needs more than one class.
        is_strict: whether one sample that cannot be used is an error.
        photos: how photos are checked.
        on_problem: called with one line for each sample that is left out, and for classes that never occur.

    Returns:
        The data set without the samples that cannot be used.

    Raises:
        LabelError: if the labels cannot be meant as they are (binary masks, levels far apart, nothing but
            void or one class, palettes that differ), or if too many samples cannot be used; the message
            names the first file, and the fix.
    """
    checks = _checked(dataset.samples, photos)
    labels = [check for check, _ in checks]
    bad = _unusable(dataset, checks)
    if bad and (is_strict or len(bad) == len(dataset) or too_many_bad(len(bad), len(dataset))):
        first = next(iter(bad.values()))
        more = f" ({len(bad)} of {len(dataset)} photos cannot be used: deeplab check-data names each problem)"
        raise LabelError(f"{first}{more}", first)
    good = [check for index, check in enumerate(labels) if index not in bad]
    _refuse(palette_conflicts(good))
    _refuse(set_problems(good, dataset.class_names, name, is_named=dataset.is_named, is_whole=is_learnt))
    for problem in bad.values():
        on_problem(f"{problem}; {'another photo takes its place' if is_learnt else 'it is left out'}")
    counts = np.sum([check.counts for check in good], axis=0)
    for problem in absent_classes(counts, dataset.class_names, name):
        on_problem(f"{problem.file}: {problem.what}")
    if not bad:
        return dataset
    samples = tuple(sample for index, sample in enumerate(dataset.samples) if index not in bad)
    return replace(dataset, samples=samples)


def _checked(samples: Sequence[Sample], photos: PhotoCheck) -> list[tuple[LabelCheck, Problem | None]]:
    """What was found in the labels of each sample, and what is wrong with its photo."""
    cache = LabelCache(samples)

    def check(sample: Sample) -> tuple[LabelCheck, Problem | None]:
        found = cache.get(sample)
        if found is None:
            found = check_labels(sample)
            cache.put(sample, found)
        return found, _photo_problem(sample, found, photos)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = tqdm(
            pool.map(check, samples),
            total=len(samples),
            desc="labels",
            unit="file",
            leave=False,
            disable=None,
        )
        checks = list(results)
    cache.save()
    return checks


def _photo_problem(sample: Sample, labels: LabelCheck, photos: PhotoCheck) -> Problem | None:
    """What is wrong with a photo, or with its size beside that of its labels."""
    if photos == "none":
        return None
    try:
        size = upright_size(sample.photo)
        if photos == "decoded" or labels.shape not in (None, size):
            height, width = sample.read_photo().shape[:2]
            size = height, width
    except PhotoError as error:
        what = str(error).removeprefix(f"{sample.photo}: ")
        fix = "copy it again from its source, or remove the sample"
        return Problem("error", "damaged photo", str(sample.photo), what, fix)
    is_misfit = labels.shape is not None and size != labels.shape
    return size_mismatch(sample, size, labels.shape) if is_misfit and labels.shape else None


def _unusable(dataset: Dataset, checks: Sequence[tuple[LabelCheck, Problem | None]]) -> dict[int, Problem]:
    """The first error of each sample that cannot be used, by its index."""
    names = dataset.class_names
    only_binary = not any(check.counts[1:IGNORE].any() for check, _ in checks)
    bad = {}
    for index, (check, photo) in enumerate(checks):
        problems = [*check.problems, *mask_problems(check, len(names), only_binary=only_binary), photo]
        problems.append(palette_problem(check.file, check.palette, names))
        errors = [each for each in problems if each is not None and each.severity == "error"]
        if errors:
            bad[index] = errors[0]
    return bad


def _refuse(problems: Sequence[Problem]) -> None:
    """LabelError for the first of some problems."""
    if problems:
        more = f" ({len(problems) - 1} more: deeplab check-data names them)" if len(problems) > 1 else ""
        raise LabelError(f"{problems[0]}{more}", problems[0])
