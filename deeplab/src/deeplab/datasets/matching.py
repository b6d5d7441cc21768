"""Which photo goes with which mask: files of the same stem, whatever their endings."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from deeplab.datasets.problems import Problem
from deeplab.datasets.samples import Sample
from deeplab.datasets.splits import Choice
from deeplab.photos import PHOTO_ENDINGS

Files = Mapping[str, Sequence[Path]]


def by_stem(folder: Path, endings: Sequence[str] = PHOTO_ENDINGS) -> dict[str, list[Path]]:
    """The files below a folder by their path in it without the ending, sorted; hidden ones are passed over.

    Args:
        folder: looked through with its subfolders, also those that are links.
        endings: lower case, dot included.
    """
    found: dict[str, list[Path]] = {}
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        for name in () if real in seen else sorted(files):
            stem, ending = os.path.splitext(name)
            if ending.lower() in endings and not name.startswith("."):
                key = (Path(place).relative_to(folder) / stem).as_posix()
                found.setdefault(key, []).append(Path(place) / name)
        seen.add(real)  # a link to a folder above would lead round in circles
    return dict(sorted(found.items()))


def match(
    choice: Choice,
    photos: Files,
    masks: Files,
    folders: tuple[Path, Path],
    reader: Callable[[Path], np.ndarray],
) -> tuple[tuple[Sample, ...], tuple[Problem, ...]]:
    """The pairs of the chosen stems, and a fault for each that is not one photo and one mask.

    Args:
        choice: stems of a split, and the list that names them, if one does.
        photos: photos by stem.
        masks: masks by stem.
        folders: where photos and masks should be, for messages.
        reader: makes ids of a mask.
    """
    pairs, faults = [], []
    for key, times in Counter(choice.keys).items():
        here, there = photos.get(key, ()), masks.get(key, ())
        name = key.removeprefix(choice.prefix)
        for files, kind in ((here, "photos"), (there, "masks")):
            if len(files) > 1:
                names = " and ".join(file.name for file in files)
                faults.append(
                    Problem(
                        "error", "two files of one name", str(files[0]), f"two {kind}: {names}", "keep one"
                    )
                )
        if len(here) == 1 and len(there) == 1:
            pairs += [Sample(name, here[0], there[0], reader)] * times
        if times > 1 and choice.listing:
            what = f"names {name!r} {times} times"
            faults.append(Problem("warning", "listed twice", str(choice.listing), what, "name it once"))
        lacking = [("photo", folders[0], here), ("mask", folders[1], there)]
        for kind, folder, files in lacking:
            if files:
                continue
            if choice.listing:
                what = f"names {name!r}, but there is no {folder / key}.*"
                cure = f"put the {kind} there, or take the name out of the list"
                faults.append(Problem("error", f"missing {kind}", str(choice.listing), what, cure))
            elif kind == "mask":
                cure = f"put it there as {key}.png, or take the photo away"
                faults.append(
                    Problem("error", "missing mask", str(here[0]), f"no mask of that stem in {folder}", cure)
                )
            else:
                what, cure = f"no photo of that stem in {folder}", "put it there, or take the mask away"
                faults.append(Problem("warning", "missing photo", str(there[0]), what, cure))
    return tuple(pairs), tuple(faults)
