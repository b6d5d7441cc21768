"""A folder of photos and labels as a data set, whatever its layout."""

from __future__ import annotations

from pathlib import Path

from deeplab.datasets.coco import coco
from deeplab.datasets.folders import folder_pairs, names_found
from deeplab.datasets.labelme import labelme
from deeplab.datasets.samples import Dataset, Layout, Sample, read_ids
from deeplab.datasets.voc import voc_layout

__all__ = ["Dataset", "Layout", "Sample", "find_layout", "open_dataset", "read_ids", "voc"]

LAYOUTS = (
    "PASCAL VOC or CVAT (ImageSets/Segmentation, JPEGImages, SegmentationClass), COCO (images, and "
    "annotations/instances_SPLIT.json or one .json), folder pairs (images, and masks, labels, annotations or gt), or "
    "labelme (photos with .json beside them)"
)


def open_dataset(root: str | Path, split: str) -> Dataset:
    """The pairs of a split, whatever the folder's layout; opens no photo, and masks only where no file names
    classes.

    Layouts: PASCAL VOC and CVAT's export of it (``voc_layout``), COCO (``coco``), folder pairs with a
        subfolder or a
    list for each split or with neither (``folder_pairs``), labelme (``labelme``). Where there are neither
    subfolders nor lists, "all" is everything, and a hash of the file's name puts four photos of five into
    "train" and the others into "val", the same ones for ever (``deeplab.datasets.splits.side``). Photos and
    labels are matched by stem; hidden files are passed over, links followed; names in annotations and lists
    never lead out of the folder. Classes come from a class file (``deeplab.datasets.class_files``), the
    annotations, or the masks.

    Args:
        root: a folder in one of these layouts, or a JSON file of COCO's form.
        split: name of the part, e.g. "train", "val" or "all".

    Raises:
        FileNotFoundError: for a missing folder, list, photo or mask, by name.
        ValueError: for a layout that is not known, saying which are; a bad class file; files that clash.
    """
    return _dataset(Path(root), find_layout(root), split)


def voc(root: str | Path, split: str) -> Dataset:
    """The pairs that a split of a VOC folder lists.

    Args:
        root: a folder with ImageSets/Segmentation, JPEGImages and SegmentationClass (for ``train_aug`` lists,
            SegmentationClassAug beside it holds the masks that the former lacks).
        split: the list's name without its ending, e.g. ``val``.

    Raises:
        FileNotFoundError: for a missing list, photo or mask, by name.
    """
    return _dataset(Path(root), voc_layout(Path(root)), split)


def find_layout(root: str | Path) -> Layout:
    """How a folder holds its pairs.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the layout is not known; says which are.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such folder; wanted a data set")
    if (root / "ImageSets" / "Segmentation").is_dir():
        return voc_layout(root)
    layout = coco(root) or (folder_pairs(root) or labelme(root) if root.is_dir() else None)
    if layout is None:
        raise ValueError(f"{root}: no layout that is known; wanted {LAYOUTS}")
    return layout


def _dataset(root: Path, layout: Layout, split: str) -> Dataset:
    listing = layout.listing(split)
    errors = [fault for fault in listing.faults if fault.severity == "error"]
    if errors:
        more = f" ({len(errors) - 1} more faults: deeplab check-data {root})" if len(errors) > 1 else ""
        kind = FileNotFoundError if errors[0].kind.startswith("missing") else ValueError
        raise kind(f"{errors[0]}{more}")
    names = names_found(listing.masks) if listing.class_names is None else listing.class_names
    if not listing.pairs:
        raise ValueError(f"{root}: no pairs in split {split!r}; wanted at least one photo with labels")
    return Dataset(listing.pairs, names)
