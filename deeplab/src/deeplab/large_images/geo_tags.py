"""GeoTIFF tags of an image, so that its label map has them too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deeplab.large_images.tiff_reader import import_tifffile

GEO_TAGS = {
    33550: "ModelPixelScale",
    33922: "ModelTiepoint",
    34264: "ModelTransformation",
    34735: "GeoKeyDirectory",
    34736: "GeoDoubleParams",
    34737: "GeoAsciiParams",
    50844: "RPCCoefficient",
}
"""Tags that georeference an image, by code."""
ORIENTATION = 274
"""Code of the tag Orientation; 1 is upright."""

ExtraTag = tuple[int, int, int, Any, bool]
"""A tag as tifffile's ``extratags`` takes it: code, dtype, count, value, write once."""


def geo_tags_of(path: Path) -> list[ExtraTag]:
    """Tags that georeference an image, with the values that the file has.

    The list is empty for a file that is no TIFF, and for an image that is rotated when it is read: the tags
    would not fit the upright image.
    """
    tifffile = import_tifffile()
    try:
        with tifffile.TiffFile(path) as file:
            tags = file.pages[0].tags
            if ORIENTATION in tags and tags[ORIENTATION].value != 1:
                return []
            geo_tags = [tags[code] for code in GEO_TAGS if code in tags]
            return [(tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in geo_tags]
    except tifffile.TiffFileError:
        return []
