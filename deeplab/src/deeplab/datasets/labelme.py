"""labelme's annotations: photos with JSON files of shapes beside them."""

from __future__ import annotations

import base64
import binascii
import io
import math
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab.classes import IGNORE
from deeplab.datasets.class_files import class_name_of, is_void, read_classes, with_background
from deeplab.datasets.json_files import encoding_problem, read_json
from deeplab.datasets.matching import files_by_stem, match_samples, subfolder
from deeplab.datasets.problems import LabelError, Problem
from deeplab.datasets.rasterize import circle, polygon, rectangle
from deeplab.datasets.rasterize_lines import thick_line
from deeplab.datasets.samples import DEFAULT_OPTIONS, Layout, Listing, ReadOptions
from deeplab.datasets.splits import select, split_lists, split_names
from deeplab.photos import MAX_PIXELS, PHOTO_ENDINGS, PhotoError, upright_size

POLYGONS = ("polygon", "rotation", "oriented_rectangle")
LINES = ("line", "linestrip", "point", "points")
FIX = "open it in labelme and save it again"


@dataclass(frozen=True, eq=False)
class ShapeReader:
    """Reads class ids from a labelme file: background with the shapes on it, later ones over earlier ones."""

    ids: Mapping[str, int]
    """Id of each label; labels with void names are 255 and need not be listed."""

    line_width: float = 0.0
    """Width of lines and diameter of points, in pixels; 0 refuses them."""

    def __call__(self, path: Path) -> np.ndarray:
        """Read a labelme file: (H, W) uint8 ids, 255 void.

        Raises:
            LabelError: for a damaged file, a label without a class, or a shape without area; the message
                names the shape.
        """
        return self.read(path)[0]

    def read(self, path: Path) -> tuple[np.ndarray, list[Problem]]:
        """Read a labelme file as ``__call__`` does, with a warning for each shape that covers no pixel."""
        content = read_shapes(path)
        height, width = content["imageHeight"], content["imageWidth"]
        labels = np.zeros((height, width), np.uint8)
        warnings = []
        for number, shape in enumerate(content["shapes"], 1):
            label = _class_of(shape)
            where = f"shape {number} ({label!r})"
            if not is_void(label) and label not in self.ids:
                fix = f"wanted one of {', '.join(self.ids)}; add it to the class file, or rename the shape"
                raise LabelError.of("unknown class", path, f"{where} has no class", fix)
            try:
                inside = _shape_mask(shape, height, width, self.line_width)
            except (ValueError, KeyError, TypeError) as error:
                fix = "wanted a polygon, rectangle, circle or mask: draw it again, or remove it"
                if shape.get("shape_type") in LINES and not self.line_width:
                    fix = f"{fix}; lines and points need a width: --line-width 5, in a recipe line_width = 5"
                raise LabelError.of("bad shape", path, f"{where} cannot be drawn ({error})", fix) from None
            if not inside.any():
                fix = "draw it larger or inside the picture, or remove it"
                what = f"{where} covers no pixel's centre"
                warnings.append(Problem("warning", "empty shape", str(path), what, fix))
            labels[inside] = IGNORE if is_void(label) else self.ids[label]
        problem = encoding_problem(path)
        return labels, [*warnings, *([problem] if problem else [])]


def labelme_layout(root: Path, options: ReadOptions = DEFAULT_OPTIONS) -> Layout | None:
    """Read a folder (or its ``images``) of photos with JSON files of the same stems beside them.

    Splits are subfolders, lists, or a hash of the name, as in ``folder_layout``. Classes are those of a class
    file, or else the labels of all shapes, sorted; background is always id 0. Photos without a JSON file are
    left out. The path of a photo that a JSON file holds ("imagePath") is ignored.

    Args:
        root: folder of the data set.
        options: how masks and annotations are read.

    Returns:
        The layout; None if the folder has another one.
    """
    images = subfolder(root, "images")
    base = images if files_by_stem(images, (".json",)) else root
    photos = files_by_stem(base)
    json_files = files_by_stem(base, (".json",))
    files = {stem: paths for stem, paths in json_files.items() if stem in photos or _has_shapes(paths[0])}
    if not any(_has_shapes(files[stem][0]) for stem in files.keys() & photos.keys()):
        return None
    stems = files.keys() | photos.keys()
    lists = split_lists(root)
    table = read_classes(root)
    labels, damaged = ((), []) if table else _labels(path for paths in files.values() for path in paths)
    names = with_background(table.names if table else labels)
    damaged += _names_in_other_capitals(root, names)
    reader = ShapeReader({name: number for number, name in enumerate(names)}, options.line_width)

    def listing(split: str) -> Listing:
        selection = select(root, split, stems, lists)
        bare = () if selection.listing else tuple(stem for stem in selection.stems if stem not in files)
        samples, missing = match_samples(selection.without(bare), photos, files, (base, base), reader)
        unlabelled = [_unlabelled(photos[stem][0]) for stem in bare]
        return Listing(samples, names, (*damaged, *missing, *unlabelled))

    return Layout("labelme", split_names(lists, stems), listing)


def read_shapes(path: Path) -> dict[str, Any]:
    """Read a labelme file and check its shapes, imageHeight and imageWidth.

    Raises:
        LabelError: if it is not JSON, or anything of these is missing or wrong.
    """
    content = read_json(path, FIX)
    if isinstance(content, dict) and not (content.get("imageHeight") and content.get("imageWidth")):
        size = _size_of_photo(path)
        content |= {"imageHeight": size[0], "imageWidth": size[1]} if size else {}
    if not _is_complete(content):
        what = "not labelme's JSON: wanted shapes with labels, imageHeight and imageWidth"
        raise LabelError.of("damaged annotations", path, what, FIX)
    return dict(content)


def _size_of_photo(path: Path) -> tuple[int, int] | None:
    """Height and width of the photo beside a labelme file, which old files do not give; None if unknown."""
    files = sorted(each for each in path.parent.iterdir() if each.stem == path.stem)
    photo = next((each for each in files if each.suffix.lower() in PHOTO_ENDINGS), None)
    if photo is None:
        return None
    try:
        return upright_size(photo)
    except PhotoError:  # reported with the photo
        return None


def _is_complete(content: Any) -> bool:
    """Whether every shape has a label, and the picture a possible size."""
    try:
        height, width = content["imageHeight"], content["imageWidth"]
        labels = [shape["label"] for shape in content["shapes"]]
    except (KeyError, TypeError):
        return False
    labelled = all(isinstance(label, str) and label.strip() for label in labels)
    whole_numbers = type(height) is type(width) is int
    return labelled and whole_numbers and min(height, width) > 0 and height * width <= MAX_PIXELS


def _has_shapes(path: Path) -> bool:
    """Whether a file is JSON with "shapes" at its top level."""
    try:
        content = read_json(path, FIX)
    except LabelError:
        return False
    return isinstance(content, dict) and "shapes" in content


def _class_of(shape: Mapping[str, Any]) -> str:
    """The name of a shape's class."""
    return class_name_of(unicodedata.normalize("NFC", shape["label"]))


def _names_in_other_capitals(root: Path, names: Iterable[str]) -> list[Problem]:
    """An error for each class name that differs from another in capitals only."""
    seen: dict[str, str] = {}
    problems = []
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            what = f"the labels {other!r} and {name!r} differ only in capitals"
            problems.append(Problem("error", "two names of one class", str(root), what, "spell them alike"))
    return problems


def _labels(paths: Iterable[Path]) -> tuple[list[str], list[Problem]]:
    """The labels of all files, sorted, and a problem for each file that is damaged."""
    labels: set[str] = set()
    problems = []
    for path in paths:
        try:
            labels |= {_class_of(shape) for shape in read_shapes(path)["shapes"]}
        except LabelError as error:
            problems += [error.problem] if error.problem else []
    return sorted(labels), problems


def _unlabelled(photo: Path) -> Problem:
    """The warning for a photo without a JSON file."""
    return Problem(
        "warning",
        "not labelled",
        str(photo),
        "no JSON beside the photo, which is left out",
        "label it, or save it without shapes if it shows background only",
    )


def _shape_mask(shape: Mapping[str, Any], height: int, width: int, line_width: float) -> np.ndarray:
    """The mask of one shape, (height, width) bool."""
    kind = shape.get("shape_type") or "polygon"
    points = np.array(shape["points"], np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("points that are not finite")
    if kind in POLYGONS or (kind == "rectangle" and len(points) == 4):
        return polygon(points, height, width)
    if kind == "rectangle" and len(points) == 2:
        return rectangle(points, height, width)
    if kind == "circle" and len(points) == 2:
        return circle(points[0], math.dist(points[0], points[1]), height, width)
    if kind == "mask" and len(points) == 2:
        return _placed(_stored_mask(shape), points[0], height, width)
    if kind in LINES and len(points) and line_width:
        chains = [points] if kind.startswith("line") else [point[None] for point in points]
        parts = [thick_line(chain, line_width, height, width) for chain in chains]
        return np.logical_or.reduce(parts)
    raise ValueError(f"a {kind} of {len(points)} points")


def _stored_mask(shape: Mapping[str, Any]) -> np.ndarray:
    """The part of a mask that a shape stores as a PNG, (h, w) bool."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=["PNG"]) as file:
            if file.width * file.height > MAX_PIXELS:  # checked before it is decoded
                raise ValueError(f"its mask has {file.height}×{file.width} pixels")
            return np.asarray(file.convert("L")) > 0
    except (KeyError, TypeError, OSError, SyntaxError, binascii.Error, Image.DecompressionBombError):
        raise ValueError("its mask is not a PNG picture") from None


def _placed(part: np.ndarray, corner: np.ndarray, height: int, width: int) -> np.ndarray:
    """A part of a mask with its upper left pixel at (x, y), cut to (height, width)."""
    left, top = np.rint(corner).astype(int)
    mask = np.zeros((height, width), bool)
    target = mask[max(top, 0) : top + part.shape[0], max(left, 0) : left + part.shape[1]]
    y, x = max(-top, 0), max(-left, 0)
    target[:] = part[y : y + target.shape[0], x : x + target.shape[1]]
    return mask
