"""How a large image is cut into windows of the network and blocks of the CRF."""

from __future__ import annotations

from dataclasses import dataclass

import densecrf
from deeplab.model.predictor import NETWORK_BYTES_PER_PIXEL
from deeplab.model.segmentation import CRF_BYTES_PER_PIXEL, Model

BASE_BYTES = 600_000_000
"""Memory for the interpreter, torch, the weights, and windows of the image."""
MARGIN_IN_STDS = 2.0
"""Margin of a block in standard deviations of the wider CRF kernel; measured by benchmarks/mosaic.py."""
TILE = 256
"""Smallest side of a block in pixels, and side of the result's tiles where blocks allow it."""


@dataclass(frozen=True)
class Layout:
    """Sizes of windows and blocks. Labels depend on them only through what the CRF sees around a block.

    Raises:
        ValueError: if a size is too small or not a multiple of its step.
    """

    window: int
    """Height and width in pixels that a window of the network answers for; a multiple of 8."""
    block: int
    """Height and width in pixels that a block of the CRF answers for; a multiple of 16, better of 256."""
    margin: int
    """Pixels that a block of the CRF sees on each side in addition; a multiple of 8."""

    def __post_init__(self) -> None:
        for name, step, minimum in (("window", 8, 8), ("block", 16, 16), ("margin", 8, 0)):
            value = getattr(self, name)
            if value < minimum or value % step:
                raise ValueError(f"got {name} = {value}, wanted a multiple of {step} from {minimum} up")

    @classmethod
    def within(cls, limit: int, model: Model, params: densecrf.Params | None) -> Layout:
        """The largest windows and blocks with which the whole process stays within a memory limit.

        Args:
            limit: memory of the process in bytes.
            model: network and number of classes.
            params: parameters of the CRF; None if it is left out.

        Raises:
            MemoryError: if even the smallest do not fit.
        """
        base = BASE_BYTES + model.predictor.cached_bytes
        free = max(0, limit - base)
        window_margin = model.predictor.margin
        margin = 0
        if params is not None:
            reach = int(MARGIN_IN_STDS * max(params.appearance_xy_std, params.smoothness_xy_std))
            margin = -(-reach // 8) * 8
        block_bytes = CRF_BYTES_PER_PIXEL * max(1.0, len(model.class_names) / 21)  # per pixel
        window = int((free / NETWORK_BYTES_PER_PIXEL) ** 0.5) - 2 * window_margin
        block = int((free / block_bytes) ** 0.5) - 2 * margin
        if window < 8 or block < TILE:
            smallest_window = (8 + 2 * window_margin) ** 2 * NETWORK_BYTES_PER_PIXEL
            smallest_block = (TILE + 2 * margin) ** 2 * block_bytes
            needed = base + max(smallest_window, smallest_block)
            raise MemoryError(
                f"got {limit / 1e9:.1f} GB for windows that see {window_margin} pixels more on each side and "
                f"blocks of the CRF that see {margin}, wanted {needed / 1e9:.1f} GB or more"
            )
        return cls(window // 8 * 8, block // TILE * TILE, margin)
