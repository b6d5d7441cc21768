"""The layout of COCO: one JSON file of annotations for many photos."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from deeplab.classes import IGNORE
from deeplab.datasets.class_files import class_name_of, is_void, read_classes, with_background
from deeplab.datasets.coco_annotations import Annotation, AnnotationReader
from deeplab.datasets.json_files import encoding_problem, read_json
from deeplab.datasets.mask_colours import ClassTable
from deeplab.datasets.matching import subfolder
from deeplab.datasets.problems import LabelError, Problem
from deeplab.datasets.samples import Layout, Listing, Sample
from deeplab.datasets.splits import Selection, is_split_name, select, split_lists, split_names
from deeplab.paths import is_below
from deeplab.photos import MAX_PIXELS, PHOTO_ENDINGS, PhotoError, upright_size

PREFIX = "instances_"
FIX = "wanted COCO's JSON with images, annotations and categories: export it again"


def coco_layout(root: Path) -> Layout | None:
    """Read a folder with annotations/instances_SPLIT.json, or with one JSON file in COCO's format.

    A single file that is not named after a split is divided by lists or by a hash of the photos' names, as in
    ``folder_layout``. Photos are searched in images/SPLIT, images, SPLIT, beside the file and in the folder;
    a name that leads out of it is an error. Classes are those of a class file, or the categories in the order
    of their ids; background is id 0. An absolute path, which leads to another machine, counts as the bare
    name. A size that the file does not give is the photo's.

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
    given: str
    """The name as the file gives it."""
    height: int
    width: int
    """0 if the file does not give the size."""
    annotations: tuple[Annotation, ...]

    def sample(self, stem: str, photo: Path, path: Path) -> Sample:
        """The photo with its labels; PhotoError if its size is needed and it cannot be read."""
        height, width = self.height, self.width
        if not height:
            height, width = upright_size(photo)
        return Sample(stem, photo, path, AnnotationReader(height, width, self.annotations))


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
        bare_names = Counter(PurePosixPath(record.file_name).name for record in self.records.values())
        for stem in selection.stems:
            record = self.records.get(stem)
            if record is None:
                what = f"names {stem!r}, which {self.path} does not"
                fix = "annotate the photo, or take the name out"
                problems.append(Problem("error", "missing photo", str(selection.listing), what, fix))
                continue
            bare = PurePosixPath(record.file_name).name
            photo = _find_photo(record.file_name, folders, by_bare_name=bare_names[bare] == 1)
            if photo is None and not is_below(record.given):
                problems.append(_outside(self.path, record.given))
                continue
            if photo is None:
                what = f"names {record.file_name!r}, but there is no {folders[0] / record.file_name}"
                problems.append(Problem("error", "missing photo", str(self.path), what, "put it there"))
                continue
            try:
                samples.append(record.sample(stem, photo, self.path))
            except PhotoError as error:
                what = str(error).removeprefix(f"{photo}: ")
                fix = f"copy it again, or give its height and width in {self.path.name}"
                problems.append(Problem("error", "damaged photo", str(photo), what, fix))
        return Listing(tuple(samples), self.class_names, tuple(problems))


def _photo_folders(folder: Path, name: str, path: Path) -> list[Path]:
    """Folders that may hold the photos of a file of annotations."""
    images = subfolder(folder, "images")
    folders = [subfolder(images, name), images, subfolder(folder, name), path.parent, folder]
    return [candidate for candidate in folders if candidate.is_dir()]


def _find_photo(name: str, folders: Sequence[Path], *, by_bare_name: bool) -> Path | None:
    """The photo of a name, in any Unicode form, in the first folder that has one.

    Args:
        name: path of the photo.
        folders: folders to look into.
        by_bare_name: whether a file of the name without its folders will do.
    """
    names = list(dict.fromkeys(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    if by_bare_name:
        names += [PurePosixPath(form).name for form in names]
    candidates = (folder / each for each in names for folder in folders)
    return next((path for path in candidates if path.is_file()), None)


def _annotation_files(root: Path) -> dict[str, Path]:
    """Files of annotations by split."""
    if root.is_file():
        return {root.stem.removeprefix(PREFIX): root}
    annotations = subfolder(root, "annotations")
    if found := sorted(annotations.glob(f"{PREFIX}*.json")):
        return {path.stem.removeprefix(PREFIX): path for path in found}
    for folder, pattern in (
        (annotations, "[!.]*.json"),
        (root, "[!.]*.json"),
        (root, "*/_annotations.coco.json"),
    ):
        found = [path for path in sorted(folder.glob(pattern)) if _is_coco(path)]
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
        content = read_json(path, FIX)
    except LabelError:
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def _read(path: Path, folder: Path) -> _Content:
    """Read a file of annotations; LabelError if it is damaged or its categories do not fit a class file."""
    content = read_json(path, FIX)
    try:
        names, ids = _classes(path, content["categories"], read_classes(folder))
        images = _by_id(path, "image", content["images"])
        annotations, problems = _annotations(path, content["annotations"], images, ids)
        records, unusable = _records(path, images, annotations)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        what = f"not COCO's format ({type(error).__name__}: {error})"
        raise LabelError.of("damaged annotations", path, what, FIX) from None
    encoding = encoding_problem(path)
    return _Content(path, names, records, (*problems, *unusable, *([encoding] if encoding else [])))


def _id(value: Any) -> Any:
    """An id as a number where it is one, also if it is written as text."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if not isinstance(value, (int, str)):
        raise TypeError(f"got the id {value!r}, wanted a whole number or text")
    return value


def _whole(value: Any) -> int:
    """A whole number; TypeError for anything else."""
    try:
        return int(value)
    except (ValueError, OverflowError):
        raise TypeError(f"got {value!r}, wanted a whole number") from None


def _by_id(path: Path, kind: str, items: Sequence[Any]) -> dict[Any, Any]:
    """Items by their id; LabelError for an id that is there twice."""
    found: dict[Any, Any] = {}
    for item in items:
        number = _id(item["id"])
        if number in found:
            what = f"the {kind} id {number} is there twice"
            fix = "annotations cannot be assigned: give each its own id, or export the file again"
            raise LabelError.of("id twice", path, what, fix)
        found[number] = item
    return found


def _classes(
    path: Path, categories: Sequence[Any], table: ClassTable | None
) -> tuple[tuple[str, ...], dict[int, int]]:
    """The names of the classes, and the class id of each category id."""
    items = _by_id(path, "category", categories).items()
    by_number = {_whole(n): class_name_of(unicodedata.normalize("NFC", each["name"])) for n, each in items}
    found = dict.fromkeys(name for _, name in sorted(by_number.items()))
    _check_names(path, [name for name in by_number.values() if not is_void(name)])
    names = with_background(table.names if table else found)
    unknown = [name for name in found if name not in names and not is_void(name)]
    if unknown and table:
        what = f"category {unknown[0]!r} is not in {table.file}"
        fix = f"add it to {table.file.name}, or remove the category"
        raise LabelError.of("unknown class", path, what, fix)
    return names, {n: IGNORE if is_void(name) else names.index(name) for n, name in by_number.items()}


def _check_names(path: Path, names: Sequence[str]) -> None:
    """LabelError for a category that is there twice, also in other capitals."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name) if name.casefold() in seen else None
        if other is not None:
            what = f"the categories {other!r} and {name!r} have one name"
            raise LabelError.of("two names of one class", path, what, "make them one, or rename one")
        seen[name.casefold()] = name


def _annotations(
    path: Path, content: Sequence[Any], images: Mapping[Any, Any], ids: Mapping[int, int]
) -> tuple[dict[Any, list[Annotation]], list[Problem]]:
    """Annotations by the id of their image, and a problem for each without an image or a category."""
    annotations: dict[Any, list[Annotation]] = {number: [] for number in images}
    problems = []
    for number, each in enumerate(content):
        number, image, category = each.get("id", number), _id(each["image_id"]), _id(each["category_id"])
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
        name, height, width = (
            _file_name(image),
            _whole(image.get("height") or 0),
            _whole(image.get("width") or 0),
        )
        has_size = image.get("height") is not None and image.get("width") is not None
        stem = PurePosixPath(name).with_suffix("").as_posix()
        if not is_below(name):
            problems.append(_outside(path, str(image["file_name"])))
        elif stem in records:
            what = f"names {name!r} twice, or with two endings"
            problems.append(Problem("error", "two files of one name", str(path), what, "keep one"))
        elif has_size and (min(height, width) < 1 or height * width > MAX_PIXELS):
            what = f"gives {name!r} {height}×{width} pixels"
            problems.append(Problem("error", "size", str(path), what, "give it the photo's height and width"))
        else:
            size = (height, width) if has_size else (0, 0)
            records[stem] = _Record(name, str(image["file_name"]), *size, tuple(annotations[number]))
    return records, problems


def _outside(path: Path, name: str) -> Problem:
    """The problem of a photo's name that leads out of the folder."""
    what = f"names {name!r}, which leads out of the folder"
    fix = "name photos by their path in it, without '..'"
    return Problem("error", "outside the folder", str(path), what, fix)


def _file_name(image: Mapping[str, Any]) -> str:
    """The path of a photo with slashes, in Unicode NFC; the bare name of an absolute path."""
    name = unicodedata.normalize("NFC", str(image["file_name"])).replace("\\", "/")
    windows = PureWindowsPath(name)
    return windows.name if windows.root or windows.drive else name
