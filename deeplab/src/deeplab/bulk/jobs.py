"""Many photos: which files are photos, what their results are called, and what is done with one of them."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from deeplab.drawing import png, side_by_side, with_legend
from deeplab.files import write_whole
from deeplab.large_images.blocks import Layout
from deeplab.large_images.segment import MEMORY, LargeSegmentation, segment_mosaic
from deeplab.model.segmentation import Model, Segmentation
from deeplab.paths import is_below
from deeplab.photos import PHOTO_ENDINGS
from densecrf import Params

HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no photo after this one could be written, either
KINDS = ("", "_overlay", "_compare")


@dataclass(frozen=True)
class Job:
    """One photo and the path of its results, without an ending."""

    photo: Path
    target: Path

    def files(self, kinds: Iterable[str] = KINDS) -> tuple[Path, ...]:
        """What is written for the photo: TARGET.png (ids), TARGET_overlay.png, TARGET_compare.png."""
        return tuple(self.target.with_name(f"{self.target.name}{kind}.png") for kind in kinds)


class LargeJob(Job):
    """A picture that is worked on in blocks: see ``mosaic_job``."""

    def files(self, kinds: Iterable[str] = KINDS) -> tuple[Path, ...]:
        """What is written for it, whatever the kinds asked for: TARGET.tif (ids) and TARGET_overlay.png."""
        return self.target.with_name(f"{self.target.name}.tif"), Job.files(self)[1]


@dataclass(frozen=True)
class Settings:
    """What is asked of every photo; the fields are those of ``Model.segment``."""

    crf: bool | Params = True
    scales: tuple[float, ...] = (1.0,)
    mirror: bool = False
    tile: int | None = None
    size: int | None = None
    compare: bool = False
    """Whether a picture of photo, network and CRF side by side is written, too."""
    levels: tuple[float, float] | None = None
    """Of large pictures with more than 8 bits: which levels become black and white."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of KINDS, those that are written."""
        return KINDS if self.compare else KINDS[:2]

    def facts(self, model: Model) -> dict[str, Any]:
        """What the labels depend on, as JSON takes it; neither device, precision, windows nor more pictures
        change it.

        Weights are known by their content, so that another machine may have them under another name.
        """
        params = model.crf_params if self.crf is True else self.crf
        return {
            "weights": model.digest,
            "variant": model.card.variant,
            "classes": list(model.class_names),
            "crf": asdict(params) if isinstance(params, Params) else None,
            "scales": list(self.scales),
            "mirror": self.mirror,
            "size": model.card.size if self.size is None else self.size,
            **({} if self.levels is None else {"levels": list(self.levels)}),
        }


@dataclass(frozen=True)
class Outcome:
    """What became of one photo."""

    job: Job
    shares: dict[str, float] = field(default_factory=dict)
    """Class to its share of the pixels, 0–1, largest first."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each step took."""
    error: str | None = None
    """One line, if there are no results."""
    worker: str = ""
    """Machine and process, where it was not this one."""


def plan(inputs: Sequence[Path], out: Path) -> tuple[list[Job], list[str]]:
    """What to do for files, folders and patterns named by a person.

    A folder gives its photos, subfolders included, in sorted order; their results keep the subfolders. A
    pattern such as photos/**/*.jpg does the same from the folder before its first wildcard. Photos that would
    share one result file (a.jpg and a.png) keep their endings in its name. Results never replace a photo.

    Args:
        inputs: files, folders and patterns; a file is taken whatever its ending.
        out: the folder for results; inside an input folder it is passed over.

    Returns:
        Jobs with distinct targets, and a line for each folder and pattern without photos.
    """
    places: dict[Path, Path] = {}  # photo: its place under `out`
    complaints = []
    real = _RealPaths()
    written = real.folder(out) + os.sep
    for path in inputs:
        pattern = glob.has_magic(str(path)) and not path.exists()
        if not pattern and not path.is_dir():
            places.setdefault(path, Path(path.name))
            continue
        root = _fixed_part(path) if pattern else path
        found = (Path(name) for name in glob.iglob(str(path), recursive=True)) if pattern else path.rglob("*")
        photos = sorted(
            file
            for file in found
            if _is_photo(file) and not any(name.startswith(written) for name in real.names(file))
        )
        for photo in photos:
            place = photo.relative_to(root)  # photos/*/../a.jpg leads out of the folder before the wildcard
            places.setdefault(photo, place if is_below(str(place)) else Path(photo.name))
        if not photos:
            what = "a pattern that fits no photos" if pattern else "a folder without photos"
            complaints.append(f"{path}: {what}; wanted files ending in {', '.join(PHOTO_ENDINGS)}")
    stems = Counter(place.with_suffix("") for place in places.values())
    jobs: list[Job] = []
    taken = {
        name for photo in places for name in real.names(photo)
    }  # and every file that a job before will write
    for photo, place in places.items():
        target, number = (place.with_suffix("") if stems[place.with_suffix("")] == 1 else place), 1
        while taken & (files := {real.file(file) for file in Job(photo, out / target).files()}):
            number += 1
            target = place.with_name(f"{place.name}-{number}")
        taken |= files
        jobs.append(Job(photo, out / target))
    return jobs, complaints


def write_results(job: Job, model: Model, settings: Settings, *, threads: int | None = None) -> Segmentation:
    """Segment one photo and write its files, each whole or not at all; the ids come last, so they mean all
    are there.

    ``threads`` is for the CRF; torch's own number is the caller's.

    Raises:
        PhotoError, ValueError, MemoryError: as ``Model.segment``; OSError if a file cannot be written.
    """
    looks: dict[str, Any] = {name: getattr(settings, name) for name in ("scales", "mirror", "tile", "size")}
    plain = result = model.segment(job.photo, crf=False, **looks)
    if settings.crf is not False:
        params = None if settings.crf is True else settings.crf
        result = model.refine(plain, params=params, threads=threads)
    started = time.perf_counter()
    ids, overlay, compare = job.files()
    write_whole(overlay, png(with_legend(result.overlay(), result.shares(), result.class_names)))
    if settings.compare:
        pictures = {"photo": plain.photo, "network": plain.overlay()}
        sheet = side_by_side(
            pictures | ({"network + CRF": result.overlay()} if settings.crf is not False else {})
        )
        write_whole(compare, png(sheet))
    result.save(ids)
    return replace(result, seconds=result.seconds | {"write": time.perf_counter() - started})


def write_large(
    job: Job, model: Model, settings: Settings, *, threads: int | None = None
) -> LargeSegmentation:
    """The same for a large picture, in blocks.

    Raises:
        As ``segment_mosaic``; ValueError for several scales, mirrored copies or a size, too.
    """
    if settings.scales != (1.0,) or settings.mirror or settings.size:
        raise ValueError(
            "in blocks a picture is looked at once, at its own scale; wanted none of --scales, --mirror and --size"
        )
    params = None if settings.crf is False else model.crf_params if settings.crf is True else settings.crf
    layout = Layout.within(MEMORY, model, params)
    if settings.tile is not None:
        layout = replace(layout, window=-(-settings.tile // 8) * 8)
    return segment_mosaic(
        job.photo, job.target, model, crf=settings.crf, threads=threads, levels=settings.levels, layout=layout
    )


def attempt(job: Job, model: Model, settings: Settings, *, threads: int | None = None) -> Outcome:
    """``write_results`` or ``write_large``, with what is wrong with this one photo as an outcome.

    Raises:
        OSError: if no other photo could be written, either: the disk is full.
    """
    try:
        write = write_large if isinstance(job, LargeJob) else write_results
        result = write(job, model, settings, threads=threads)
    except (ValueError, OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno in HOPELESS:
            raise
        text = " ".join((str(error) or "out of memory").split())
        if isinstance(error, MemoryError) and not isinstance(job, LargeJob):
            text += (
                "; --no-crf needs less, and --blocks 2 GB, but then the network sees the photo at full size"
            )
        return Outcome(job, error=text if text.startswith(str(job.photo)) else f"{job.photo}: {text}")
    return Outcome(job, result.shares(), result.seconds)


@dataclass(frozen=True)
class Shard:
    """One of ``count`` parts of a list of photos, the same part on every machine."""

    number: int
    """From 1."""
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "2/8"; ValueError for anything else."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise ValueError(
                f"got shard {text!r}, wanted I/N with I from 1 to N, such as 1/8 to 8/8 for 8 machines"
            )
        return cls(int(number), int(count))

    def of(self, jobs: Iterable[Job], out: Path) -> Iterator[Job]:
        """The jobs of this part: chosen by a hash of the result's name, so the order and other photos do not
        matter."""
        for job in jobs:
            name = job.target.relative_to(out).as_posix().encode(errors="surrogateescape")
            if (
                int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") % self.count
                == self.number - 1
            ):
                yield job


class _RealPaths:
    """Files by where they really are; each folder is looked up once, as a million photos lie in few of
    them."""

    def __init__(self) -> None:
        self._folders: dict[Path, str] = {}

    def folder(self, path: Path) -> str:
        if path not in self._folders:
            self._folders[path] = os.path.realpath(path)
        return self._folders[path]

    def file(self, path: Path) -> str:
        """Where a file of this name would be written."""
        return os.path.join(self.folder(path.parent), path.name)

    def names(self, photo: Path) -> set[str]:
        """A photo's own place and that of the file which it may be a link to."""
        return {self.file(photo), *([os.path.realpath(photo)] if photo.is_symlink() else [])}


def _fixed_part(pattern: Path) -> Path:
    """The folder before a pattern's first wildcard."""
    fixed = Path(pattern.anchor)
    for part in pattern.relative_to(fixed).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_ENDINGS and not path.name.startswith(".") and path.is_file()
