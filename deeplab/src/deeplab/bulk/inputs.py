"""Inputs of a job: which files are photos, what their results are called, and which part a machine does."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeplab.bulk.jobs import Job
from deeplab.paths import is_below
from deeplab.photos import PHOTO_ENDINGS


def plan(inputs: Sequence[Path], out: Path) -> tuple[list[Job], list[str]]:
    """List the jobs for the files, folders and patterns of a command line.

    A folder gives its photos, subfolders included, in sorted order; their results keep the subfolders. A
    pattern such as photos/**/*.jpg does the same from the folder before its first wildcard. Photos that would
    share a result file (a.jpg and a.png) keep their endings in its name. Results never replace a photo.

    Args:
        inputs: files, folders and patterns; a file is used whatever its ending.
        out: the folder for results; inside an input folder it is skipped.

    Returns:
        Jobs with distinct targets, and an error message for each folder and pattern without photos.
    """
    real = _RealPaths()
    targets, errors = _targets(inputs, real.folder(out) + os.sep, real)
    stems = Counter(target.with_suffix("") for target in targets.values())
    jobs: list[Job] = []
    reserved = {name for photo in targets for name in real.names(photo)}  # and the files of earlier jobs
    for photo, relative in targets.items():
        is_unique = stems[relative.with_suffix("")] == 1
        target = relative.with_suffix("") if is_unique else relative
        number = 1
        while reserved & (files := {real.file(file) for file in Job(photo, out / target).output_files()}):
            number += 1
            target = relative.with_name(f"{relative.name}-{number}")
        reserved |= files
        jobs.append(Job(photo, out / target))
    return jobs, errors


@dataclass(frozen=True)
class Shard:
    """One of several parts of a list of photos. Every machine computes the same parts."""

    number: int
    """Number of this part, from 1."""
    count: int
    """Number of parts."""

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse a text such as "2/8".

        Raises:
            ValueError: for any other text, or a number that is not between 1 and the count.
        """
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise ValueError(
                f"got shard {text!r}, wanted I/N with I from 1 to N, such as 1/8 to 8/8 for 8 machines"
            )
        return cls(int(number), int(count))

    def select(self, jobs: Iterable[Job], out: Path) -> Iterator[Job]:
        """Select the jobs of this part by a hash of each result's name, whatever the order and other photos.

        Args:
            jobs: all jobs.
            out: the folder for results.
        """
        for job in jobs:
            name = job.target.relative_to(out).as_posix().encode(errors="surrogateescape")
            digest = hashlib.blake2b(name, digest_size=8).digest()
            if int.from_bytes(digest, "big") % self.count == self.number - 1:
                yield job


class _RealPaths:
    """Real paths of files. Each folder is resolved once, since a million photos are in few folders."""

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
        """A photo's own path and, if it is a link, that of the file it points to."""
        return {self.file(photo), *([os.path.realpath(photo)] if photo.is_symlink() else [])}


def _targets(inputs: Sequence[Path], results: str, real: _RealPaths) -> tuple[dict[Path, Path], list[str]]:
    """Photos with their paths below the folder of results, and an error message for each empty input.

    Args:
        inputs: files, folders and patterns.
        results: prefix of real paths in the folder of results; photos there are skipped.
        real: resolves paths.
    """
    targets: dict[Path, Path] = {}
    errors = []
    for path in inputs:
        is_pattern = glob.has_magic(str(path)) and not path.exists()
        if not is_pattern and not path.is_dir():
            targets.setdefault(path, Path(path.name))
            continue
        root = _folder_before_wildcards(path) if is_pattern else path
        files = map(Path, glob.iglob(str(path), recursive=True)) if is_pattern else path.rglob("*")
        photos = sorted(
            file
            for file in files
            if _is_photo(file) and not any(name.startswith(results) for name in real.names(file))
        )
        for photo in photos:
            relative = photo.relative_to(root)  # photos/*/../a.jpg leads out of the root
            targets.setdefault(photo, relative if is_below(str(relative)) else Path(photo.name))
        if not photos:
            what = "a pattern that fits no photos" if is_pattern else "a folder without photos"
            errors.append(f"{path}: {what}; wanted files ending in {', '.join(PHOTO_ENDINGS)}")
    return targets, errors


def _folder_before_wildcards(pattern: Path) -> Path:
    fixed = Path(pattern.anchor)
    for part in pattern.relative_to(fixed).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_ENDINGS and not path.name.startswith(".") and path.is_file()
