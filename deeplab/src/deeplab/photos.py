"""Photos of any format, colour mode, bit depth and orientation as (H, W, 3) uint8 in R, G, B."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deeplab.jpeg_scans import scans_of

PHOTO_ENDINGS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".jp2",
    ".avif",
)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that are opened, whatever the ending. None runs another program, as EPS runs Ghostscript."""
ORIENTATION_TAG = 0x0112
"""Tag of the orientation in EXIF data."""
MAX_PIXELS = 300_000_000
"""Maximum size of a picture, checked before it is decoded, because a small file can claim any size.

Pillow's own limit may be lower; ``max_pixels`` is the one that holds for pictures that Pillow opens.
"""
MAX_SCANS = 100
"""Maximum number of scans of a JPEG file. Usual files have 1 to 15; a small malicious one can have 20,000."""


class PhotoError(ValueError):
    """A photo cannot be used. The message is one line that names the photo and the reason."""


def max_pixels() -> int:
    """Maximum size of a picture that is opened: ``MAX_PIXELS``, or Pillow's limit where that is lower.

    Pillow refuses pictures of more than twice ``PIL.Image.MAX_IMAGE_PIXELS``, which allows 178,956,970
    pixels. A program that sets it to 150,000,000 can open pictures of up to 300 megapixels.
    """
    limit = Image.MAX_IMAGE_PIXELS
    return MAX_PIXELS if limit is None else min(MAX_PIXELS, 2 * limit)


def read_photo(path: str | Path) -> np.ndarray:
    """Read a photo from a file and turn it upright.

    Args:
        path: File of one of ``FORMATS``. The EXIF orientation is applied; of several frames the first is
            read.

    Returns:
        (H, W, 3) uint8 in R, G, B.

    Raises:
        PhotoError: If there is no such file, or it is not an image, damaged, or too large.
    """
    with opened(Path(path)) as image:
        return photo_from_image(image)


def upright_size(path: str | Path) -> tuple[int, int]:
    """Get height and width of a photo as ``read_photo`` returns it, without decoding it.

    The orientation in a PNG file whose EXIF data come after the pixels is not seen.

    Raises:
        PhotoError: If there is no such file, or it is not an image.
    """
    with opened(Path(path)) as image:
        width, height = image.size
        return (width, height) if _orientation(image) > 4 else (height, width)


def photo_orientation(path: str | Path) -> int:
    """Get the EXIF orientation of a photo, 1 to 8; 1 is upright. Raises what ``upright_size`` raises."""
    with opened(Path(path)) as image:
        return _orientation(image)


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:  # getexif would decode it
        return 1
    orientation = image.getexif().get(ORIENTATION_TAG, 1)
    return orientation if orientation in range(1, 9) else 1


@cache
def known_formats() -> list[str]:
    """Those of ``FORMATS`` that the installed Pillow can open."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a file with Pillow and turn every error, in the ``with`` block too, into a ``PhotoError``.

    Pillow's warnings about odd metadata are not silenced here, because Python's warning filters are shared by
    all threads. A program may silence them, as the command line does.

    Args:
        path: File of one of ``FORMATS``.

    Yields:
        The image, not yet decoded.

    Raises:
        PhotoError: If the file cannot be opened, or the block raises an error.
    """
    try:
        with Image.open(path, formats=known_formats()) as image:
            yield image
    except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, struct.error …
        raise PhotoError(f"{path}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Why a photo cannot be used, by the error that was raised while it was opened or decoded."""
    if isinstance(error, PhotoError):
        return str(error)
    reasons: list[tuple[type[Exception], str]] = [
        (FileNotFoundError, "no such file"),
        (IsADirectoryError, "a folder, wanted a photo"),
        (PermissionError, "may not be read (permissions)"),
        (UnidentifiedImageError, "not an image that can be read; wanted JPEG, PNG, TIFF, WebP or the like"),
        (Image.DecompressionBombError, f"too large, wanted at most {_megapixels(max_pixels())}"),
        (MemoryError, "does not fit into memory"),
    ]
    for kind, reason in reasons:
        if isinstance(error, kind):
            return reason
    return f"damaged, cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})"


def _megapixels(pixels: int) -> str:
    return f"{pixels // 10**6} megapixels"


def photo_from_image(image: Image.Image) -> np.ndarray:
    """Convert a Pillow image of any mode: deep levels are scaled, transparent pixels lie on white.

    Levels of 16 bits are scaled by the bits in use, so that 12 bits in a file of 16 are no dark photo. The
    fourth band of a TIFF that says it is opacity, but has levels between 0 and 255 in most pixels, is taken
    for another band, such as near infrared, and is left out.

    Args:
        image: Image, decoded or not. Its EXIF orientation is applied.

    Returns:
        (H, W, 3) uint8 in R, G, B.

    Raises:
        PhotoError: If it has no pixels, too many pixels, more than ``MAX_SCANS`` scans, levels that are not
            finite, or colours of 16 bits that use 12 bits or fewer.
    """
    check_size(image)
    _check_scans(image)
    is_deep = _has_deep_colours(image)
    is_tiff = image.format == "TIFF"
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # Pillow would clip these levels to 0–255 instead of scaling them
        return np.repeat(_eight_bits(np.asarray(image))[:, :, None], 3, axis=2)
    if has_alpha(image) and not (is_tiff and image.mode == "RGBA" and _is_band(image)):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    colours = np.asarray(image.convert("RGB"))
    if is_deep and 0 < colours.max() < 16:  # Pillow keeps the upper 8 of 16 bits
        raise PhotoError("has colours of 16 bits that use 12 bits or fewer; save it with 8 bits")
    return colours


def _has_deep_colours(image: Image.Image) -> bool:
    """Whether the colours of an image that is not yet decoded have 16 bits each."""
    tiles = getattr(image, "tile", None) or [(None, None, None, "")]
    return image.mode in ("RGB", "RGBA") and ";16" in str(tiles[0][3])


def _is_band(image: Image.Image) -> bool:
    """Whether the fourth band of an image is no opacity, which is 0 or 255 in most pixels, or constant."""
    levels = np.asarray(image.getchannel(3))
    partial = (levels > 0) & (levels < 255)
    return float(partial.mean()) > 0.5 and np.ptp(levels) > 0


def check_size(image: Image.Image) -> None:
    """Raise ``PhotoError`` for a Pillow image that has no pixels, or too many to be decoded as a whole."""
    width, height = image.size
    if width < 1 or height < 1:
        raise PhotoError(f"has no pixels ({width}×{height})")
    if width * height > MAX_PIXELS:
        raise PhotoError(f"has {width}×{height} pixels, wanted at most {_megapixels(max_pixels())}")


def _check_scans(image: Image.Image) -> None:
    file = getattr(image, "fp", None)  # None once the image is decoded
    if image.format in ("JPEG", "MPO") and file is not None and scans_of(file, MAX_SCANS) > MAX_SCANS:
        raise PhotoError(f"has more than {MAX_SCANS} scans; save it again as an ordinary JPEG")


def has_alpha(image: Image.Image) -> bool:
    """Whether pixels of a Pillow image may be transparent."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def photo_from_any(image: Any) -> np.ndarray:
    """Read or convert a photo that is given as a path, a Pillow image, or an array.

    Args:
        image: Path, Pillow image, or array (H, W, 3) in R, G, B or (H, W) in grey, both uint8.

    Returns:
        (H, W, 3) uint8 in R, G, B.

    Raises:
        PhotoError: If a file cannot be used.
        ValueError: For any other type, shape or dtype.
    """
    if isinstance(image, (str, Path)):
        return read_photo(image)
    if isinstance(image, Image.Image):
        return photo_from_image(image)
    array = np.asarray(image)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(
            f"got an image {array.shape} of {array.dtype}, wanted (H, W, 3) uint8 in R, G, B with at least "
            "one pixel; for floats in 0–1 pass (255 * image).round().astype('uint8')"
        )
    return array


def resize_photo(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a photo with bilinear interpolation, antialiased where it becomes smaller.

    Args:
        photo: (H, W, 3) uint8.
        size: New height and width in pixels.

    Returns:
        (height, width, 3) uint8; the photo itself if it has that size already.
    """
    if photo.shape[:2] == size:
        return photo
    # Pillow rather than torch.nn.functional.interpolate: it works on uint8 and antialiases.
    return np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.BILINEAR))


def _eight_bits(levels: np.ndarray) -> np.ndarray:
    """Scale grey levels to uint8: whole numbers by the bits in use, at least 8, floats within 0–1 by 255."""
    if not np.isfinite(levels).all():
        raise PhotoError("has levels that are NaN or infinite")
    low, high = float(levels.min()), float(levels.max())
    if low < 0 or high > 65535:
        raise PhotoError(f"has levels from {low:g} to {high:g}, wanted 0–65535 for 16 bits, 0–255 or 0–1")
    if levels.dtype.kind == "f":
        scaled = levels * 255.0 if high <= 1 else levels if high <= 255 else levels / 257.0
    else:
        scaled = levels * (255 / (2 ** max(8, int(high).bit_length()) - 1))
    return np.rint(scaled).astype(np.uint8)
