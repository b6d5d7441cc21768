"""Matching photos with masks: files of the same stem, whatever their endings."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from deeplab.datasets.problems import Problem
from deeplab.datasets.samples import Sample
from deeplab.datasets.splits import Selection
from deeplab.photos import PHOTO_ENDINGS

FilesByStem = Mapping[str, Sequence[Path]]


def files_by_stem(folder: Path, endings: Sequence[str] = PHOTO_ENDINGS) -> dict[str, list[Path]]:
    """Find the files below a folder, sorted; hidden ones are left out.

    Args:
        folder: searched with its subfolders, including those that are links.
        endings: endings of the files, in lower case with the dot.

    Returns:
        Files by stem: the path in the folder without the ending, in Unicode NFC. Several files may share one.
    """
    found: dict[str, list[Path]] = {}
    visited = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in visited else sorted(name for name in folders if not name.startswith("."))
        for name in () if real in visited else sorted(files):
            stem, ending = os.path.splitext(name)
            if ending.lower() in endings and not name.startswith("."):
                key = unicodedata.normalize("NFC", (Path(parent).relative_to(folder) / stem).as_posix())
                found.setdefault(key, []).append(Path(parent) / name)
        visited.add(real)  # a link to a parent folder would never end
    return dict(sorted(found.items()))


def subfolder(root: Path, name: str) -> Path:
    """Get a subfolder by its name, whatever the capitals.

    Args:
        root: the folder above.
        name: name of the subfolder.

    Returns:
        Path of the subfolder; ``root / name`` if there is none.
    """
    exact = root / name
    if exact.is_dir() or not root.is_dir():
        return exact
    folders = (path for path in sorted(root.iterdir()) if path.name.casefold() == name.casefold())
    return next((path for path in folders if path.is_dir()), exact)


def match_samples(
    selection: Selection,
    photos: FilesByStem,
    masks: FilesByStem,
    folders: tuple[Path, Path],
    reader: Callable[[Path], np.ndarray],
) -> tuple[tuple[Sample, ...], tuple[Problem, ...]]:
    """Match the photos and masks of a split.

    Args:
        selection: stems of the split, and the list that names them, if there is one.
        photos: photos by stem.
        masks: masks by stem.
        folders: folders where photos and masks should be, for messages.
        reader: function that reads the ids of a mask.

    Returns:
        The samples, and a problem for each stem that does not have exactly one photo and one mask.
    """
    samples, problems = [], []
    for stem, times in Counter(selection.stems).items():
        found = {"photo": photos.get(stem, ()), "mask": masks.get(stem, ())}
        name = stem.removeprefix(selection.prefix)
        for kind, files in found.items():
            if len(files) > 1:
                what = f"two {kind}s: {' and '.join(file.name for file in files)}"
                problems.append(Problem("error", "two files of one name", str(files[0]), what, "keep one"))
        if all(len(files) == 1 for files in found.values()):
            samples += [Sample(name, found["photo"][0], found["mask"][0], reader)] * times
        if times > 1 and selection.listing:
            what = f"names {name!r} {times} times"
            problems.append(Problem("warning", "listed twice", str(selection.listing), what, "name it once"))
        for (kind, files), folder in zip(found.items(), folders, strict=True):
            if files:
                continue
            if selection.listing:
                problems.append(_not_found(selection.listing, kind, name, folder / stem))
            elif kind == "mask":
                what = f"no mask of that stem in {folder}"
                fix = f"put it there as {stem}.png, or remove the photo"
                problems.append(Problem("error", "missing mask", str(found["photo"][0]), what, fix))
            else:
                what = f"no photo of that stem in {folder}"
                fix = "put it there, or remove the mask"
                problems.append(Problem("warning", "missing photo", str(found["mask"][0]), what, fix))
    return tuple(samples), tuple(problems)


def _not_found(listing: Path, kind: str, name: str, path: Path) -> Problem:
    """The error for a name in a list that has no photo or no mask."""
    what = f"names {name!r}, but there is no {path}.*"
    fix = f"put the {kind} there, or take the name out of the list"
    return Problem("error", f"missing {kind}", str(listing), what, fix)
