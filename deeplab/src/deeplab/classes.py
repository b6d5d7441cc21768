"""The 20 object classes of PASCAL VOC 2012 and background: names, ids and the colours everybody knows."""

from __future__ import annotations

import numpy as np

IGNORE = 255
"""Void: left out of the loss and out of every score."""

VOC_CLASSES: tuple[str, ...] = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

WELL_POPULATED: tuple[str, ...] = ("background", "cat", "cow", "dog", "horse", "person", "sheep")
"""The classes with enough training photos for a meaningful score; their mean IoU is called mIoU-7."""


def palette(count: int = 256) -> np.ndarray:
    """Colours of class ids, spread by bit reversal so that neighbouring ids look different.

    Args:
        count: how many colours, 1 to 256.

    Returns:
        (count, 3) uint8, R, G, B. Row 0 is black and row 255 the off-white of void, as in VOC's own PNG
        files.

    Source: the colour map of the PASCAL VOC development kit.
    """
    ids = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):  # id bits 0, 1, 2 go to R, G, B from the most significant bit down, then 3, 4, 5 …
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours
