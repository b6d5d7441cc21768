"""COCO's annotations: one JSON file for many photos, with polygons and run lengths."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.classes import IGNORE
from deeplab.datasets.class_files import is_void, name_of, read_classes, with_background
from deeplab.datasets.mask_colours import ClassTable
from deeplab.datasets.problems import LabelError, Problem
from deeplab.datasets.rasterize import polygon, run_lengths, runs
from deeplab.datasets.samples import Layout, Listing, Sample
from deeplab.datasets.splits import Choice, choose, is_split, lists_in, splits_of
from deeplab.paths import is_below
from deeplab.photos import MAX_PIXELS, PHOTO_ENDINGS

PREFIX = "instances_"


@dataclass(frozen=True)
class Annotation:
    """One object: its number in the file, its class, and its outline as the file gives it."""

    number: int
    class_id: int
    crowd: bool
    outline: Any


@dataclass(frozen=True, eq=False)
class Objects:
    """Makes the class ids of one photo from its annotations.

    Crowds are drawn first, then objects from the largest to the smallest, as COCO does not say which lies in
    front: so the cup stays visible on the table.
    """

    height: int
    width: int
    annotations: tuple[Annotation, ...] = field(repr=False)

    def __call__(self, path: Path) -> np.ndarray:
        """(H, W) uint8 ids, 255 void, background where there is no object.

        Raises:
            LabelError: for an outline that cannot be drawn: names file and annotation.
        """
        drawn = []
        for each in self.annotations:
            try:
                drawn.append((each, outline_pixels(each.outline, self.height, self.width)))
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                what = f"annotation {each.number} cannot be drawn ({error})"
                cure = "wanted polygons of x, y or run lengths: draw it again, or take it out"
                raise LabelError.of("bad shape", path, what, cure) from None
        labels = np.zeros((self.height, self.width), np.uint8)
        for each, inside in sorted(drawn, key=lambda item: (not item[0].crowd, -int(item[1].sum()))):
            labels[inside] = each.class_id
        return labels


def outline_pixels(outline: Any, height: int, width: int) -> np.ndarray:
    """The pixels of an annotation's "segmentation".

    Args:
        outline: polygons, each a list x, y, x, y …, whose union counts; or run lengths as a list or as COCO's
            compressed string, ``{"size": [height, width], "counts": …}``.
        height: of the photo, pixels.
        width: of the photo, pixels.

    Returns:
        (height, width) bool.

    Raises:
        ValueError: for anything else, or another size.
    """
    if isinstance(outline, dict):
        if list(outline["size"]) != [height, width]:
            raise ValueError(f"got run lengths of size {outline['size']}, wanted [{height}, {width}]")
        counts = outline["counts"]
        return runs(run_lengths(counts) if isinstance(counts, (str, bytes)) else counts, height, width)
    if not isinstance(outline, list) or not outline:
        raise ValueError("got no outline, a box at best; wanted polygons or run lengths")
    whole = np.zeros((height, width), bool)
    for numbers in outline:
        whole |= polygon(np.array(numbers, np.float64).reshape(-1, 2), height, width)
    return whole


def coco(root: Path) -> Layout | None:
    """A folder with annotations/instances_SPLIT.json, or with one JSON file of COCO's form; None if it is not
    one.

    ``root`` may be such a file, too. A single file that is not named after a split is parted by lists or by a
    hash of the photos' names, as in ``folder_pairs``. Photos are looked for in images/SPLIT, images, SPLIT,
    beside the file and in the folder; a name that leads out of it is an error. Classes are those of a class
    file, or the categories in the order of their ids; background is id 0.

    Raises:
        LabelError: for a damaged file.
    """
    files = _files(root)
    if not files:
        return None
    folder = root.parent if root.is_file() else root
    name, path = next(iter(files.items()))
    if len(files) == 1 and not is_split(name):
        content, lists = _read(path, folder), lists_in(folder)

        def part(split: str) -> Listing:
            return content.listing(
                choose(folder, split, content.records.keys(), lists), _places(folder, name, path)
            )

        return Layout("COCO", splits_of(lists), part)

    def whole(split: str) -> Listing:
        if split not in files:
            raise FileNotFoundError(f"{folder}: no split {split!r}; splits there: {', '.join(files)}")
        content = _read(files[split], folder)
        return content.listing(Choice(tuple(content.records)), _places(folder, split, files[split]))

    return Layout("COCO", splits_of(files), whole)


@dataclass(frozen=True)
class _Record:
    """One photo as a file of annotations gives it."""

    file_name: str
    reader: Objects


@dataclass(frozen=True)
class _Content:
    """A file of annotations."""

    path: Path
    class_names: tuple[str, ...]
    records: dict[str, _Record]
    """By the photo's name without ending."""
    faults: tuple[Problem, ...]

    def listing(self, choice: Choice, places: Sequence[Path]) -> Listing:
        """The chosen photos, looked for in the places."""
        pairs, faults = [], list(self.faults)
        for key in choice.keys:
            record = self.records.get(key)
            if record is None:
                what, cure = (
                    f"names {key!r}, which {self.path} does not",
                    "annotate the photo, or take the name out",
                )
                faults.append(Problem("error", "missing photo", str(choice.listing), what, cure))
                continue
            photo = next((path for place in places if (path := place / record.file_name).is_file()), None)
            if photo is None:
                what, cure = (
                    f"names {record.file_name!r}, but there is no {places[0] / record.file_name}",
                    "put it there",
                )
                faults.append(Problem("error", "missing photo", str(self.path), what, cure))
            else:
                pairs.append(Sample(key, photo, self.path, record.reader))
        return Listing(tuple(pairs), self.class_names, tuple(faults))


def _places(folder: Path, name: str, path: Path) -> list[Path]:
    """Where the photos of a file of annotations may be."""
    places = [folder / "images" / name, folder / "images", folder / name, path.parent, folder]
    return [place for place in places if place.is_dir()]


def _files(root: Path) -> dict[str, Path]:
    """Files of annotations by split."""
    if root.is_file():
        return {root.stem.removeprefix(PREFIX): root}
    if found := sorted(root.glob(f"annotations/{PREFIX}*.json")):
        return {path.stem.removeprefix(PREFIX): path for path in found}
    for pattern in ("annotations/[!.]*.json", "[!.]*.json", "*/_annotations.coco.json"):
        found = [path for path in sorted(root.glob(pattern)) if _is_coco(path)]
        if found:
            return {
                path.parent.name
                if path.stem == "_annotations.coco" and path.parent != root
                else path.stem: path
                for path in found
            }
    return {}


def _is_coco(path: Path) -> bool:
    if any(path.with_suffix(ending).exists() for ending in PHOTO_ENDINGS):
        return False  # one photo's annotations beside it
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def _read(path: Path, folder: Path) -> _Content:
    """The content of a file of annotations; LabelError if it is damaged or its categories do not fit a class
    file."""
    cure = "wanted COCO's JSON with images, annotations and categories: export it again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise LabelError.of("damaged annotations", path, f"not JSON ({error})", cure) from None
    try:
        return _understood(path, content, read_classes(folder))
    except (KeyError, TypeError, AttributeError) as error:
        what = f"not COCO's form ({type(error).__name__}: {error})"
        raise LabelError.of("damaged annotations", path, what, cure) from None


def _understood(path: Path, content: Any, table: ClassTable | None) -> _Content:
    categories = {int(each["id"]): name_of(each["name"]) for each in content["categories"]}
    found = dict.fromkeys(name for _, name in sorted(categories.items()))
    names = with_background(table.names if table else found)
    foreign = [name for name in found if name not in names and not is_void(name)]
    if foreign and table:
        cure = f"add it to {table.file.name}, or take the category out"
        raise LabelError.of("unknown class", path, f"category {foreign[0]!r} is not in {table.file}", cure)
    ids = {number: IGNORE if is_void(name) else names.index(name) for number, name in categories.items()}
    images = {each["id"]: each for each in content["images"]}
    objects: dict[Any, list[Annotation]] = {number: [] for number in images}
    faults = []
    for each in content["annotations"]:
        number, image, category = each["id"], each["image_id"], each["category_id"]
        if image not in images or category not in ids:
            lacking = f"image {image}" if image not in images else f"category {category}"
            what, cure = (
                f"annotation {number} belongs to {lacking}, which is not in the file",
                "export the file again",
            )
            faults.append(Problem("error", "stray annotation", str(path), what, cure))
        else:
            crowd = bool(each.get("iscrowd", 0))
            objects[image].append(Annotation(number, ids[category], crowd, each.get("segmentation")))
    records: dict[str, _Record] = {}
    for number, image in images.items():
        name, height, width = str(image["file_name"]), int(image["height"]), int(image["width"])
        key = Path(name).with_suffix("").as_posix()
        if not is_below(name):
            what, cure = (
                f"names {name!r}, which leads out of the folder",
                "name photos by their path in it, without '..'",
            )
            faults.append(Problem("error", "outside the folder", str(path), what, cure))
        elif key in records:
            what, cure = f"names {name!r} twice, or with two endings", "keep one"
            faults.append(Problem("error", "two files of one name", str(path), what, cure))
        elif min(height, width) < 1 or height * width > MAX_PIXELS:
            what, cure = f"gives {name!r} {height}×{width} pixels", "give it the photo's height and width"
            faults.append(Problem("error", "size", str(path), what, cure))
        else:
            records[key] = _Record(name, Objects(height, width, tuple(objects[number])))
    return _Content(path, names, records, tuple(faults))
