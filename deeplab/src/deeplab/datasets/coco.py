"""The layout of COCO: one JSON file of annotations for many photos."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeplab.classes import IGNORE
from deeplab.datasets.class_files import class_name_of, is_void, read_classes, with_background
from deeplab.datasets.coco_annotations import Annotation, AnnotationReader
from deeplab.datasets.mask_colours import ClassTable
from deeplab.datasets.problems import LabelError, Problem
from deeplab.datasets.samples import Layout, Listing, Sample
from deeplab.datasets.splits import Selection, is_split_name, select, split_lists, split_names
from deeplab.paths import is_below
from deeplab.photos import MAX_PIXELS, PHOTO_ENDINGS

PREFIX = "instances_"


def coco_layout(root: Path) -> Layout | None:
    """Read a folder with annotations/instances_SPLIT.json, or with one JSON file in COCO's format.

    A single file that is not named after a split is divided by lists or by a hash of the photos' names, as in
    ``folder_layout``. Photos are searched in images/SPLIT, images, SPLIT, beside the file and in the folder;
    a name that leads out of it is an error. Classes are those of a class file, or the categories in the order
    of their ids; background is id 0.

    Args:
        root: the folder, or the JSON file.

    Returns:
        The layout; None if the folder has another one.

    Raises:
        LabelError: for a damaged file.
    """
    files = _annotation_files(root)
    if not files:
        return None
    folder = root.parent if root.is_file() else root
    name, path = next(iter(files.items()))
    if len(files) == 1 and not is_split_name(name):
        content, lists = _read(path, folder), split_lists(folder)

        def part_of_file(split: str) -> Listing:
            selection = select(folder, split, content.records.keys(), lists)
            return content.listing(selection, _photo_folders(folder, name, path))

        return Layout("COCO", split_names(lists), part_of_file)

    def whole_file(split: str) -> Listing:
        if split not in files:
            raise FileNotFoundError(f"{folder}: no split {split!r}; splits there: {', '.join(files)}")
        content = _read(files[split], folder)
        selection = Selection(tuple(content.records))
        return content.listing(selection, _photo_folders(folder, split, files[split]))

    return Layout("COCO", split_names(files), whole_file)


@dataclass(frozen=True)
class _Record:
    """One photo of a file of annotations."""

    file_name: str
    reader: AnnotationReader


@dataclass(frozen=True)
class _Content:
    """The content of a file of annotations."""

    path: Path
    class_names: tuple[str, ...]
    records: dict[str, _Record]
    """Photos by their name without the ending."""
    problems: tuple[Problem, ...]

    def listing(self, selection: Selection, folders: Sequence[Path]) -> Listing:
        """List the selected photos.

        Args:
            selection: stems of the photos.
            folders: folders that may hold the photos; the first that has one wins.
        """
        samples, problems = [], list(self.problems)
        for stem in selection.stems:
            record = self.records.get(stem)
            if record is None:
                what = f"names {stem!r}, which {self.path} does not"
                fix = "annotate the photo, or take the name out"
                problems.append(Problem("error", "missing photo", str(selection.listing), what, fix))
                continue
            candidates = [folder / record.file_name for folder in folders]
            photo = next((path for path in candidates if path.is_file()), None)
            if photo is None:
                what = f"names {record.file_name!r}, but there is no {candidates[0]}"
                problems.append(Problem("error", "missing photo", str(self.path), what, "put it there"))
            else:
                samples.append(Sample(stem, photo, self.path, record.reader))
        return Listing(tuple(samples), self.class_names, tuple(problems))


def _photo_folders(folder: Path, name: str, path: Path) -> list[Path]:
    """Folders that may hold the photos of a file of annotations."""
    folders = [folder / "images" / name, folder / "images", folder / name, path.parent, folder]
    return [candidate for candidate in folders if candidate.is_dir()]


def _annotation_files(root: Path) -> dict[str, Path]:
    """Files of annotations by split."""
    if root.is_file():
        return {root.stem.removeprefix(PREFIX): root}
    if found := sorted(root.glob(f"annotations/{PREFIX}*.json")):
        return {path.stem.removeprefix(PREFIX): path for path in found}
    for pattern in ("annotations/[!.]*.json", "[!.]*.json", "*/_annotations.coco.json"):
        found = [path for path in sorted(root.glob(pattern)) if _is_coco(path)]
        if found:
            return {_split_of(path, root): path for path in found}
    return {}


def _split_of(path: Path, root: Path) -> str:
    """The split of a file of annotations: its name, or its folder's if it is _annotations.coco.json."""
    return path.parent.name if path.stem == "_annotations.coco" and path.parent != root else path.stem


def _is_coco(path: Path) -> bool:
    if any(path.with_suffix(ending).exists() for ending in PHOTO_ENDINGS):
        return False  # annotations of one photo beside it
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def _read(path: Path, folder: Path) -> _Content:
    """Read a file of annotations; LabelError if it is damaged or its categories do not fit a class file."""
    fix = "wanted COCO's JSON with images, annotations and categories: export it again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise LabelError.of("damaged annotations", path, f"not JSON ({error})", fix) from None
    try:
        names, ids = _classes(path, content["categories"], read_classes(folder))
        images = {each["id"]: each for each in content["images"]}
        annotations, stray = _annotations(path, content["annotations"], images, ids)
        records, unusable = _records(path, images, annotations)
    except (KeyError, TypeError, AttributeError) as error:
        what = f"not COCO's format ({type(error).__name__}: {error})"
        raise LabelError.of("damaged annotations", path, what, fix) from None
    return _Content(path, names, records, (*stray, *unusable))


def _classes(
    path: Path, categories: Sequence[Any], table: ClassTable | None
) -> tuple[tuple[str, ...], dict[int, int]]:
    """The names of the classes, and the class id of each category id."""
    by_number = {int(each["id"]): class_name_of(each["name"]) for each in categories}
    found = dict.fromkeys(name for _, name in sorted(by_number.items()))
    names = with_background(table.names if table else found)
    unknown = [name for name in found if name not in names and not is_void(name)]
    if unknown and table:
        what = f"category {unknown[0]!r} is not in {table.file}"
        fix = f"add it to {table.file.name}, or remove the category"
        raise LabelError.of("unknown class", path, what, fix)
    return names, {n: IGNORE if is_void(name) else names.index(name) for n, name in by_number.items()}


def _annotations(
    path: Path, content: Sequence[Any], images: Mapping[Any, Any], ids: Mapping[int, int]
) -> tuple[dict[Any, list[Annotation]], list[Problem]]:
    """Annotations by the id of their image, and a problem for each without an image or a category."""
    annotations: dict[Any, list[Annotation]] = {number: [] for number in images}
    problems = []
    for each in content:
        number, image, category = each["id"], each["image_id"], each["category_id"]
        if image in images and category in ids:
            crowd = bool(each.get("iscrowd", 0))
            annotations[image].append(Annotation(number, ids[category], crowd, each.get("segmentation")))
        else:
            missing = f"category {category}" if image in images else f"image {image}"
            what = f"annotation {number} belongs to {missing}, which is not in the file"
            problems.append(Problem("error", "stray annotation", str(path), what, "export the file again"))
    return annotations, problems


def _records(
    path: Path, images: Mapping[Any, Any], annotations: Mapping[Any, Sequence[Annotation]]
) -> tuple[dict[str, _Record], list[Problem]]:
    """Photos by name without ending, and a problem for each that cannot be used."""
    records: dict[str, _Record] = {}
    problems = []
    for number, image in images.items():
        name, height, width = str(image["file_name"]), int(image["height"]), int(image["width"])
        stem = Path(name).with_suffix("").as_posix()
        if not is_below(name):
            what = f"names {name!r}, which leads out of the folder"
            fix = "name photos by their path in it, without '..'"
            problems.append(Problem("error", "outside the folder", str(path), what, fix))
        elif stem in records:
            what = f"names {name!r} twice, or with two endings"
            problems.append(Problem("error", "two files of one name", str(path), what, "keep one"))
        elif min(height, width) < 1 or height * width > MAX_PIXELS:
            what = f"gives {name!r} {height}×{width} pixels"
            problems.append(Problem("error", "size", str(path), what, "give it the photo's height and width"))
        else:
            reader = AnnotationReader(height, width, tuple(annotations[number]))
            records[stem] = _Record(name, reader)
    return records, problems
