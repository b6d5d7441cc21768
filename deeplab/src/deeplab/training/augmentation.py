"""Random changes of a photo and its labels together; every draw comes from a given generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from deeplab.classes import IGNORE
from deeplab.photos import resize_photo


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training photo. Source: the release crops and mirrors; scale and colour came
    later."""

    crop: int
    """Side of the square that is cut out, in pixels."""
    mirror: bool = True
    scale_low: float = 1.0
    scale_high: float = 1.0
    jitter: float = 0.0


@dataclass(frozen=True)
class Place:
    """Which part of a photo a crop shows, and how."""

    size: tuple[int, int]
    """(H, W) of the photo as it was."""
    scaled: tuple[int, int]
    """(H, W) once it is resized."""
    top: int
    left: int
    height: int
    """Rows of the crop that show the photo; below them is padding."""
    width: int
    mirror: bool

    def seen_at(self, first: int, step: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Where in the photo the pixels ``first``, ``first + step`` … of a crop come from.

        Returns:
            Rows and columns (count,) float64 in pixels of the photo as it was, NaN where the crop is padding.
        """
        at = first + step * np.arange(count)
        across = self.width - 1 - at if self.mirror else at
        return (
            _before_resize(at + self.top, self.size[0], self.scaled[0], at < self.height),
            _before_resize(across + self.left, self.size[1], self.scaled[1], at < self.width),
        )


def _before_resize(at: np.ndarray, length: int, scaled: int, inside: np.ndarray) -> np.ndarray:
    """Pixel centres of a resized line in those of the line as it was."""
    return np.where(inside, (at + 0.5) * length / scaled - 0.5, np.nan)


def draw_place(size: tuple[int, int], how: Augmentation, rng: np.random.Generator) -> Place:
    """Draw scale, place and mirroring of one crop of a photo (H, W)."""
    height, width = size
    if how.scale_low < how.scale_high or how.scale_low != 1:
        scale = float(np.exp(rng.uniform(np.log(how.scale_low), np.log(how.scale_high))))
        height, width = (max(1, round(length * scale)) for length in size)
    top, left = (int(rng.integers(max(0, length - how.crop) + 1)) for length in (height, width))
    mirror = bool(how.mirror and rng.integers(2))
    return Place(size, (height, width), top, left, min(how.crop, height), min(how.crop, width), mirror)


def augment(
    photo: np.ndarray,
    labels: np.ndarray,
    how: Augmentation,
    rng: np.random.Generator,
    fill: tuple[int, int, int],
    place: Place | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """One random crop of a photo with its labels.

    A photo smaller than the crop is padded at the bottom and right, with ``fill`` and with void.

    Args:
        photo: (H, W, 3) uint8, R, G, B.
        labels: (H, W) uint8 ids, 255 void.
        how: what may happen.
        rng: decides everything.
        fill: R, G, B of the padding; the mean, so that it is near zero once the mean is subtracted.
        place: what to show, where it was drawn before.

    Returns:
        Photo (crop, crop, 3) and labels (crop, crop), both uint8; class ids are never interpolated.

    Raises:
        ValueError: if photo and labels differ in size.

    Source: DeepLab release, data transformer.
    """
    if photo.shape[:2] != labels.shape:
        raise ValueError(f"got a photo {photo.shape[:2]} and labels {labels.shape}, wanted one size")
    place = place or draw_place(labels.shape, how, rng)
    if place.scaled != place.size:
        photo, labels = _resized_to(photo, labels, place.scaled)
    window = (slice(place.top, place.top + place.height), slice(place.left, place.left + place.width))
    photo, labels = photo[window], labels[window]
    if place.mirror:
        photo, labels = photo[:, ::-1], labels[:, ::-1]
    if how.jitter > 0:
        photo = jittered(photo, how.jitter, rng)
    if labels.shape != (how.crop, how.crop):
        padded = np.empty((how.crop, how.crop, 3), np.uint8)
        padded[:] = fill
        void = np.full((how.crop, how.crop), IGNORE, np.uint8)
        shown = (slice(0, labels.shape[0]), slice(0, labels.shape[1]))
        padded[shown], void[shown] = photo, labels
        return padded, void
    return np.ascontiguousarray(photo), np.ascontiguousarray(labels)


def resized(photo: np.ndarray, labels: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Photo (bilinear) and labels (nearest) with both sides times ``scale``, at least one pixel."""
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
    """Factors (3,) float32 on brightness, contrast and saturation, each from 1 ± ``strength``."""
    return rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)


def jittered(photo: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast about the mean grey, and saturation, each times a factor drawn from 1 ±
    ``strength``."""
    brightness, contrast, saturation = draw_factors(strength, rng)
    levels = photo.astype(np.float32) * brightness
    levels = levels.mean() + contrast * (levels - levels.mean())
    grey = levels @ np.array([0.299, 0.587, 0.114], np.float32)
    levels = grey[:, :, None] + saturation * (levels - grey[:, :, None])
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
