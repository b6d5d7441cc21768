"""Writes TIFFs in tiles: label maps of large images, and copies of photos that are then read in windows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from deeplab.classes import IGNORE, palette
from deeplab.files import temporary_path
from deeplab.large_images.geo_tags import ExtraTag
from deeplab.large_images.tiff_reader import import_tifffile
from deeplab.photos import check_size, has_alpha, opened, photo_from_image

MAX_CLASSIC_BYTES = 2**32 - 2**26
"""Largest size of the pixels of a classic TIFF, whose offsets have 32 bits; above it a BigTIFF is written."""
COPY_TILE = 256
"""Side in pixels of the tiles of a copied photo."""
_GDAL_NODATA = 42113


def write_labels(
    path: Path,
    size: tuple[int, int],
    tiles: Iterable[np.ndarray],
    *,
    tile: int,
    class_names: Sequence[str],
    geo_tags: Sequence[ExtraTag] = (),
) -> None:
    """Write class ids as a tiled TIFF with a palette; as a BigTIFF where 4 GB might not suffice.

    Void is marked as the level that means "no data", and the description is JSON with the class names. Equal
    ids give equal bytes.

    Args:
        path: the file; it exists before all is written, so write to a temporary path and rename it.
        size: height and width in pixels.
        tiles: (tile, tile) uint8, row by row; those at the right and bottom edge are filled up.
        tile: side of a tile in pixels; a multiple of 16.
        class_names: names in the order of ids.
        geo_tags: tags that georeference the image, as ``geo_tags_of`` returns them.
    """
    tifffile = import_tifffile()
    pixels = -(-size[0] // tile) * -(-size[1] // tile) * tile**2
    classes = {str(number): name for number, name in enumerate(class_names)} | {"255": "void"}
    with tifffile.TiffWriter(path, bigtiff=pixels > MAX_CLASSIC_BYTES, byteorder="<") as file:
        file.write(
            iter(tiles),
            shape=size,
            dtype=np.uint8,
            tile=(tile, tile),
            compression="zlib",
            photometric="palette",
            colormap=np.ascontiguousarray(palette().T.astype(np.uint16) * 257),
            description=json.dumps({"classes": classes}),
            metadata=None,
            software="deeplab",
            extratags=[*geo_tags, (_GDAL_NODATA, 2, 0, str(IGNORE), True)],
        )
    with open(path, "rb+") as written:
        os.fsync(written.fileno())


def copy_as_tiff(photo: Path, path: Path) -> None:
    """Decode a photo with Pillow and write it as an uncompressed TIFF that can be read in windows.

    Decoding takes 4 bytes a pixel (more for 16 bits), so this is for photos up to ``photos.MAX_PIXELS``.

    Args:
        photo: any image that Pillow reads.
        path: the TIFF to write; missing parent folders are made.

    Raises:
        PhotoError: if the photo cannot be used, see ``read_photo``; nothing is written then.
    """
    tifffile = import_tifffile()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with opened(photo) as image, tifffile.TiffWriter(temporary) as file:
            check_size(image)
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith(("I", "F")):  # how levels are scaled depends on all of them
                image = Image.fromarray(photo_from_image(image))
            mode = "RGBA" if has_alpha(image) else "RGB"
            file.write(
                (np.asarray(image.crop(box).convert(mode)) for box in _tile_boxes(image.size)),
                shape=(image.height, image.width, len(mode)),
                dtype=np.uint8,
                tile=(COPY_TILE, COPY_TILE),
                photometric="rgb",
                extrasamples=["unassalpha"] if mode == "RGBA" else None,
                metadata=None,
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _tile_boxes(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Left, top, right, bottom of the tiles of an image (W, H); Pillow pads a crop outside the image."""
    for top in range(0, size[1], COPY_TILE):
        for left in range(0, size[0], COPY_TILE):
            yield left, top, left + COPY_TILE, top + COPY_TILE
