"""The layout of PASCAL VOC, which CVAT exports too: lists in ImageSets/Segmentation, SegmentationClass."""

from __future__ import annotations

from pathlib import Path

from deeplab.classes import VOC_CLASSES
from deeplab.datasets.binary_masks import binary_reader
from deeplab.datasets.class_files import read_classes
from deeplab.datasets.mask_files import read_ids
from deeplab.datasets.matching import files_by_stem, match_samples, subfolder
from deeplab.datasets.samples import DEFAULT_OPTIONS, Layout, Listing, ReadOptions
from deeplab.datasets.splits import WHOLE_NAMES, select, split_names

MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")


def voc_layout(root: Path, options: ReadOptions = DEFAULT_OPTIONS) -> Layout:
    """Read a folder with ImageSets/Segmentation, JPEGImages and SegmentationClass.

    SegmentationClassAug may hold masks that SegmentationClass lacks. Classes are those of a class file in the
    folder (``read_classes``), or else VOC's 21. If the only list is ``default``, as in CVAT's export, the
    splits are "default", which is everything, and "train" and "val" by a hash of the name
    (``deeplab.datasets.splits.split_by_hash``).

    Args:
        root: folder of the data set.
        options: how masks and annotations are read.

    Returns:
        The layout.
    """
    photo_folder = subfolder(root, "JPEGImages")
    photos = files_by_stem(photo_folder)
    masks: dict[str, list[Path]] = {}
    for folder in reversed(MASK_FOLDERS):  # masks of the first folder replace those of the second
        masks |= files_by_stem(subfolder(root, folder))
    list_folder = subfolder(subfolder(root, "ImageSets"), "Segmentation")
    lists = {path.stem: path for path in sorted(list_folder.glob("[!.]*.txt"))}
    table = read_classes(root)
    reader = table.read if table else read_ids
    class_names = table.names if table else VOC_CLASSES
    if options.binary:
        reader = binary_reader(table)
        class_names = reader.names

    def listing(split: str) -> Listing:
        if split not in lists and not (lists and set(lists) <= set(WHOLE_NAMES)):
            there = ", ".join(lists) or "none"
            raise FileNotFoundError(f"no list {list_folder / split}.txt; lists there: {there}")
        selection = select(root, split, photos.keys() | masks.keys(), lists)
        folders = photo_folder, subfolder(root, MASK_FOLDERS[0])
        samples, problems = match_samples(selection, photos, masks, folders, reader)
        return Listing(samples, class_names, problems, mask_reader=reader)

    return Layout("PASCAL VOC", split_names(lists), listing)
