"""The most common layout: a folder of photos next to a folder of masks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deeplab.classes import IGNORE
from deeplab.datasets.class_files import read_classes
from deeplab.datasets.matching import files_by_stem, match_samples
from deeplab.datasets.samples import Layout, Listing, read_ids
from deeplab.datasets.splits import select, split_lists, split_names

PHOTO_FOLDERS = ("images", "JPEGImages")
MASK_FOLDERS = ("masks", "labels", "annotations", "gt", "SegmentationClass", "SegmentationClassPNG")


def folder_layout(root: Path) -> Layout | None:
    """Read a folder with one of ``PHOTO_FOLDERS`` and one of ``MASK_FOLDERS``; None if it has another layout.

    Splits are subfolders of both (images/train, labels/train) or lists (lists/train.txt, splits/train.txt,
    train.txt). If there are neither, "all" is everything, and "train" and "val" are split by a hash of the
    name (``deeplab.datasets.splits.split_by_hash``). Classes are those of a class file (``read_classes``),
    or else those that the masks hold.

    Raises:
        ValueError: if masks are in two of the folders.
    """
    photo_folder = next((root / name for name in PHOTO_FOLDERS if (root / name).is_dir()), None)
    masks_by_folder = {root / name: files_by_stem(root / name) for name in MASK_FOLDERS}
    mask_folders = [folder for folder, files in masks_by_folder.items() if files]
    if photo_folder is None or not mask_folders:
        return None
    if len(mask_folders) > 1:
        names = " and in ".join(folder.name for folder in mask_folders)
        raise ValueError(f"{root}: masks in {names}; wanted one folder of them")
    folders = photo_folder, mask_folders[0]
    photos = files_by_stem(photo_folder)
    masks = masks_by_folder[mask_folders[0]]
    stems = photos.keys() | masks.keys()
    lists = split_lists(root)
    table = read_classes(root)

    def listing(split: str) -> Listing:
        selection = select(root, split, stems, lists)
        reader = table.read if table else read_ids
        samples, problems = match_samples(selection, photos, masks, folders, reader)
        if table:
            return Listing(samples, table.names, problems)
        return Listing(samples, None, problems, tuple(file for files in masks.values() for file in files))

    return Layout("folder pairs", split_names(lists, stems), listing)


def class_names_from_masks(masks: Sequence[Path]) -> tuple[str, ...]:
    """Name the classes that masks hold: "class 0" to the highest id that is not 255.

    Raises:
        LabelError: for a mask that cannot be read as ids.
        ValueError: if masks hold no id but 0, and 255.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        highest = max(pool.map(_highest_id, masks), default=-1)
    if highest < 1:
        raise ValueError(
            f"{masks[0].parent}: the masks hold no id but 0 and 255, and 255 is void; black and white masks "
            "need 1 instead of 255, or colours in classes.txt: lines 'background 0 0 0' and "
            "'object 255 255 255'"
        )
    return tuple(f"class {number}" for number in range(highest + 1))


def _highest_id(mask: Path) -> int:
    ids = read_ids(mask)
    return int(ids[ids != IGNORE].max(initial=0))
