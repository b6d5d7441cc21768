"""Random crops of a photo together with its labels; all random numbers come from a given generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from deeplab.classes import IGNORE
from deeplab.photos import resize_photo


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training photo.

    Source: the release crops and mirrors; random scale and colours were added here.
    """

    crop: int
    """Side of the square crop in pixels."""
    mirror: bool = True
    """Whether every second crop, at random, is mirrored."""
    scale_low: float = 1.0
    """Smallest factor by which a photo is resized before it is cropped."""
    scale_high: float = 1.0
    """Largest factor; the factor is drawn log-uniformly between the two."""
    jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation."""


@dataclass(frozen=True)
class CropWindow:
    """The part of a photo that one crop shows."""

    photo_size: tuple[int, int]
    """Height and width of the original photo."""
    scaled_size: tuple[int, int]
    """Height and width of the resized photo that the crop is cut out of."""
    top: int
    """First row of the resized photo that is shown."""
    left: int
    """First column of the resized photo that is shown."""
    height: int
    """Rows of the crop that show the photo; the rows below them are padding."""
    width: int
    """Columns of the crop that show the photo; the columns to their right are padding."""
    mirror: bool
    """Whether the shown columns are in reverse order."""

    def source_positions(self, first: int, step: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the original photo of the crop's pixels ``first``, ``first + step`` and so on.

        Args:
            first: first row and column of the crop.
            step: distance between rows and between columns, in pixels of the crop.
            count: number of rows and of columns.

        Returns:
            Rows and columns, each (count,) float64 in pixels of the original photo; NaN in the padding.
        """
        pixels = first + step * np.arange(count)
        columns = self.width - 1 - pixels if self.mirror else pixels
        return (
            _unscaled(pixels + self.top, self.photo_size[0], self.scaled_size[0], pixels < self.height),
            _unscaled(columns + self.left, self.photo_size[1], self.scaled_size[1], pixels < self.width),
        )


def _unscaled(positions: np.ndarray, length: int, scaled_length: int, is_inside: np.ndarray) -> np.ndarray:
    """Pixel centres along one side of the resized photo as positions along the original side."""
    return np.where(is_inside, (positions + 0.5) * length / scaled_length - 0.5, np.nan)


def draw_crop_window(
    size: tuple[int, int], augmentation: Augmentation, rng: np.random.Generator
) -> CropWindow:
    """Draw scale, position and mirroring of one crop.

    Args:
        size: height and width of the photo.
        augmentation: crop size and ranges to draw from.
        rng: generator of all draws.

    Returns:
        The window.
    """
    crop = augmentation.crop
    height, width = size
    if augmentation.scale_low < augmentation.scale_high or augmentation.scale_low != 1:
        low = np.log(augmentation.scale_low)
        high = np.log(augmentation.scale_high)
        scale = float(np.exp(rng.uniform(low, high)))
        height, width = (max(1, round(length * scale)) for length in size)
    top = int(rng.integers(max(0, height - crop) + 1))
    left = int(rng.integers(max(0, width - crop) + 1))
    mirror = bool(augmentation.mirror and rng.integers(2))
    return CropWindow(size, (height, width), top, left, min(crop, height), min(crop, width), mirror)


def augment(
    photo: np.ndarray,
    labels: np.ndarray,
    augmentation: Augmentation,
    rng: np.random.Generator,
    fill: tuple[int, int, int],
    window: CropWindow | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut one random crop out of a photo and its labels.

    A photo smaller than the crop is padded at the bottom and at the right, with ``fill`` and with void.

    Args:
        photo: (H, W, 3) uint8, R, G, B.
        labels: (H, W) uint8 ids, 255 void.
        augmentation: the changes that are allowed.
        rng: generator of all draws.
        fill: R, G, B of the padding; the mean colour, so that it is near zero once the mean is subtracted.
        window: the part to show, if it was drawn before.

    Returns:
        Photo (crop, crop, 3) and labels (crop, crop), both uint8; class ids are never interpolated.

    Raises:
        ValueError: if photo and labels differ in size.

    Source: DeepLab release, data transformer.
    """
    if photo.shape[:2] != labels.shape:
        raise ValueError(f"got a photo {photo.shape[:2]} and labels {labels.shape}, wanted one size")
    window = window or draw_crop_window(labels.shape, augmentation, rng)
    if window.scaled_size != window.photo_size:
        photo, labels = _resized_to(photo, labels, window.scaled_size)
    rows = slice(window.top, window.top + window.height)
    columns = slice(window.left, window.left + window.width)
    photo = photo[rows, columns]
    labels = labels[rows, columns]
    if window.mirror:
        photo = photo[:, ::-1]
        labels = labels[:, ::-1]
    if augmentation.jitter > 0:
        photo = jittered(photo, augmentation.jitter, rng)
    if labels.shape != (augmentation.crop, augmentation.crop):
        return _padded(photo, labels, augmentation.crop, fill)
    return np.ascontiguousarray(photo), np.ascontiguousarray(labels)


def _padded(
    photo: np.ndarray, labels: np.ndarray, side: int, fill: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Photo and labels at the top left of a square of the fill colour and of void."""
    height, width = labels.shape
    padded_photo = np.empty((side, side, 3), np.uint8)
    padded_photo[:] = fill
    padded_photo[:height, :width] = photo
    padded_labels = np.full((side, side), IGNORE, np.uint8)
    padded_labels[:height, :width] = labels
    return padded_photo, padded_labels


def resized(photo: np.ndarray, labels: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Resize a photo (bilinear) and its labels (nearest neighbour).

    Args:
        photo: (H, W, 3) uint8.
        labels: (H, W) uint8.
        scale: factor on both sides; the result has at least one pixel.

    Returns:
        Photo and labels of the new size.
    """
    height, width = (max(1, round(length * scale)) for length in labels.shape)
    return _resized_to(photo, labels, (height, width))


def _resized_to(
    photo: np.ndarray, labels: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    return (
        resize_photo(photo, size),
        np.asarray(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST)),
    )


def draw_factors(strength: float, rng: np.random.Generator) -> np.ndarray:
    """Draw factors on brightness, contrast and saturation.

    Args:
        strength: largest relative change, 0 to 1.
        rng: generator of the factors.

    Returns:
        (3,) float32, each within 1 ± ``strength``.
    """
    return rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)


def jittered(photo: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast about the mean grey, and saturation at random.

    Args:
        photo: (H, W, 3) uint8, R, G, B.
        strength: largest relative change of each.
        rng: generator of the three factors.

    Returns:
        (H, W, 3) uint8.
    """
    brightness, contrast, saturation = draw_factors(strength, rng)
    levels = photo.astype(np.float32) * brightness
    levels = levels.mean() + contrast * (levels - levels.mean())
    grey = levels @ np.array([0.299, 0.587, 0.114], np.float32)
    levels = grey[:, :, None] + saturation * (levels - grey[:, :, None])
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
