"""Pairwise kernels: a weight, and features in which similar pixels are close to each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from densecrf import _native, memory
from densecrf.arrays import as_numpy
from densecrf.feature_offsets import feature_array
from densecrf.levels import check_levels
from densecrf.unary import real_array
from densecrf.validation import positive_numbers

MAX_CORNERS = 2**31 - 1
"""Maximum number of simplex corners in a lattice, points × (dimensions + 1)."""
BYTES_PER_CORNER = 40
"""Memory for features and lattice, as an estimate; measured: 30 on photographs with faint noise."""


@dataclass(frozen=True)
class Gaussian:
    """The smoothness kernel w·exp(−|p_i − p_j|² / 2σ²) over positions p.

    Args:
        shape: (H, W), or more axes for volumes.
        xy_std: σ in pixels, one number for all axes or one for each, in the order of ``shape``.
        weight: w, dimensionless.
        origin: position of the first point in pixels, in the order of ``shape``; None for zeros. With its
            position in a larger image, a window has the same lattice as the whole image.

    Source: DeepLab, section 3.3, second kernel of equation 3.
    """

    shape: tuple[int, ...]
    xy_std: float | Sequence[float]
    weight: float = 1.0
    origin: tuple[int, ...] | None = None

    @property
    def stds(self) -> tuple[float, ...]:
        """The standard deviation along each axis in pixels, in the order of ``shape``."""
        expected = f"one number, or one for each axis of shape {tuple(self.shape)}"
        return positive_numbers("xy_std", self.xy_std, len(self.shape), expected)

    def features(self) -> np.ndarray:
        """Positions divided by their standard deviations.

        Returns:
            (N, axes) float32, the last axis (x) first.

        Raises:
            TypeError: for standard deviations that are not numbers.
            ValueError: for an unusable standard deviation or origin, or too many points.
            MemoryError: if the lattice would not fit.
        """
        stds = self.stds
        origin = _checked_origin(self.origin, len(self.shape))
        require_room(math.prod(self.shape), len(self.shape))
        out = _native.empty(math.prod(self.shape), len(self.shape))
        _fill_positions(out.reshape(*self.shape, len(self.shape)), stds, origin)
        return out


@dataclass(frozen=True)
class Bilateral:
    """The appearance kernel w·exp(−|p_i − p_j|² / 2σα² − |I_i − I_j|² / 2σβ²) of positions p and colours I.

    Args:
        image: (H, W, C) or (H, W), or a batch (B, H, W, C); any real type, finite values in any unit.
        xy_std: σα in pixels, one number for both axes or (σ_y, σ_x).
        channel_std: σβ in the unit of the image (0–255 levels for uint8), one number for all channels or one
            for each.
        weight: w, dimensionless.
        origin: (y, x) of the first pixel in a larger image; None for (0, 0). See ``Gaussian``.

    Source: DeepLab, section 3.3, first kernel of equation 3.
    """

    image: ArrayLike
    xy_std: float | Sequence[float]
    channel_std: float | Sequence[float]
    weight: float = 1.0
    origin: tuple[int, ...] | None = None

    def features(self) -> np.ndarray:
        """Positions and channels, each divided by its standard deviation.

        A ``UserWarning`` tells if levels and ``channel_std`` do not seem to be in one unit.

        Returns:
            (H·W, 2 + C) float32 in the order x, y, channels; (B, H·W, 2 + C) for a batch.

        Raises:
            TypeError: for standard deviations that are not numbers.
            ValueError: for an unusable image, standard deviation or origin, or too many pixels.
            MemoryError: if the lattice would not fit.
        """
        image = as_numpy("image", self.image)
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
        expected = f"one number, or one for each of {channels} channels"
        stds = positive_numbers("channel_std", self.channel_std, channels, expected)
        check_levels(image, stds)
        scale = np.array(stds, np.float32)
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
    """The kernel w·exp(−|f_i − f_j|² / 2) over any features: volumes, video, depth, many channels.

    Args:
        values: (N, d) real, finite, each column already divided by its standard deviation; (B, N, d) for a
            batch. Large common offsets, such as map coordinates, are subtracted if the values are float64
            or integers.
        weight: w, dimensionless.
    """

    values: ArrayLike
    weight: float = 1.0

    def features(self) -> np.ndarray:
        """The features as (N, d) or (B, N, d) float32; ValueError for another shape or type."""
        array = feature_array(self.values)
        if array.ndim not in (2, 3):
            raise ValueError(f"got features {array.shape}, wanted (N, d) or (B, N, d)")
        return array


def _fill_positions(out: np.ndarray, stds: tuple[float, ...], origin: tuple[int, ...]) -> None:
    """Write the positions of a grid, divided by ``stds``.

    Args:
        out: (…, axes) float32, to be filled with the last axis (x) first.
        stds: standard deviation along each axis, in the order of the axes.
        origin: position of the first point along each axis.
    """
    for axis, (std, first) in enumerate(zip(stds, origin, strict=True)):
        positions = ((first + np.arange(out.shape[axis])) / std).astype(np.float32)
        later_axes = len(stds) - 1 - axis
        out[..., later_axes] = positions.reshape(-1, *[1] * later_axes)


def _checked_origin(origin: tuple[int, ...] | None, axes: int) -> tuple[int, ...]:
    if origin is None:
        return (0,) * axes
    if len(origin) != axes or not np.isfinite(np.asarray(origin, np.float64)).all():
        raise ValueError(f"got origin = {origin}, wanted None, or one finite number for each of {axes} axes")
    return origin


def require_room(points: int, dimensions: int) -> None:
    """Refuse a lattice that is too large.

    Args:
        points: N.
        dimensions: number of features of a point.

    Raises:
        ValueError: if its corners cannot be numbered.
        MemoryError: if it would not fit into the free memory.
    """
    corners = points * (dimensions + 1)
    if corners > MAX_CORNERS:
        raise ValueError(
            f"got {points} points of {dimensions} features, wanted points × (features + 1) under 2³¹; "
            "use tiles"
        )
    memory.require(corners * BYTES_PER_CORNER, f"a kernel over {points} points of {dimensions} features")
