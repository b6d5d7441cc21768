"""Mask files: pictures whose levels, palette indices or colours stand for classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from deeplab.classes import IGNORE
from deeplab.datasets.problems import LabelError
from deeplab.photos import MAX_PIXELS, known_formats

LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000")
COLOUR_MODES = ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
LEVEL_STEPS = {"L;2": 85, "L;4": 17}
"""Pillow stretches grey levels of 2 and 4 bits to 0–255; factor by raw mode."""


def read_ids(path: Path) -> np.ndarray:
    """Read the class ids of a palette or grey mask; palette indices are the ids, palette colours are ignored.

    Returns:
        (H, W) uint8, 255 void.

    Raises:
        FileNotFoundError: if there is no such file.
        LabelError: if the mask is damaged, in colours, lossy (JPEG), of several pages, or has ids above 255.
    """
    return mask_ids(load_mask(path), path)


def load_mask(path: Path) -> Image.Image:
    """Load a mask with its levels, indices or colours as they were saved, and turn it upright.

    Levels of grey masks of 2 and 4 bits are 0–3 and 0–15. An EXIF orientation is applied, as it is to photos.

    Raises:
        FileNotFoundError: if there is no such file.
        LabelError: if the mask is damaged, lossy (JPEG), too large, or has several pages.
    """
    try:
        with Image.open(path, formats=known_formats()) as file:
            _check_kind(file, path)
            step = _level_step(file)
            file.load()
            mask = ImageOps.exif_transpose(file.copy())
            return mask if step == 1 else mask.point([level // step for level in range(256)])
    except (LabelError, FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything for damaged files: OSError, SyntaxError …
        reason = str(error).replace(f" {str(path)!r}", "") or type(error).__name__
        what = f"cannot be decoded ({reason})"
        raise LabelError.of("damaged mask", path, what, "copy or export it again as PNG") from None


def mask_ids(mask: Image.Image, path: Path) -> np.ndarray:
    """Get the levels or palette indices of a loaded mask.

    Args:
        mask: a loaded mask of any mode.
        path: its file, for messages.

    Returns:
        (H, W) uint8.

    Raises:
        LabelError: if the mask is in colours or has levels outside 0 to 255.
    """
    if mask.mode in ("P", "L"):
        return np.asarray(mask)
    if mask.mode == "1":
        return np.asarray(mask).astype(np.uint8)
    if mask.mode.startswith("I"):  # 16 bits and more
        levels = np.asarray(mask)
        if levels.min() < 0 or levels.max() > IGNORE:
            what = f"ids from {levels.min()} to {levels.max()}"
            raise LabelError.of("ids out of range", path, what, "ids must be 0 to 254, and 255 for void")
        return levels.astype(np.uint8)
    raise LabelError.of(
        "colour mask" if mask.mode in COLOUR_MODES else "mask without ids",
        path,
        f"got a {mask.mode} mask, wanted a palette or grey PNG of class ids",
        "save ids, or give each class a colour in classes.txt, one line 'name red green blue' per class",
    )


def palette_colours(mask: Image.Image) -> np.ndarray:
    """Get the colours of a loaded palette mask: (256, 3) uint8 R, G, B, black where the file has none."""
    colours = np.zeros((256, 3), np.uint8)
    stored = np.array(mask.getpalette("RGB"), np.uint8).reshape(-1, 3)[:256]
    colours[: len(stored)] = stored
    return colours


def _check_kind(file: Image.Image, path: Path) -> None:
    """LabelError for a mask that is lossy, too large, or of several pages."""
    if file.format in LOSSY_FORMATS:
        what = f"a mask saved as {file.format}, which changes ids"
        fix = "export the labels again as PNG; JPEG blurs ids and they cannot be recovered"
        raise LabelError.of("lossy mask", path, what, fix)
    if file.width * file.height > MAX_PIXELS:
        fix = f"wanted at most {MAX_PIXELS // 10**6} megapixels"
        raise LabelError.of("damaged mask", path, f"{file.width}×{file.height} pixels", fix)
    pages = getattr(file, "n_frames", 1)
    if pages != 1:
        fix = "save one page with the ids of all classes: only the first would be read"
        raise LabelError.of("mask of several pages", path, f"has {pages} pages", fix)


def _level_step(file: Image.Image) -> int:
    """The factor by which Pillow stretches the levels of an opened file when it is decoded."""
    tiles = getattr(file, "tile", None)
    if file.mode != "L" or not tiles:
        return 1
    arguments = tiles[0][3]
    raw_mode = arguments if isinstance(arguments, str) else (arguments or ("",))[0]
    return LEVEL_STEPS.get(str(raw_mode)[:3], 1)
