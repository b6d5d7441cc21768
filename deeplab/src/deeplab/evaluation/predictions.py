"""Label maps predicted by another program: a folder with one picture for each photo of a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeplab.classes import IGNORE, palette
from deeplab.datasets.label_check import LabelCheck, used_palette
from deeplab.datasets.label_problems import palette_conflicts, palette_problem
from deeplab.datasets.mask_colours import reads_indices
from deeplab.datasets.mask_files import load_mask, palette_colours, read_ids
from deeplab.datasets.opening import Dataset
from deeplab.datasets.problems import LabelError
from deeplab.paths import path_below

MAX_NAMED = 3
"""How many missing files an error names."""
ENDINGS = (".png", ".PNG", ".tif", ".tiff", ".bmp", ".gif")

Reader = Callable[[Path], np.ndarray]


def prediction_files(folder: str | Path, names: Sequence[str], split: str = "") -> tuple[Path, ...]:
    """Find the file of each photo.

    Args:
        folder: folder of the files; other files in it are ignored.
        names: names of the photos; the file of each is NAME.png, or ends as another lossless picture.
        split: name of a subfolder that holds the files if the folder itself has none of them.

    Returns:
        The files, in the order of the names.

    Raises:
        FileNotFoundError: if there is no such folder, or files are missing; the message says how many, and
            names the first few.
        ValueError: for a name that leads out of the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; wanted one with a PNG file of class ids for each photo")
    files = tuple(_file_of(folder, name) for name in names)
    missing = [file for file in files if not file.is_file()]
    if missing and len(missing) == len(files) and split and (folder / split).is_dir():
        return prediction_files(folder / split, names)
    if missing:
        first = ", ".join(file.relative_to(folder).as_posix() for file in missing[:MAX_NAMED])
        more = " …" if len(missing) > MAX_NAMED else ""
        other = next((file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*.png"))), None)
        hint = f"; there is, for example, {other}" if other and len(missing) == len(files) else ""
        raise FileNotFoundError(
            f"{folder}: {len(missing)} of {len(files)} predictions are missing: {first}{more}{hint}"
        )
    return files


def _file_of(folder: Path, name: str) -> Path:
    candidates = [path_below(folder, f"{name}{ending}") for ending in ENDINGS]
    return next((file for file in candidates if file.is_file()), candidates[0])


def prediction_reader(files: Sequence[Path], dataset: Dataset) -> Reader:
    """Choose the reader of predictions: that of the data set's own masks, or that of plain class ids.

    A class file may give classes other levels or colours than their ids. Predictions are read as the masks of
    the data set are, if all of them can be, unless they have this package's own palette. Else they hold ids.

    Args:
        files: the predictions.
        dataset: the data set, with the reader of its masks.

    Returns:
        A function from a file to (H, W) uint8 ids.

    Raises:
        LabelError: if the palette of a prediction was changed or differs from file to file, or if both
            readings are possible and differ.
    """
    own = dataset.mask_reader
    if reads_indices(own):
        _check_palettes(files, dataset)
        return own
    if all(file.resolve() == each.labels.resolve() for file, each in zip(files, dataset, strict=True)):
        return own
    as_masks, as_ids = _tried(own, files, dataset), _tried(read_ids, files, dataset)
    if not as_masks.fits:
        if as_ids.fits:
            _check_palettes(files, dataset)
        return read_ids if as_ids.fits or as_ids.misfits_later(as_masks) else own
    if not as_ids.fits or not _has_own_palette(files):
        return own
    differing = next((file for file in files if (own(file) != read_ids(file)).any()), None)
    if differing is None or not _has_own_palette([sample.labels for sample in dataset]):
        return read_ids
    what = "its palette can be read in two ways: by colour as the masks of the data set, or by index"
    raise LabelError.of("palette", differing, what, "save the predictions as grey PNG of class ids")


@dataclass(frozen=True)
class _Trial:
    """How far a reader gets in some files."""

    read: int
    """Number of files before the first that cannot be read."""
    fits: bool

    def misfits_later(self, other: _Trial) -> bool:
        return self.read > other.read


def _tried(reader: Reader, files: Sequence[Path], dataset: Dataset) -> _Trial:
    """Read files until one cannot be read or holds an id that is no class."""
    for number, file in enumerate(files):
        try:
            ids = reader(file)
        except LabelError:
            return _Trial(number, fits=False)
        if (ids[ids != IGNORE] >= len(dataset.class_names)).any():
            return _Trial(number, fits=False)
    return _Trial(len(files), fits=True)


def _has_own_palette(files: Sequence[Path]) -> bool:
    """Whether all files are palette pictures with the palette that this package writes."""
    for file in files:
        mask = load_mask(file)
        if mask.mode != "P" or not np.array_equal(palette_colours(mask), palette()):
            return False
    return True


def _check_palettes(files: Sequence[Path], dataset: Dataset) -> None:
    """LabelError for a palette that was changed, or differs from file to file."""
    checks = []
    for file in files:
        try:
            counts = np.bincount(read_ids(file).reshape(-1), minlength=IGNORE + 1)
        except LabelError:  # raised again when it is scored
            continue
        colours = used_palette(file, counts)
        problem = palette_problem(file, colours, dataset.class_names)
        if problem:
            raise LabelError(str(problem), problem)
        checks.append(LabelCheck(file, None, counts, palette=colours))
    conflicts = palette_conflicts(checks)
    if conflicts:
        raise LabelError(str(conflicts[0]), conflicts[0])
