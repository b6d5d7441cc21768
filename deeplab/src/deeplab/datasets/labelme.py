"""labelme's annotations: a photo and a JSON file of shapes beside it."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab.classes import IGNORE
from deeplab.datasets.class_files import is_void, name_of, read_classes, with_background
from deeplab.datasets.matching import by_stem, match
from deeplab.datasets.problems import LabelError, Problem
from deeplab.datasets.rasterize import circle, polygon, rectangle
from deeplab.datasets.samples import Layout, Listing
from deeplab.datasets.splits import choose, lists_in, splits_of
from deeplab.photos import MAX_PIXELS

POLYGONS = ("polygon", "rotation", "oriented_rectangle")


@dataclass(frozen=True, eq=False)
class Shapes:
    """Makes class ids of a labelme file: background, and the shapes on it, later ones over earlier ones."""

    ids: Mapping[str, int]
    """The id of each label; labels of void names are 255 without being here."""

    def __call__(self, path: Path) -> np.ndarray:
        """(H, W) uint8 ids, 255 void.

        Raises:
            LabelError: for a damaged file, a label without a class, or a shape that has no area: names the
                shape.
        """
        content = read_shapes(path)
        height, width = content["imageHeight"], content["imageWidth"]
        labels = np.zeros((height, width), np.uint8)
        for place, shape in enumerate(content["shapes"], 1):
            label = name_of(shape["label"])
            where = f"shape {place} ({label!r})"
            if not is_void(label) and label not in self.ids:
                cure = (
                    f"wanted one of {', '.join(self.ids)}; add it to the class file, or name the shape anew"
                )
                raise LabelError.of("unknown class", path, f"{where} has no class", cure)
            try:
                inside = _pixels(shape, height, width)
            except (ValueError, KeyError, TypeError) as error:
                cure = "wanted a polygon, rectangle, circle or mask: draw it again, or take it out"
                raise LabelError.of("bad shape", path, f"{where} cannot be drawn ({error})", cure) from None
            labels[inside] = IGNORE if is_void(label) else self.ids[label]
        return labels


def labelme(root: Path) -> Layout | None:
    """A folder (or its ``images``) with photos and JSON files of the same stems beside them; None if it is
    not one.

    Splits are subfolders, lists, or a hash of the name, as in ``folder_pairs``. Classes are those of a class
    file, or else the labels of all shapes, sorted; background is id 0 either way. Photos without a JSON file
    are left out. The path of a photo that a file holds ("imagePath") is not looked at.
    """
    base = root / "images" if by_stem(root / "images", (".json",)) else root
    found, photos = by_stem(base, (".json",)), by_stem(base)
    files = {stem: paths for stem, paths in found.items() if stem in photos or "shapes" in _top(paths[0])}
    if not any("shapes" in _top(files[stem][0]) for stem in files.keys() & photos.keys()):
        return None
    lists, table = lists_in(root), read_classes(root)
    labels: set[str] = set()
    faults = []
    for path in () if table else (path for paths in files.values() for path in paths):
        try:
            labels |= {name_of(shape["label"]) for shape in read_shapes(path)["shapes"]}
        except LabelError as error:
            faults += [error.fault] if error.fault else []
    names = with_background(table.names if table else sorted(labels))
    reader = Shapes({name: number for number, name in enumerate(names)})

    def listing(split: str) -> Listing:
        choice = choose(root, split, files.keys() | photos.keys(), lists)
        bare = () if choice.listing else tuple(key for key in choice.keys if key not in files)
        pairs, lacking = match(choice.without(bare), photos, files, (base, base), reader)
        unlabelled = [
            Problem(
                "warning",
                "not labelled",
                str(photos[key][0]),
                "no JSON beside the photo, which is left out",
                "label it, or save it without shapes if it shows background only",
            )
            for key in bare
        ]
        return Listing(pairs, names, (*faults, *lacking, *unlabelled))

    return Layout("labelme", splits_of(lists, files.keys() | photos.keys()), listing)


def read_shapes(path: Path) -> dict[str, Any]:
    """The content of a labelme file, with shapes, imageHeight and imageWidth as they should be; LabelError if
    not."""
    cure = "open it in labelme and save it again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise LabelError.of("damaged annotations", path, f"not JSON ({error})", cure) from None
    try:
        height, width = content["imageHeight"], content["imageWidth"]
        fits = all(isinstance(shape["label"], str) and shape["label"].strip() for shape in content["shapes"])
        fits = (
            fits
            and type(height) is type(width) is int
            and min(height, width) > 0
            and height * width <= MAX_PIXELS
        )
    except (KeyError, TypeError):
        fits = False
    if not fits:
        what = "wanted shapes with labels, imageHeight and imageWidth"
        raise LabelError.of("damaged annotations", path, f"not labelme's JSON: {what}", cure)
    return content


def _top(path: Path) -> Any:
    """The content of a JSON file, or nothing where it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _pixels(shape: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """(height, width) bool of one shape."""
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
        try:
            with Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=["PNG"]) as file:
                if file.width * file.height > MAX_PIXELS:  # before it is decoded
                    raise ValueError(f"its mask has {file.height}×{file.width} pixels")
                part = np.asarray(file.convert("L")) > 0
        except (KeyError, TypeError, OSError, SyntaxError, binascii.Error, Image.DecompressionBombError):
            raise ValueError("its mask is not a PNG picture") from None
        left, top = np.rint(points[0]).astype(int)
        whole = np.zeros((height, width), bool)
        here = whole[max(top, 0) : top + part.shape[0], max(left, 0) : left + part.shape[1]]
        y, x = max(-top, 0), max(-left, 0)
        here[:] = part[y : y + here.shape[0], x : x + here.shape[1]]
        return whole
    raise ValueError(f"a {kind} of {len(points)} points")
