"""Names, ids and colours of the classes of PASCAL VOC 2012: background and 20 kinds of objects."""

from __future__ import annotations

import numpy as np

IGNORE = 255
"""Id of void pixels, which count neither in the loss nor in any score."""

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
"""Classes with enough training photos for a meaningful score. Their mean IoU is called mIoU-7."""


def palette(count: int = 256) -> np.ndarray:
    """Colours of class ids, chosen so that neighbouring ids look different.

    Args:
        count: Number of colours, 1 to 256.

    Returns:
        (count, 3) uint8 in R, G, B. Row 0 is black and row 255 is the off-white of void, as in VOC's own
        PNG files.

    Source: the colour map of the PASCAL VOC development kit.
    """
    ids = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):  # bits 0, 1, 2 of the id go to the top bits of R, G, B, bits 3, 4, 5 to the next …
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours
