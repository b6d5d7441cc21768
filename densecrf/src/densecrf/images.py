"""Images from files, in the levels that they are stored with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from densecrf import array_files, tiff

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".npz", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the files that are looked for in a folder of images."""


def read_image(path: Path) -> np.ndarray:
    """Read an image.

    Images of 8 bits become RGB. Grey images and TIFFs of more bits, floating-point images, TIFFs of other
    numbers of bands, and arrays in .npy files keep their levels and bands.

    Args:
        path: an image that Pillow reads, a TIFF, or a .npy or .npz file of (H, W) or (H, W, C).

    Returns:
        (H, W, C) or (H, W).

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not such an image.
    """
    if path.suffix.lower() in array_files.SUFFIXES:
        array, _ = array_files.read_array(path, ("image",))
        if array.ndim not in (2, 3) or not array.size:
            raise ValueError(f"{path}: got an array {array.shape}, wanted an image (H, W) or (H, W, C)")
        return array
    with open(path, "rb") as file:
        data = file.read() if file.read(4) in tiff.SIGNATURES and file.seek(0) == 0 else b""
    if data and not tiff.read_directory(data).is_ordinary:
        return tiff.read_tiff(path, data)
    image = open_image(path)
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits, which convert() would cut off at 255
        return np.asarray(image)
    return np.asarray(image.convert("RGB"))


def open_image(path: Path) -> Image.Image:
    """Decode an image with Pillow.

    Args:
        path: the file.

    Returns:
        The image, turned as its Exif orientation says unless it has a palette.

    Raises:
        ImportError: without Pillow.
        OSError: if the file cannot be read.
        ValueError: if it is not an image, or too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image) if image.mode != "P" else image.copy()
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: too large: {error}") from None
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"{path}: not an image that can be read ({type(error).__name__})") from None
