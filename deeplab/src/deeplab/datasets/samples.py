"""Samples: photos with their label masks, one by one and as the data set of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from deeplab.datasets.mask_files import read_ids
from deeplab.datasets.problems import Problem
from deeplab.photos import read_photo


@dataclass(frozen=True)
class Sample:
    """One photo with its labels, as files that are read when needed."""

    name: str
    """Name of the sample: the photo's path in its folder, without the ending."""
    photo: Path
    """File of the photo."""
    labels: Path
    """File of the labels: a mask, or annotations."""
    reader: Callable[[Path], np.ndarray] = read_ids
    """Function that reads class ids, (H, W) uint8 with 255 for void, from the file of labels."""

    def read_photo(self) -> np.ndarray:
        """Read the photo: (H, W, 3) uint8, R, G, B."""
        return read_photo(self.photo)

    def read_labels(self) -> np.ndarray:
        """Read the labels: (H, W) uint8 class ids, 255 void."""
        return self.reader(self.labels)


@dataclass(frozen=True)
class ReadOptions:
    """How labels are read."""

    binary: bool = False
    """Masks have two levels: 0 is background, and the other, whichever it is, the object."""
    line_width: float = 0.0
    """Width in pixels of annotated lines, and diameter of points; 0 refuses them."""

    def __post_init__(self) -> None:
        if not 0 <= self.line_width < 1e4:
            raise ValueError(f"got a line width of {self.line_width} pixels, wanted 0 to 10,000")


DEFAULT_OPTIONS = ReadOptions()


@dataclass(frozen=True)
class Dataset(Sequence[Sample]):
    """The samples of one split and the names of its classes."""

    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    """K names in id order; void (255) has none."""
    mask_reader: Callable[[Path], np.ndarray] = read_ids
    """Function that reads masks of this data set, and predictions saved in the same way."""
    is_named: bool = True
    """Whether a file or a standard names the classes; else they are as many as the masks hold."""
    split: str = ""
    """Name of the split."""

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


@dataclass(frozen=True)
class Listing:
    """The samples and problems of one split, found without opening any photo."""

    samples: tuple[Sample, ...]
    class_names: tuple[str, ...] | None
    """K names in id order; None if only the masks can tell, see ``masks``."""
    problems: tuple[Problem, ...] = ()
    masks: tuple[Path, ...] = ()
    """Masks of all splits that belong to a photo, if there are no class names."""
    mask_reader: Callable[[Path], np.ndarray] = read_ids
    """Function that reads masks of the data set."""


@dataclass(frozen=True)
class Layout:
    """The way in which a folder holds its samples."""

    name: str
    splits: tuple[str, ...]
    """Names of the splits that the folder has."""
    listing: Callable[[str], Listing]
    """Function that lists a split by its name; FileNotFoundError or ValueError if there is no such split."""
