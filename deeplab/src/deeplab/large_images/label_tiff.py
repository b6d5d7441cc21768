"""Label maps of large pictures as TIFF: tiled, compressed, in VOC's colours, in their place on Earth."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from deeplab.classes import IGNORE, palette
from deeplab.files import temporary_path
from deeplab.large_images.tiff import tifffile_module
from deeplab.photos import check_size, has_alpha, opened, photo_from_image

MOST_IN_CLASSIC = 2**32 - 2**26
"""Bytes of pixels up to which offsets of 32 bits are sure to do; above them a BigTIFF is written."""
COPY_TILE = 256
_GDAL_NODATA = 42113


def write_labels(
    path: Path,
    size: tuple[int, int],
    tiles: Iterable[np.ndarray],
    *,
    tile: int,
    class_names: Sequence[str],
    geo_tags: Sequence[tuple[int, int, int, Any, bool]] = (),
) -> None:
    """Write class ids as a tiled TIFF with a palette; as a BigTIFF where 4 GB might not do.

    Void is the level for no data, and the description is JSON with the names of the classes. The same ids
    give the same bytes.

    Args:
        path: the file; it is there before all is written, so write it aside.
        size: (H, W).
        tiles: (tile, tile) uint8, row by row; those at the right and bottom edge filled up.
        tile: a multiple of 16.
        class_names: id order.
        geo_tags: as ``LargeTiff.geo_tags`` gives them.
    """
    tifffile = tifffile_module()
    room = -(-size[0] // tile) * -(-size[1] // tile) * tile**2
    about = json.dumps(
        {"classes": {str(number): name for number, name in enumerate(class_names)} | {"255": "void"}}
    )
    with tifffile.TiffWriter(path, bigtiff=room > MOST_IN_CLASSIC, byteorder="<") as file:
        file.write(
            iter(tiles),
            shape=size,
            dtype=np.uint8,
            tile=(tile, tile),
            compression="zlib",
            photometric="palette",
            colormap=np.ascontiguousarray(palette().T.astype(np.uint16) * 257),
            description=about,
            metadata=None,
            software="deeplab",
            extratags=[*geo_tags, (_GDAL_NODATA, 2, 0, str(IGNORE), True)],
        )
    with open(path, "rb+") as written:
        os.fsync(written.fileno())


def lay_down(photo: Path, path: Path) -> None:
    """Decode any picture that Pillow reads as a whole and write it as a plain TIFF, which is read in windows.

    It takes 4 bytes a pixel (of 16 bits more) for as long as it is decoded, so that it is for pictures up to
    ``photos.MAX_PIXELS``.

    Raises:
        PhotoError: as ``read_photo``.
    """
    tifffile = tifffile_module()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = temporary_path(path)
    try:
        with opened(photo) as image, tifffile.TiffWriter(aside) as file:
            check_size(image)
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith(("I", "F")):  # levels are scaled by what all of them are
                image = Image.fromarray(photo_from_image(image))
            mode = "RGBA" if has_alpha(image) else "RGB"
            file.write(
                (np.asarray(image.crop(box).convert(mode)) for box in _boxes(image.size)),
                shape=(image.height, image.width, len(mode)),
                dtype=np.uint8,
                tile=(COPY_TILE, COPY_TILE),
                photometric="rgb",
                extrasamples=["unassalpha"] if mode == "RGBA" else None,
                metadata=None,
            )
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _boxes(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Left, top, right and bottom of the tiles of a picture (W, H); Pillow fills up what lies outside it."""
    for top in range(0, size[1], COPY_TILE):
        for left in range(0, size[0], COPY_TILE):
            yield left, top, left + COPY_TILE, top + COPY_TILE
