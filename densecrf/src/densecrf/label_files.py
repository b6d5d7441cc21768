"""Results in files: label maps as palette PNGs, masks as grey PNGs, marginals as .npy."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

SUFFIXES = (".png", ".npy")
MOST_LABELS = 256
"""A PNG with a palette has no more."""


def check_name(path: Path) -> None:
    """ValueError unless a result can be written under this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"got --out {path}, wanted a name ending in .png (labels) or .npy (marginals)")


def write_result(path: Path, marginals: np.ndarray, palette: bytes | None) -> np.ndarray:
    """Write labels or marginals, completely or not at all.

    Args:
        path: .npy for marginals; .png for labels, or for a mask of 0 and 255.
        marginals: (K, H, W), or (H, W) of the foreground.
        palette: colours of the labels, 3 bytes each; None for those of PASCAL VOC.

    Returns:
        (H, W) the labels.

    Raises:
        ValueError: for more than 256 labels in a PNG.
        OSError: if the file cannot be written.
    """
    is_mask = marginals.ndim == 2
    labels = marginals > 0.5 if is_mask else marginals.argmax(axis=0)
    if path.suffix.lower() == ".npy":
        _write(path, lambda file: np.save(file, marginals))
        return labels
    if not is_mask and len(marginals) > MOST_LABELS:
        raise ValueError(f"got {len(marginals)} labels, a PNG holds at most 256; wanted --out NAME.npy")
    from PIL import Image

    image = Image.fromarray(labels.astype(np.uint8) * np.uint8(255 if is_mask else 1))
    if not is_mask:
        image.putpalette(palette or voc_palette())
    _write(path, lambda file: image.save(file, "PNG"))
    return labels


def voc_palette() -> bytes:
    """The 256 colours of PASCAL VOC.

    Returns:
        Red, green and blue of each id; bit 3·j + c of an id is bit 7 − j of colour c.
    """
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours.tobytes()


def _write(path: Path, save: Callable[[BinaryIO], object]) -> None:
    """Save to a temporary file and rename it."""
    temporary = path.with_name(f".densecrf.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with open(temporary, "wb") as file:
            save(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
