"""Photos with their label maps, in the layout of PASCAL VOC."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image

from deeplab.classes import VOC_CLASSES
from deeplab.photos import read_photo

MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")


def read_ids(path: Path) -> np.ndarray:
    """Class ids (H, W) uint8 of a palette or grey PNG; a palette's indices, never its colours."""
    with Image.open(path) as file:
        if file.mode not in ("P", "L"):
            raise ValueError(f"{path}: got a {file.mode} mask, wanted a palette or grey PNG of class ids")
        return np.asarray(file)


@dataclass(frozen=True)
class Pair:
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
class Dataset(Sequence[Pair]):
    """The pairs of one split, and the classes their ids stand for."""

    pairs: tuple[Pair, ...]
    class_names: tuple[str, ...]
    """K names, id order; 255 is void and has none."""

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, place: int) -> Pair: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Pair]: ...
    def __getitem__(self, place: int | slice) -> Pair | Sequence[Pair]:
        return self.pairs[place]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)


def open_dataset(root: str | Path, split: str) -> Dataset:
    """The pairs of a split, whatever the folder's layout.

    Args:
        root: a folder in one of the layouts that are known.
        split: name of the part, e.g. "train" or "val".

    Raises:
        FileNotFoundError: for a missing folder, list, photo or mask, by name.
        ValueError: for a layout that is not known; says which are.
    """
    return voc(root, split)


def voc(root: str | Path, split: str) -> Dataset:
    """The pairs that a split of a VOC folder lists.

    Args:
        root: a folder with ImageSets/Segmentation, JPEGImages and SegmentationClass (for ``train_aug`` lists,
            SegmentationClassAug beside it holds the masks that the former lacks).
        split: the list's name without its ending, e.g. ``val``.

    Raises:
        FileNotFoundError: for a missing list, photo or mask, by name.
    """
    root = Path(root)
    listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not listing.is_file():
        lists = sorted(p.stem for p in listing.parent.glob("*.txt"))
        raise FileNotFoundError(f"no list {listing}; lists there: {', '.join(lists) or 'none'}")
    pairs = []
    for name in listing.read_text().split():
        photo = root / "JPEGImages" / f"{name}.jpg"
        masks = [root / folder / f"{name}.png" for folder in MASK_FOLDERS]
        labels = next((mask for mask in masks if mask.is_file()), masks[0])
        for path in (photo, labels):
            if not path.is_file():
                raise FileNotFoundError(f"{listing} names {name!r}, but there is no {path}")
        pairs.append(Pair(name, photo, labels))
    return Dataset(tuple(pairs), VOC_CLASSES)
