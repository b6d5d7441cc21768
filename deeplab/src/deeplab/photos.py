"""Photos as people have them: any format, mode, depth and orientation, to (H, W, 3) uint8 in R, G, B."""

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
"""What is opened, by content: none of these runs another program, as Pillow runs Ghostscript for EPS."""
MAX_PIXELS = 300_000_000
"""Larger pictures are refused before they are decoded: a small file can claim any size."""
MAX_SCANS = 100
"""JPEG files that go over their picture more often are refused: a small file can do it 20,000 times; usual
are 1–15."""


class PhotoError(ValueError):
    """A photo cannot be used; the message is one line that names it and says why."""


def read_photo(path: str | Path) -> np.ndarray:
    """A photo from a file, upright.

    Args:
        path: any image Pillow reads. EXIF orientation is applied; of several frames the first is taken.

    Returns:
        (H, W, 3) uint8, R, G, B.

    Raises:
        PhotoError: if there is no such file, it is no image, is damaged, or is too large.
    """
    with opened(Path(path)) as image:
        return photo_from_image(image)


@cache
def known_formats() -> list[str]:
    """Those of ``FORMATS`` that this Pillow can open."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A file as a Pillow image; what goes wrong with it, then or while it is worked on, is a PhotoError of
    one line.

    Python's filters of warnings are one for all threads, so they stay as they are: Pillow's warnings of odd
    metadata are the program's to silence, as the command line does.
    """
    try:
        with Image.open(path, formats=known_formats()) as image:
            yield image
    except PhotoError as error:
        raise PhotoError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise PhotoError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise PhotoError(f"{path}: a folder, wanted a photo") from None
    except PermissionError:
        raise PhotoError(f"{path}: may not be read (permissions)") from None
    except UnidentifiedImageError:
        raise PhotoError(
            f"{path}: not an image that can be read; wanted JPEG, PNG, TIFF, WebP or the like"
        ) from None
    except Image.DecompressionBombError:
        raise PhotoError(f"{path}: too large, wanted at most {MAX_PIXELS // 10**6} megapixels") from None
    except MemoryError:
        raise PhotoError(f"{path}: does not fit into memory") from None
    except (
        Exception
    ) as error:  # decoders of damaged files raise whatever they like: OSError, SyntaxError, struct.error …
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PhotoError(f"{path}: damaged, cannot be decoded ({reason})") from None


def photo_from_image(image: Image.Image) -> np.ndarray:
    """A photo from a Pillow image of any mode: 16-bit and float levels are scaled, transparency lies on
    white.

    Returns:
        (H, W, 3) uint8, R, G, B, with the EXIF orientation applied.

    Raises:
        PhotoError: if it has no pixels, too many, more scans than ``MAX_SCANS``, or levels that are not
            finite.
    """
    check_size(image)
    _check_scans(image)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # Pillow would clip these levels to 0–255 instead of scaling them
        return np.repeat(_eight_bits(np.asarray(image))[:, :, None], 3, axis=2)
    if has_alpha(image):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def check_size(image: Image.Image) -> None:
    """PhotoError for a Pillow image without pixels, or with too many to be decoded whole."""
    width, height = image.size
    if width < 1 or height < 1:
        raise PhotoError(f"has no pixels ({width}×{height})")
    if width * height > MAX_PIXELS:
        raise PhotoError(f"has {width}×{height} pixels, wanted at most {MAX_PIXELS // 10**6} megapixels")


def _check_scans(image: Image.Image) -> None:
    file = getattr(image, "fp", None)  # None once it is decoded
    if image.format in ("JPEG", "MPO") and file is not None and scans_of(file, MAX_SCANS) > MAX_SCANS:
        raise PhotoError(
            f"goes over its picture in more than {MAX_SCANS} scans; save it anew, as a JPEG of a few"
        )


def has_alpha(image: Image.Image) -> bool:
    """Whether pixels of a Pillow image may be transparent."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def photo_from_any(image: Any) -> np.ndarray:
    """A photo from a path, a Pillow image, or an array (H, W, 3) or (H, W) of uint8.

    Raises:
        PhotoError: if a file cannot be used.
        ValueError: for any other type, shape or dtype.
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
            f"got an image {array.shape} of {array.dtype}, wanted (H, W, 3) uint8 in R, G, B with at least one pixel; "
            "for floats in 0–1 pass (255 * image).round().astype('uint8')"
        )
    return array


def _eight_bits(levels: np.ndarray) -> np.ndarray:
    """Grey levels of 16 or 32 bits or floats to uint8: by 1/257 from 16 bits, by 255 where floats stay within
    0–1."""
    if not np.isfinite(levels).all():
        raise PhotoError("has levels that are NaN or infinite")
    low, high = float(levels.min()), float(levels.max())
    if low < 0 or high > 65535:
        raise PhotoError(f"has levels from {low:g} to {high:g}, wanted 0–65535 for 16 bits, 0–255 or 0–1")
    if levels.dtype.kind == "f":
        scaled = levels * 255.0 if high <= 1 else levels if high <= 255 else levels / 257.0
    else:
        scaled = levels / 257.0 if levels.dtype.itemsize == 2 or high > 255 else levels
    return np.rint(scaled).astype(np.uint8)
