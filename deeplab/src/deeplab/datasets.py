"""Photos with their label maps, in the layout of PASCAL VOC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.photos import read_photo

MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")


@dataclass(frozen=True)
class Pair:
    """One photo and its label map, as files."""

    name: str
    photo: Path
    labels: Path

    def read_photo(self) -> np.ndarray:
        """(H, W, 3) uint8, R, G, B."""
        return read_photo(self.photo)

    def read_labels(self) -> np.ndarray:
        """(H, W) uint8 class ids, 255 void. Palette PNGs give their indices, never their colours."""
        with Image.open(self.labels) as file:
            if file.mode not in ("P", "L"):
                raise ValueError(f"{self.labels}: got a {file.mode} mask, wanted a palette or grey PNG of class ids")
            return np.asarray(file)


def voc(root: str | Path, split: str) -> list[Pair]:
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
    return pairs
