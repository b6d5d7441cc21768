"""Folders of photos and of their scores, refined to a folder of results."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from densecrf import images, score_files
from densecrf.jobs import JobOptions, refine_file
from densecrf.progress import ProgressBar
from densecrf.threads import thread_count
from densecrf.workers import map_in_order, split_threads


@dataclass(frozen=True)
class FolderCounts:
    """What became of a folder's photos."""

    refined: int
    skipped: int
    """Photos whose result was there already."""
    failed: int

    def __str__(self) -> str:
        return f"{self.refined} photos refined, {self.skipped} skipped, {self.failed} failed"


def refine_folder(
    photos: Path,
    scores: Path,
    out: Path,
    options: JobOptions,
    *,
    suffix: str = ".png",
    overwrite: bool = False,
) -> FolderCounts:
    """Refine every photo of a folder, several at a time; a failure is one line on the standard error stream.

    A photo, its scores and its result have one name with different endings. Photos whose result is there
    already are skipped, so that a run that was interrupted goes on where it stopped.

    Args:
        photos: folder of photos.
        scores: folder of scores.
        out: folder of results, which is made if it is missing.
        options: see ``jobs.refine_file``; threads is the number of photos at a time.
        suffix: ".png" or ".npy", what to write.
        overwrite: whether to refine photos again whose result is there.

    Returns:
        How many photos were refined, skipped, and failed.

    Raises:
        OSError: if a folder cannot be read or made.
        ValueError: for folders without photos, two photos or two score files of one name, or the folder of
        photos
            or scores as the folder of results.
    """
    if out.resolve() in (photos.resolve(), scores.resolve()):
        raise ValueError(f"got {out} for photos or scores and for results, wanted another folder for results")
    found = _files_by_name(photos, images.SUFFIXES, "photos")
    known = _files_by_name(scores, score_files.SUFFIXES, "scores")
    out.mkdir(parents=True, exist_ok=True)
    targets = {name: out / f"{name}{suffix}" for name in found}
    todo = [name for name in found if overwrite or not targets[name].exists()]
    workers, each = split_threads(thread_count(options.threads), len(todo))
    options = replace(options, threads=each)

    def refine_one(name: str) -> str:
        if name not in known:
            raise FileNotFoundError(f"no scores {name}.npy or the like in {scores}")
        return refine_file(found[name], known[name], targets[name], options)

    failed = 0
    with ProgressBar(len(todo)) as bar:
        for name, result in map_in_order(refine_one, todo, workers):
            if isinstance(result, ImportError):
                raise result
            if isinstance(result, Exception):
                failed += 1
                message = " ".join(str(result).split()) or type(result).__name__
                bar.print(f"densecrf: error: {found[name].name}: {message}")
            bar.advance()
    return FolderCounts(len(todo) - failed, len(found) - len(todo), failed)


def _files_by_name(folder: Path, suffixes: Collection[str], what: str) -> dict[str, Path]:
    """The files of a folder with certain endings by their names without ending, sorted."""
    files = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )
    if not files:
        raise ValueError(f"{folder}: got no {what}, wanted files ending in {', '.join(suffixes)}")
    by_name: dict[str, Path] = {}
    for path in files:
        other = by_name.setdefault(path.stem, path)
        if other is not path:
            raise ValueError(
                f"{folder}: got {other.name} and {path.name}, wanted one file of each name; keep {what} "
                "alone in a folder"
            )
    return by_name
