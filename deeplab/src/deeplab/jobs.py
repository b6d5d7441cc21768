"""Many photos: which files are photos, what their results are called, and a table of what was found in them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from deeplab.photos import PHOTO_ENDINGS
from deeplab.report import png, side_by_side, with_legend
from deeplab.segment import Model, Segmentation
from deeplab.weights import write_whole
from densecrf import Params

MOST_ROWS = 40


@dataclass(frozen=True)
class Job:
    """One photo and the path of its results, without an ending."""

    photo: Path
    target: Path


def plan(inputs: Sequence[Path], out: Path) -> tuple[list[Job], list[str]]:
    """What to do for files and folders named by a person.

    A folder gives its photos, subfolders included, in sorted order; their results keep the subfolders. Photos that
    would share one result file (a.jpg and a.png) keep their endings in its name. Results never replace a photo.

    Args:
        inputs: files and folders; a file is taken whatever its ending.
        out: the folder for results; inside an input folder it is passed over.

    Returns:
        Jobs with distinct targets, and a line for each folder without photos.
    """
    places: dict[Path, Path] = {}  # photo: its place under `out`
    complaints = []
    for path in inputs:
        if not path.is_dir():
            places.setdefault(path, Path(path.name))
            continue
        photos = [file for file in sorted(path.rglob("*")) if _is_photo(file, out)]
        for photo in photos:
            places.setdefault(photo, photo.relative_to(path))
        if not photos:
            complaints.append(f"{path}: a folder without photos; wanted files ending in {', '.join(PHOTO_ENDINGS)}")
    stems = Counter(place.with_suffix("") for place in places.values())
    jobs: list[Job] = []
    taken = {photo.resolve() for photo in places}  # and every file that a job before will write
    for photo, place in places.items():
        target, number = (place.with_suffix("") if stems[place.with_suffix("")] == 1 else place), 1
        while taken & (files := {_file(out / target, kind).resolve() for kind in KINDS}):
            number += 1
            target = place.with_name(f"{place.name}-{number}")
        taken |= files
        jobs.append(Job(photo, out / target))
    return jobs, complaints


KINDS = ("", "_overlay", "_compare")


def write_results(job: Job, model: Model, *, crf: bool | Params, compare: bool, **looks: Any) -> Segmentation:
    """Segment one photo and write TARGET.png (ids), TARGET_overlay.png and, if asked, TARGET_compare.png.

    ``crf`` is as in ``Model.segment``, ``looks`` are its scales, mirror and tile.

    Raises:
        PhotoError, ValueError, MemoryError: as ``Model.segment``; OSError if a file cannot be written.
    """
    plain = model.segment(job.photo, crf=False, **looks)
    result = plain if crf is False else model.refine(plain, params=None if crf is True else crf)
    result.save(_file(job.target, ""))
    picture = with_legend(result.overlay(), result.shares(), result.class_names)
    write_whole(_file(job.target, "_overlay"), png(picture))
    if compare:
        pictures = {"photo": plain.photo, "network": plain.overlay()}
        sheet = side_by_side(pictures | ({"network + CRF": result.overlay()} if crf is not False else {}))
        write_whole(_file(job.target, "_compare"), png(sheet))
    return result


class ClassTable:
    """The classes of each photo with their share of the picture, and how long each step took."""

    def __init__(self) -> None:
        self._rows: list[tuple[Path, dict[str, float], dict[str, float]]] = []

    def add(self, photo: Path, result: Segmentation) -> None:
        """Note what was found in one photo."""
        self._rows.append((photo, result.shares(), result.seconds))

    def write(self, path: Path) -> None:
        """A CSV with a row for each class of each photo: photo, class, share (0–1)."""
        lines = [("photo", "class", "share")]
        lines += [
            (str(photo), name, f"{share:.6f}") for photo, shares, _ in self._rows for name, share in shares.items()
        ]
        text = io.StringIO(newline="")
        csv.writer(text).writerows(lines)
        write_whole(path, text.getvalue().encode())

    def render(self) -> Table:
        """For the terminal: every photo's classes, or of many photos how often and how widely each class occurs."""
        if sum(len(shares) for _, shares, _ in self._rows) > MOST_ROWS:
            return self._totals()
        steps = list(self._rows[0][2]) if self._rows else []
        table = Table("photo", "class", "share", *(f"{step}, s" for step in steps), box=None)
        for column in table.columns[2:]:
            column.justify = "right"
        for photo, shares, seconds in self._rows:
            for place, (name, share) in enumerate(shares.items()):
                times = [f"{value:.2f}" for value in seconds.values()] if place == 0 else []
                table.add_row(photo.name if place == 0 else "", name, f"{100 * share:.1f} %", *times)
        return table

    def _totals(self) -> Table:
        photos: Counter[str] = Counter()
        area: Counter[str] = Counter()
        for _, shares, _ in self._rows:
            photos.update(shares.keys())
            area.update(shares)
        table = Table("class", "photos with it", "mean share", box=None)
        for name, share in area.most_common():
            table.add_row(name, str(photos[name]), f"{100 * share / len(self._rows):.1f} %")
        return table


def _file(target: Path, kind: str) -> Path:
    return target.with_name(f"{target.name}{kind}.png")


def _is_photo(path: Path, out: Path) -> bool:
    hidden, written = path.name.startswith("."), out.resolve() in path.resolve().parents
    return path.suffix.lower() in PHOTO_ENDINGS and path.is_file() and not hidden and not written
