"""A folder of photos and a folder of masks beside it, as most people have them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deeplab.classes import IGNORE
from deeplab.datasets.class_files import read_classes
from deeplab.datasets.matching import by_stem, match
from deeplab.datasets.samples import Layout, Listing, read_ids
from deeplab.datasets.splits import choose, lists_in, splits_of

PHOTO_FOLDERS = ("images", "JPEGImages")
MASK_FOLDERS = ("masks", "labels", "annotations", "gt", "SegmentationClass", "SegmentationClassPNG")


def folder_pairs(root: Path) -> Layout | None:
    """A folder with one of ``PHOTO_FOLDERS`` and one of ``MASK_FOLDERS``; None if it is not one.

    Splits are subfolders of both (images/train, labels/train), or lists (lists/train.txt, splits/train.txt,
    train.txt), or else "all" is everything and "train" and "val" are told apart by a hash of the name
    (``deeplab.datasets.splits.side``). Classes are those of a class file (``read_classes``), or else those
    that masks hold.

    Raises:
        ValueError: if masks lie in two of the folders.
    """
    here = next((root / name for name in PHOTO_FOLDERS if (root / name).is_dir()), None)
    found = {root / name: by_stem(root / name) for name in MASK_FOLDERS}
    there = [folder for folder, files in found.items() if files]
    if here is None or not there:
        return None
    if len(there) > 1:
        raise ValueError(
            f"{root}: masks in {' and in '.join(f.name for f in there)}; wanted one folder of them"
        )
    photos, masks = by_stem(here), found[there[0]]
    keys, lists, table = photos.keys() | masks.keys(), lists_in(root), read_classes(root)

    def listing(split: str) -> Listing:
        choice = choose(root, split, keys, lists)
        pairs, faults = match(choice, photos, masks, (here, there[0]), table.read if table else read_ids)
        return Listing(
            pairs,
            table.names if table else None,
            faults,
            () if table else tuple(file for files in masks.values() for file in files),
        )

    return Layout("folder pairs", splits_of(lists, keys), listing)


def names_found(masks: Sequence[Path]) -> tuple[str, ...]:
    """Names for the classes that masks hold: "class 0" to the highest id that is not 255.

    Raises:
        LabelError: for a mask that cannot be read as ids.
        ValueError: if masks hold no id but 0, and 255.
    """
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        highest = max(threads.map(_highest, masks), default=-1)
    if highest < 1:
        raise ValueError(
            f"{masks[0].parent}: the masks hold no id but 0 and 255, and 255 is void; masks saved as black and white "
            "need 1 where they have 255, or colours in classes.txt: lines 'background 0 0 0' and 'object 255 255 255'"
        )
    return tuple(f"class {number}" for number in range(highest + 1))


def _highest(mask: Path) -> int:
    ids = read_ids(mask)
    return int(ids[ids != IGNORE].max(initial=0))
