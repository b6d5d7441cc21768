"""The most common layout: a folder of photos next to a folder of masks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deeplab.classes import IGNORE
from deeplab.datasets.binary_masks import binary_reader
from deeplab.datasets.class_files import read_classes
from deeplab.datasets.mask_files import read_ids
from deeplab.datasets.matching import FilesByStem, files_by_stem, match_samples, subfolder
from deeplab.datasets.problems import BINARY_FIX, LabelError
from deeplab.datasets.samples import DEFAULT_OPTIONS, Layout, Listing, ReadOptions
from deeplab.datasets.splits import select, split_lists, split_names

PHOTO_FOLDERS = ("images", "JPEGImages")
MASK_FOLDERS = ("masks", "labels", "annotations", "gt", "SegmentationClass", "SegmentationClassPNG")


def folder_layout(root: Path, options: ReadOptions = DEFAULT_OPTIONS) -> Layout | None:
    """Read a folder with one of ``PHOTO_FOLDERS`` and one of ``MASK_FOLDERS``; None if it has another layout.

    Splits are subfolders of both (images/train, labels/train) or lists (lists/train.txt, splits/train.txt,
    train.txt). If there are neither, "all" is everything, and "train" and "val" are split by a hash of the
    name (``deeplab.datasets.splits.split_by_hash``). Classes are those of a class file (``read_classes``),
    or else those that the masks hold.

    Args:
        root: folder of the data set.
        options: how masks and annotations are read.

    Returns:
        The layout; None if the folder has another one.

    Raises:
        ValueError: if masks are in two of the folders.
    """
    photo_folder = next((path for name in PHOTO_FOLDERS if (path := subfolder(root, name)).is_dir()), None)
    masks_by_folder = {path: files_by_stem(path) for path in (subfolder(root, name) for name in MASK_FOLDERS)}
    mask_folders = [folder for folder, files in masks_by_folder.items() if files]
    if photo_folder is None or not mask_folders:
        return None
    if len(mask_folders) > 1:
        names = " and in ".join(folder.name for folder in mask_folders)
        raise ValueError(f"{root}: masks in {names}; wanted one folder of them")
    folders = photo_folder, mask_folders[0]
    photos = files_by_stem(photo_folder)
    masks = _with_folders_of(photos, masks_by_folder[mask_folders[0]])
    stems = photos.keys() | masks.keys()
    lists = split_lists(root)
    table = read_classes(root)
    reader = table.read if table else read_ids
    class_names = table.names if table else None
    if options.binary:
        reader = binary_reader(table)
        class_names = reader.names
    with_photo = tuple(file for stem, files in masks.items() if stem in photos for file in files)

    def listing(split: str) -> Listing:
        selection = select(root, split, stems, lists)
        samples, problems = match_samples(selection, photos, masks, folders, reader)
        return Listing(samples, class_names, problems, with_photo if class_names is None else (), reader)

    return Layout("folder pairs", split_names(lists, stems), listing)


def class_names_from_masks(masks: Sequence[Path]) -> tuple[str, ...]:
    """Name the classes that masks hold: "class 0" to the highest id that is not 255.

    Masks that cannot be read are left out, unless none can be.

    Raises:
        LabelError: if no mask can be read as ids; the message names the first.
        ValueError: if masks hold no id but 0, and 255.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(_highest_id, masks))
    readable = [highest for highest in found if isinstance(highest, int)]
    if found and not readable:
        raise next(error for error in found if isinstance(error, LabelError))
    highest = max(readable, default=0)
    if highest < 1:
        raise ValueError(
            f"{masks[0].parent}: the masks hold no id but 0 and 255, and 255 is void; {BINARY_FIX}"
        )
    return tuple(f"class {number}" for number in range(highest + 1))


def _with_folders_of(photos: FilesByStem, masks: FilesByStem) -> FilesByStem:
    """Masks with their folders spelled as the photos' folders are, which may differ in capitals."""
    spelled = {stem.rpartition("/")[0].casefold(): stem.rpartition("/")[0] for stem in photos}
    found: dict[str, list[Path]] = {}
    for stem, files in masks.items():
        folder, slash, name = stem.rpartition("/")
        key = stem if stem in photos else f"{spelled.get(folder.casefold(), folder)}{slash}{name}"
        found.setdefault(key, []).extend(files)
    return found


def _highest_id(mask: Path) -> int | LabelError:
    try:
        ids = read_ids(mask)
    except LabelError as error:
        return error
    return int(ids[ids != IGNORE].max(initial=0))
