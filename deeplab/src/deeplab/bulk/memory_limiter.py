"""Bounds the memory of the photos that are segmented at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from deeplab.bulk.jobs import Settings
from deeplab.model.predictor import NETWORK_BYTES_PER_PIXEL
from deeplab.model.segmentation import Model

CRF_BYTES_PER_PIXEL = 1500
"""Bytes per pixel with the CRF: its own 1,200, the photo, probabilities of 21 classes, and pictures."""
BYTES_PER_PIXEL = 250
"""Bytes per pixel without CRF and network; 107 measured at 12 megapixels, one scale, 21 classes."""
SHARE_OF_MEMORY = 0.6
"""Share of the free memory that all photos in work may take."""
UNKNOWN_MEMORY_LIMIT = 16_000_000 * CRF_BYTES_PER_PIXEL
"""Limit in bytes where the system does not say how much memory is free: 16 megapixels with the CRF."""


class MemoryLimiter:
    """Admits photos in order of arrival while all admitted ones stay within a limit; a larger one alone.

    Args:
        max_bytes: the limit.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._admitted_bytes = 0
        self._admitted_photos = 0
        self.peak_bytes = 0
        """Most bytes that were admitted at the same time."""
        self._turn = threading.Lock()
        self._change = threading.Condition()

    @contextmanager
    def admit(self, needed: int) -> Iterator[bool]:
        """Wait until there is room for so many bytes, and occupy them during the block.

        Returns:
            Whether the photo exceeds the limit and is therefore admitted alone.
        """
        with self._turn, self._change:
            self._change.wait_for(
                lambda: self._admitted_photos == 0 or self._admitted_bytes + needed <= self._max_bytes
            )
            self._admitted_bytes += needed
            self._admitted_photos += 1
            self.peak_bytes = max(self.peak_bytes, self._admitted_bytes)
        try:
            yield needed > self._max_bytes
        finally:
            with self._change:
                self._admitted_bytes -= needed
                self._admitted_photos -= 1
                self._change.notify()


def limiter_for(free: int | None) -> MemoryLimiter:
    """A limiter for so many bytes of free memory; None where the system does not say."""
    return MemoryLimiter(UNKNOWN_MEMORY_LIMIT if free is None else int(SHARE_OF_MEMORY * free))


def estimate_bytes(photo: Path, settings: Settings, model: Model) -> int:
    """Memory that segmenting a photo takes, estimated from the size in the head of its file.

    Args:
        photo: path of the photo.
        settings: whether the CRF runs, and at which size the network sees the photo.
        model: number of classes, and the network's default size.

    Returns:
        Bytes; 0 for a file that cannot be read, since reading it will report why.
    """
    height, width = image_size(photo)
    classes = max(1.0, len(model.class_names) / 21)
    if settings.crf is not False:
        return int(height * width * CRF_BYTES_PER_PIXEL * classes)
    size = model.card.size if settings.size is None else settings.size
    reduction = min(1.0, size / max(height, width, 1)) if size else 1.0
    scale = reduction * max(settings.scales, default=1.0)
    return int(height * width * (BYTES_PER_PIXEL * classes + NETWORK_BYTES_PER_PIXEL * scale**2))


def image_size(photo: Path) -> tuple[int, int]:
    """Height and width in pixels from the head of a file; (0, 0) if it cannot be read."""
    try:
        with Image.open(photo) as image:
            return image.height, image.width
    except Exception:  # decoders of damaged files raise all kinds of errors
        return 0, 0
