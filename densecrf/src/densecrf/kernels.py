"""Pairwise terms: a weight and, for each pixel, the features in which alike pixels lie close."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from densecrf import _native, memory
from densecrf.unary import real_array
from densecrf.validation import positive_numbers

MOST_CORNERS = 2**31 - 1
"""Of simplexes, points × (dimensions + 1), that a lattice can number."""
BYTES_A_CORNER = 40
"""About what features and lattice take for each; measured 30 on photographs with faint noise."""


@dataclass(frozen=True)
class Gaussian:
    """The smoothness kernel: w·exp(−|p_i − p_j|² / 2σ²) over positions p.

    Args:
        shape: (H, W), or more axes for volumes.
        xy_std: σ in pixels, one for all axes or one for each in the order of ``shape``.
        weight: w, dimensionless.
        origin: position of the first point, in pixels, in the order of ``shape``; None for zeros. A window
            with its place in a larger picture has the same lattice as the whole.

    Source: DeepLab, section 3.3, second kernel of equation 3.
    """

    shape: tuple[int, ...]
    xy_std: float | Sequence[float]
    weight: float = 1.0
    origin: tuple[int, ...] | None = None

    @property
    def stds(self) -> tuple[float, ...]:
        """The standard deviation along each axis in pixels, in the order of ``shape``."""
        wanted = f"one number, or one for each axis of shape {tuple(self.shape)}"
        return positive_numbers("xy_std", self.xy_std, len(self.shape), wanted)

    def features(self) -> np.ndarray:
        """(N, axes) float32: positions divided by their standard deviations, the last axis (x) first."""
        stds = self.stds
        origin = _checked_origin(self.origin, len(self.shape))
        require_room(math.prod(self.shape), len(self.shape))
        out = _native.empty(math.prod(self.shape), len(self.shape))
        _fill_positions(out.reshape(*self.shape, len(self.shape)), stds, origin)
        return out


@dataclass(frozen=True)
class Bilateral:
    """The appearance kernel: w·exp(−|p_i − p_j|² / 2σα² − |I_i − I_j|² / 2σβ²) over positions p and colours
    I.

    Args:
        image: (H, W, C) or (H, W), or a batch (B, H, W, C); any real type, finite; in its own units.
        xy_std: σα in pixels, for both axes or (σ_y, σ_x).
        channel_std: σβ in the image's units (0–255 levels for uint8), for all channels or one for each.
        weight: w, dimensionless.
        origin: (y, x) of the first pixel in a larger picture; None for (0, 0). See ``Gaussian``.

    Source: DeepLab, section 3.3, first kernel of equation 3.
    """

    image: ArrayLike
    xy_std: float | Sequence[float]
    channel_std: float | Sequence[float]
    weight: float = 1.0
    origin: tuple[int, ...] | None = None

    def features(self) -> np.ndarray:
        """(H·W, 2 + C) float32, or (B, H·W, 2 + C): x, y and the channels, each divided by its standard
        deviation."""
        image = np.asarray(self.image)
        if image.ndim not in (2, 3, 4) or image.dtype.kind not in "fiub":
            raise ValueError(
                f"got an image {image.shape} of {image.dtype}, wanted (H, W, C) or (H, W) real numbers"
            )
        if image.ndim == 4:
            return np.stack(
                [
                    Bilateral(one, self.xy_std, self.channel_std, origin=self.origin).features()
                    for one in image
                ]
            )
        height, width = image.shape[:2]
        channels = image.size // (height * width) if height * width else 1
        wanted = f"one number, or one for each of {channels} channels"
        scale = np.array(positive_numbers("channel_std", self.channel_std, channels, wanted), np.float32)
        require_room(height * width, 2 + channels)
        stds_y_x = positive_numbers("xy_std", self.xy_std, 2, "one number, or (σ_y, σ_x)")
        out = _native.empty(height * width, 2 + channels)
        pixels = out.reshape(height, width, 2 + channels)
        _fill_positions(pixels[..., :2], stds_y_x, _checked_origin(self.origin, 2))
        levels = image if image.dtype == np.uint8 else real_array("image levels", image)
        with np.errstate(over="ignore"):
            np.divide(levels.reshape(height, width, channels), scale, out=pixels[..., 2:])
        return out


@dataclass(frozen=True)
class Features:
    """A kernel over any features: w·exp(−|f_i − f_j|² / 2); for volumes, video, depth, many channels.

    Args:
        values: (N, d) real, finite, each column already divided by its standard deviation; or a batch (B, N,
            d).
        weight: w, dimensionless.
    """

    values: ArrayLike
    weight: float = 1.0

    def features(self) -> np.ndarray:
        """(N, d) or (B, N, d) float32."""
        array = real_array("features", self.values)
        if array.ndim not in (2, 3):
            raise ValueError(f"got features {array.shape}, wanted (N, d) or (B, N, d)")
        return array


def _fill_positions(out: np.ndarray, stds: tuple[float, ...], origin: tuple[int, ...]) -> None:
    """Puts a grid's positions into (…, axes), the last axis (x) first, divided by ``stds``, in the axes'
    order."""
    for axis, (std, first) in enumerate(zip(stds, origin, strict=True)):
        positions = ((first + np.arange(out.shape[axis])) / std).astype(np.float32)
        out[..., len(stds) - 1 - axis] = positions.reshape(-1, *[1] * (len(stds) - 1 - axis))


def _checked_origin(origin: tuple[int, ...] | None, axes: int) -> tuple[int, ...]:
    if origin is None:
        return (0,) * axes
    if len(origin) != axes or not np.isfinite(np.asarray(origin, np.float64)).all():
        raise ValueError(f"got origin = {origin}, wanted None, or one finite number for each of {axes} axes")
    return origin


def require_room(points: int, dimensions: int) -> None:
    """ValueError or MemoryError if a lattice over so many points and dimensions cannot be numbered or
    held."""
    corners = points * (dimensions + 1)
    if corners > MOST_CORNERS:
        raise ValueError(
            f"got {points} points of {dimensions} features, wanted points × (features + 1) under 2³¹; use tiles"
        )
    memory.require(corners * BYTES_A_CORNER, f"a kernel over {points} points of {dimensions} features")
