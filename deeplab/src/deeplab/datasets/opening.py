"""Opening a folder of photos and labels as a data set, whatever its layout."""

from __future__ import annotations

from pathlib import Path

from deeplab.datasets.coco import coco_layout
from deeplab.datasets.folders import class_names_from_masks, folder_layout
from deeplab.datasets.json_files import read_json
from deeplab.datasets.labelme import labelme_layout
from deeplab.datasets.mask_files import read_ids
from deeplab.datasets.matching import subfolder
from deeplab.datasets.samples import DEFAULT_OPTIONS, Dataset, Layout, ReadOptions, Sample
from deeplab.datasets.voc import voc_layout

__all__ = ["Dataset", "Layout", "Sample", "find_layout", "open_dataset", "read_ids", "voc"]

LAYOUTS = (
    "PASCAL VOC or CVAT (ImageSets/Segmentation, JPEGImages, SegmentationClass), COCO (images, and "
    "annotations/instances_SPLIT.json or one .json), folder pairs (images, and masks, labels, annotations "
    "or gt), or labelme (photos with .json beside them)"
)


def open_dataset(root: str | Path, split: str, *, binary: bool = False, line_width: float = 0.0) -> Dataset:
    """Open one split of a data set in any known layout.

    Layouts: PASCAL VOC and CVAT's export of it (``voc_layout``), COCO (``coco_layout``), a folder of photos
    next to one of masks, with a subfolder or a list for each split or with neither (``folder_layout``), and
    labelme (``labelme_layout``). Subfolders are splits if their names begin with a word such as train, val or
    test (``deeplab.datasets.splits.is_split_name``). If there are neither subfolders nor lists, "all" is
    everything, and a hash of the file's name assigns four photos of five to "train" and the others to "val";
    it never changes (``deeplab.datasets.splits.split_by_hash``).

    Photos and labels are matched by stem. Hidden files are left out, links are followed, and names in
    annotations and lists never lead out of the folder. Classes come from a class file
    (``deeplab.datasets.class_files``), the annotations, or the masks. No photo is opened, and masks only if
    no file names the classes.

    Args:
        root: a folder in one of these layouts, or a JSON file in COCO's format.
        split: name of the split, e.g. "train", "val" or "all".
        binary: whether masks are black and white: 0 is background, and the other level, be it 1 or 255, the
            object. The names are those of a class file with two classes, or "background" and "object".
        line_width: width in pixels of annotated lines, and diameter of points; at 0 they are errors, as they
            have no area.

    Returns:
        The samples of the split.

    Raises:
        FileNotFoundError: for a missing folder, list, photo or mask, by name.
        ValueError: for an unknown layout (the message lists those that are known), a bad class file, or files
            that clash.
    """
    options = ReadOptions(binary, line_width)
    return _dataset(Path(root), find_layout(root, options), split)


def voc(root: str | Path, split: str) -> Dataset:
    """Open one split of a folder in PASCAL VOC's layout.

    Args:
        root: a folder with ImageSets/Segmentation, JPEGImages and SegmentationClass. For ``train_aug`` lists,
            SegmentationClassAug next to it holds the masks that SegmentationClass lacks.
        split: name of the list without its ending, e.g. ``val``.

    Returns:
        The samples of the split.

    Raises:
        FileNotFoundError: for a missing list, photo or mask, by name.
    """
    return _dataset(Path(root), voc_layout(Path(root)), split)


def find_layout(root: str | Path, options: ReadOptions = DEFAULT_OPTIONS) -> Layout:
    """Find the layout of a folder.

    Args:
        root: the folder, or a JSON file in COCO's format.
        options: how labels are read.

    Raises:
        FileNotFoundError: if there is no such folder.
        LabelError: if the layout is unknown and a JSON file cannot be read; the message names the file.
        ValueError: if the layout is unknown; the message lists those that are known.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such folder; wanted a data set")
    if subfolder(subfolder(root, "ImageSets"), "Segmentation").is_dir():
        return voc_layout(root, options)
    layout = coco_layout(root)
    if layout is None and root.is_dir():
        layout = folder_layout(root, options)
        if layout is not None:
            return layout
        layout = labelme_layout(root, options)
    if layout is None:
        _require_readable(root)
        raise ValueError(f"{root}: unknown layout; wanted {LAYOUTS}")
    if options.binary:
        raise ValueError(f"{root}: {layout.name} has annotations, no masks; leave out binary")
    return layout


def _require_readable(root: Path) -> None:
    """LabelError for the first JSON file, here or in a folder of annotations, that cannot be read."""
    folders = [root, *(subfolder(root, name) for name in ("annotations", "images"))]
    for path in (file for folder in folders for file in sorted(folder.glob("[!.]*.json"))):
        read_json(path, "export or copy it again")


def _dataset(root: Path, layout: Layout, split: str) -> Dataset:
    listing = layout.listing(split)
    errors = [problem for problem in listing.problems if problem.severity == "error"]
    if errors:
        more = f" ({len(errors) - 1} more problems: deeplab check-data {root})" if len(errors) > 1 else ""
        kind = FileNotFoundError if errors[0].kind.startswith("missing") else ValueError
        raise kind(f"{errors[0]}{more}")
    names = class_names_from_masks(listing.masks) if listing.class_names is None else listing.class_names
    if not listing.samples:
        raise ValueError(f"{root}: no samples in split {split!r}; wanted at least one photo with labels")
    return Dataset(listing.samples, names, listing.mask_reader, listing.class_names is not None, split)
