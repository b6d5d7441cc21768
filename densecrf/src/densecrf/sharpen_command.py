"""``densecrf sharpen``: move the boundary of a mask to the edges of its photo."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from densecrf.images import open_image, read_image
from densecrf.mask_sharpening import sharpen


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of a command line."""
    parser = commands.add_parser("sharpen", help="move the boundary of a mask to the edges of its photo")
    parser.add_argument("photo", type=Path, help="the photo the mask belongs to")
    parser.add_argument(
        "mask",
        type=Path,
        help="image of one object: black and white, grey (0 to 255), or with an alpha channel",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="mask to write, a grey .png")
    parser.add_argument(
        "--radius",
        type=int,
        help="pixels by which the boundary may move (default: 1.8 %% of the photo's diagonal)",
    )
    parser.add_argument("--threads", type=int, help="maximum number of threads (default: all processors)")


def run_sharpen(options: argparse.Namespace) -> str:
    """Sharpen a mask and write it, completely or not at all.

    Args:
        options: what ``add_parser`` asks for.

    Returns:
        A line on what was done.

    Raises:
        ImportError: without Pillow.
        OSError: if a file cannot be read or written.
        ValueError: for files, sizes or values that do not fit.
    """
    from PIL import Image

    if options.out.suffix.lower() != ".png":
        raise ValueError(f"got --out {options.out}, wanted a name ending in .png")
    photo = read_image(options.photo)
    mask = _read_mask(options.mask)
    if mask.shape != photo.shape[:2]:
        raise ValueError(
            f"{options.mask}: got a mask {mask.shape}, wanted {photo.shape[:2]}, the size of the photo"
        )
    result = sharpen(photo, mask, radius=options.radius, threads=options.threads)
    temporary = options.out.with_name(f".densecrf.{os.getpid()}.part")
    try:
        Image.fromarray(np.rint(255 * result.astype(np.float32)).astype(np.uint8)).save(temporary, "PNG")
        temporary.replace(options.out)
    finally:
        temporary.unlink(missing_ok=True)
    height, width = result.shape
    changed = 100 * float(((result > 0.5) != (mask > 0.5)).mean())
    return f"{options.out}: {width}×{height}, {changed:.2f} % of pixels changed"


def _read_mask(path: Path) -> np.ndarray:
    """(H, W) bool, or float32 probabilities, from an image of one object."""
    image = open_image(path)
    if image.mode in ("RGBA", "LA", "PA"):
        values = np.asarray(image.getchannel("A"))
    else:
        values = np.asarray(image if image.mode in ("1", "L", "P") else image.convert("RGB"))
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise ValueError(
                f"{path}: got a picture in colour, wanted a mask in black and white or grey, or with an "
                "alpha channel"
            )
        values = values[..., 0]
    high = values.max(initial=0)
    has_two_values = not ((values != 0) & (values != high)).any()
    if values.dtype == bool or (has_two_values and high in (0, 1, 255)):
        return values != 0
    if image.mode == "P" or high <= 127:
        found = ", ".join(map(str, np.unique(values)[:5]))
        raise ValueError(
            f"{path}: got values {found} …, wanted 0 and 1, 0 and 255, or grey levels up to 255; of a label "
            "map keep one label"
        )
    return values.astype(np.float32) / 255
