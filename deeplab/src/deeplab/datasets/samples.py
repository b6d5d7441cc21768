"""Samples: photos with their label masks, one by one and as the data set of a split."""

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

LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000")
COLOUR_MODES = ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def read_ids(path: Path) -> np.ndarray:
    """Read the class ids of a palette or grey mask; palette indices are the ids, palette colours are ignored.

    Returns:
        (H, W) uint8, 255 void.

    Raises:
        FileNotFoundError: if there is no such file.
        LabelError: if the mask is damaged, in colours, lossy (JPEG), or has ids above 255.
    """
    return mask_ids(load_mask(path), path)


def load_mask(path: Path) -> Image.Image:
    """Load a mask with its levels, indices or colours as they were saved; raises what ``read_ids`` raises."""
    try:
        with Image.open(path, formats=known_formats()) as file:
            if file.format in LOSSY_FORMATS:
                what = f"a mask saved as {file.format}, which changes ids"
                fix = "export the labels again as PNG; JPEG blurs ids and they cannot be recovered"
                raise LabelError.of("lossy mask", path, what, fix)
            if file.width * file.height > MAX_PIXELS:
                fix = f"wanted at most {MAX_PIXELS // 10**6} megapixels"
                raise LabelError.of("damaged mask", path, f"{file.width}×{file.height} pixels", fix)
            file.load()
            return file.copy()
    except (LabelError, FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything for damaged files: OSError, SyntaxError …
        reason = str(error).replace(f" {str(path)!r}", "") or type(error).__name__
        what = f"cannot be decoded ({reason})"
        raise LabelError.of("damaged mask", path, what, "copy or export it again as PNG") from None


def mask_ids(mask: Image.Image, path: Path) -> np.ndarray:
    """Get the levels or palette indices of a loaded mask.

    Args:
        mask: a loaded mask of any mode.
        path: its file, for messages.

    Returns:
        (H, W) uint8.

    Raises:
        LabelError: if the mask is in colours or has levels outside 0 to 255.
    """
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
        "colour mask" if mask.mode in COLOUR_MODES else "mask without ids",
        path,
        f"got a {mask.mode} mask, wanted a palette or grey PNG of class ids",
        "save ids, or give each class a colour in classes.txt, one line 'name red green blue' per class",
    )


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
class Dataset(Sequence[Sample]):
    """The samples of one split and the names of its classes."""

    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    """K names in id order; void (255) has none."""

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
    """Masks of all splits if there are no class names."""


@dataclass(frozen=True)
class Layout:
    """The way in which a folder holds its samples."""

    name: str
    splits: tuple[str, ...]
    """Names of the splits that the folder has."""
    listing: Callable[[str], Listing]
    """Function that lists a split by its name; FileNotFoundError or ValueError if there is no such split."""
