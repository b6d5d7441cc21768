"""Photos with their label maps: one pair, and the pairs of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image

from deeplab.classes import IGNORE
from deeplab.datasets.problems import LabelError, Problem
from deeplab.photos import MAX_PIXELS, known_formats, read_photo

LOSSY = ("JPEG", "MPO", "JPEG2000")
BY_COLOUR = ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def read_ids(path: Path) -> np.ndarray:
    """Class ids (H, W) uint8 of a palette or grey picture; a palette's indices, never its colours.

    Raises:
        FileNotFoundError: if there is no such file.
        LabelError: if the picture is damaged, in colours, lossy (JPEG), or has ids above 255.
    """
    return ids_of(load_mask(path), path)


def load_mask(path: Path) -> Image.Image:
    """A mask's picture with its levels, indices or colours as they were saved; errors as ``read_ids``."""
    try:
        with Image.open(path, formats=known_formats()) as file:
            if file.format in LOSSY:
                cure = "export the labels again as PNG; what JPEG has blurred cannot be told apart any more"
                raise LabelError.of(
                    "lossy mask", path, f"a mask saved as {file.format}, which changes ids", cure
                )
            if file.width * file.height > MAX_PIXELS:
                most = f"wanted at most {MAX_PIXELS // 10**6} megapixels"
                raise LabelError.of("damaged mask", path, f"{file.width}×{file.height} pixels", most)
            file.load()
            return file.copy()
    except (LabelError, FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # decoders of damaged files raise whatever they like: OSError, SyntaxError …
        reason = str(error).replace(f" {str(path)!r}", "") or type(error).__name__
        raise LabelError.of(
            "damaged mask", path, f"cannot be decoded ({reason})", "copy or export it again as PNG"
        ) from None


def ids_of(mask: Image.Image, path: Path) -> np.ndarray:
    """The levels or indices (H, W) uint8 of a mask's picture; LabelError, naming the path, if it has none."""
    if mask.mode in ("P", "L"):
        return np.asarray(mask)
    if mask.mode == "1":
        return np.asarray(mask).astype(np.uint8)
    if mask.mode.startswith("I"):  # 16 bits and more
        levels = np.asarray(mask)
        if levels.min() < 0 or levels.max() > IGNORE:
            what = f"ids from {levels.min()} to {levels.max()}"
            raise LabelError.of("ids out of range", path, what, "ids must be 0 to 254, and 255 for void")
        return levels.astype(np.uint8)
    raise LabelError.of(
        "colour mask" if mask.mode in BY_COLOUR else "mask without ids",
        path,
        f"got a {mask.mode} mask, wanted a palette or grey PNG of class ids",
        "save ids, or give each class its colour in classes.txt, one line 'name red green blue' for each",
    )


@dataclass(frozen=True)
class Sample:
    """One photo and its label map, as files."""

    name: str
    photo: Path
    labels: Path
    reader: Callable[[Path], np.ndarray] = read_ids
    """Makes class ids, (H, W) uint8 with 255 for void, of the file of labels."""

    def read_photo(self) -> np.ndarray:
        """(H, W, 3) uint8, R, G, B."""
        return read_photo(self.photo)

    def read_labels(self) -> np.ndarray:
        """(H, W) uint8 class ids, 255 void."""
        return self.reader(self.labels)


@dataclass(frozen=True)
class Dataset(Sequence[Sample]):
    """The pairs of one split, and the classes their ids stand for."""

    pairs: tuple[Sample, ...]
    class_names: tuple[str, ...]
    """K names, id order; 255 is void and has none."""

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Sample]: ...
    def __getitem__(self, place: int | slice) -> Sample | Sequence[Sample]:
        return self.pairs[place]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.pairs)


@dataclass(frozen=True)
class Listing:
    """What is there of one split, whole pairs and faults; no photo was opened for it."""

    pairs: tuple[Sample, ...]
    class_names: tuple[str, ...] | None
    """K names, id order; None where nothing but the masks can tell, see ``masks``."""
    faults: tuple[Problem, ...] = ()
    masks: tuple[Path, ...] = ()
    """The masks of all splits, where there are no names of classes."""


@dataclass(frozen=True)
class Layout:
    """How a folder holds its pairs."""

    name: str
    splits: tuple[str, ...]
    """The parts that are there."""
    listing: Callable[[str], Listing]
    """What is there of the split of that name; FileNotFoundError or ValueError if there is no such split."""
