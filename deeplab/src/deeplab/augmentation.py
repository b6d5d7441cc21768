"""Random changes of a photo and its labels together; every draw comes from a given generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from deeplab.classes import IGNORE


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training photo. Source: the release crops and mirrors; scale and colour came later."""

    crop: int
    """Side of the square that is cut out, in pixels."""
    mirror: bool = True
    scale_low: float = 1.0
    scale_high: float = 1.0
    jitter: float = 0.0


def augment(
    photo: np.ndarray, labels: np.ndarray, how: Augmentation, rng: np.random.Generator, fill: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """One random crop of a photo with its labels.

    A photo smaller than the crop is padded at the bottom and right, with ``fill`` and with void.

    Args:
        photo: (H, W, 3) uint8, R, G, B.
        labels: (H, W) uint8 ids, 255 void.
        how: what may happen.
        rng: decides everything.
        fill: R, G, B of the padding; the mean, so that it is near zero once the mean is subtracted.

    Returns:
        Photo (crop, crop, 3) and labels (crop, crop), both uint8; class ids are never interpolated.

    Raises:
        ValueError: if photo and labels differ in size.

    Source: DeepLab release, data transformer.
    """
    if photo.shape[:2] != labels.shape:
        raise ValueError(f"got a photo {photo.shape[:2]} and labels {labels.shape}, wanted one size")
    if how.scale_low < how.scale_high or how.scale_low != 1:
        scale = float(np.exp(rng.uniform(np.log(how.scale_low), np.log(how.scale_high))))
        photo, labels = resized(photo, labels, scale)
    height, width = labels.shape
    top, left = (int(rng.integers(max(0, length - how.crop) + 1)) for length in (height, width))
    window = (slice(top, top + how.crop), slice(left, left + how.crop))
    photo, labels = photo[window], labels[window]
    if how.mirror and rng.integers(2):
        photo, labels = photo[:, ::-1], labels[:, ::-1]
    if how.jitter > 0:
        photo = jittered(photo, how.jitter, rng)
    if labels.shape != (how.crop, how.crop):
        padded = np.empty((how.crop, how.crop, 3), np.uint8)
        padded[:] = fill
        void = np.full((how.crop, how.crop), IGNORE, np.uint8)
        place = (slice(0, labels.shape[0]), slice(0, labels.shape[1]))
        padded[place], void[place] = photo, labels
        return padded, void
    return np.ascontiguousarray(photo), np.ascontiguousarray(labels)


def resized(photo: np.ndarray, labels: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Photo (bilinear) and labels (nearest) with both sides times ``scale``, at least one pixel."""
    size = (max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale)))
    return (
        np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR)),
        np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)),
    )


def jittered(photo: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast about the mean grey, and saturation, each times a factor drawn from 1 ± ``strength``."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    levels = photo.astype(np.float32) * brightness
    levels = levels.mean() + contrast * (levels - levels.mean())
    grey = levels @ np.array([0.299, 0.587, 0.114], np.float32)
    levels = grey[:, :, None] + saturation * (levels - grey[:, :, None])
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
