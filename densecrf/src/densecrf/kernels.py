"""Pairwise terms: a weight and, for each pixel, the features in which alike pixels lie close."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Gaussian:
    """The smoothness kernel: w·exp(−|p_i − p_j|² / 2σ²) over positions p.

    Args:
        shape: (H, W).
        xy_std: σ in pixels.
        weight: w, dimensionless.

    Source: DeepLab, section 3.3, second kernel of equation 3.
    """

    shape: tuple[int, int]
    xy_std: float
    weight: float = 1.0

    def features(self) -> np.ndarray:
        """(H·W, 2) float32: x and y divided by their standard deviation, row-major."""
        height, width = self.shape
        std = _checked_std("xy_std", self.xy_std)
        y, x = np.divide(np.mgrid[:height, :width], std).astype(np.float32)
        return np.stack([x.ravel(), y.ravel()], axis=1)


@dataclass(frozen=True)
class Bilateral:
    """The appearance kernel: w·exp(−|p_i − p_j|² / 2σα² − |I_i − I_j|² / 2σβ²) over positions p and colours I.

    Args:
        image: (H, W, C) or (H, W), any real type, finite; in its own units.
        xy_std: σα in pixels.
        channel_std: σβ in the image's units (0–255 levels for uint8).
        weight: w, dimensionless.

    Source: DeepLab, section 3.3, first kernel of equation 3.
    """

    image: ArrayLike
    xy_std: float
    channel_std: float
    weight: float = 1.0

    def features(self) -> np.ndarray:
        """(H·W, 2 + C) float32: x, y and the channels, each divided by its standard deviation, row-major."""
        image = np.asarray(self.image)
        if image.ndim not in (2, 3) or image.dtype.kind not in "fiub":
            raise ValueError(f"got an image {image.shape} of {image.dtype}, wanted (H, W, C) or (H, W) real numbers")
        height, width = image.shape[:2]
        colours = image.reshape(height * width, -1) / _checked_std("channel_std", self.channel_std)
        positions = Gaussian((height, width), self.xy_std).features()
        return np.concatenate([positions, colours.astype(np.float32)], axis=1)


def _checked_std(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"got {name} = {value}, wanted a finite number above 0")
    return float(value)
