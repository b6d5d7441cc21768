"""PASCAL VOC's layout, which CVAT exports too: lists in ImageSets/Segmentation, masks in
SegmentationClass."""

from __future__ import annotations

from pathlib import Path

from deeplab.classes import VOC_CLASSES
from deeplab.datasets.class_files import read_classes
from deeplab.datasets.matching import by_stem, match
from deeplab.datasets.samples import Layout, Listing, read_ids
from deeplab.datasets.splits import WHOLE, choose, splits_of

MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")


def voc_layout(root: Path) -> Layout:
    """A folder with ImageSets/Segmentation, JPEGImages and SegmentationClass.

    SegmentationClassAug beside it holds the masks that the former lacks. Classes are those of a class file
    there (``read_classes``), else VOC's 21. If the one list is ``default``, as CVAT writes it, there are
    "default", which is everything, and by a hash of the name (``deeplab.datasets.splits.side``) "train" and
    "val".
    """
    photos = by_stem(root / "JPEGImages")
    masks = {
        stem: files for folder in reversed(MASK_FOLDERS) for stem, files in by_stem(root / folder).items()
    }
    lists = {path.stem: path for path in sorted((root / "ImageSets" / "Segmentation").glob("[!.]*.txt"))}
    table = read_classes(root)

    def listing(split: str) -> Listing:
        if split not in lists and not (lists and set(lists) <= set(WHOLE)):
            there = ", ".join(lists) or "none"
            raise FileNotFoundError(
                f"no list {root / 'ImageSets' / 'Segmentation' / split}.txt; lists there: {there}"
            )
        choice = choose(root, split, photos.keys() | masks.keys(), lists)
        folders = root / "JPEGImages", root / MASK_FOLDERS[0]
        pairs, faults = match(choice, photos, masks, folders, table.read if table else read_ids)
        return Listing(pairs, table.names if table else VOC_CLASSES, faults)

    return Layout("PASCAL VOC", splits_of(lists), listing)
