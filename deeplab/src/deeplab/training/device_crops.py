"""Crops, colour changes and class mixing of whole batches, on the device that holds the photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from deeplab.classes import IGNORE
from deeplab.training.augmentation import CropWindow


@dataclass(frozen=True)
class CropPositions:
    """Positions in its photo of every pixel of each crop of a batch."""

    rows: torch.Tensor
    """(B, crop) float64 rows in pixels of the stored photo."""
    columns: torch.Tensor
    """(B, crop) float64 columns in pixels of the stored photo."""
    sizes: torch.Tensor
    """(B, 2) height and width of the stored photo."""
    shrinkage: torch.Tensor
    """(B, 2) width of a resized pixel in pixels of the photo, less one; 0 where the photo is not reduced."""
    rows_inside: torch.Tensor
    """(B, crop) bool: rows that show the photo and not padding."""
    columns_inside: torch.Tensor
    """(B, crop) bool: columns that show the photo and not padding."""

    @classmethod
    def of(cls, windows: Sequence[CropWindow], crop: int, device: torch.device) -> CropPositions:
        """The positions of a batch of windows.

        Args:
            windows: the part of its photo that each crop shows.
            crop: side of the crops in pixels.
            device: device of the tensors.

        Returns:
            The positions.
        """
        numbers = [
            (*w.photo_size, *w.scaled_size, w.top, w.left, w.height, w.width, w.mirror) for w in windows
        ]
        table = torch.tensor(numbers, dtype=torch.float64).to(device)
        size, scaled, start, shown = (table[:, 2 * part : 2 * part + 2] for part in range(4))
        mirror = table[:, 8:9].bool()
        pixels = torch.arange(crop, device=device, dtype=torch.float64)[None]
        columns = torch.where(mirror, shown[:, 1:] - 1 - pixels, pixels)
        ratio = size / scaled
        return cls(
            (pixels + start[:, :1] + 0.5) * ratio[:, :1] - 0.5,
            (columns + start[:, 1:] + 0.5) * ratio[:, 1:] - 0.5,
            size.long(),
            (ratio - 1).clamp(min=0).float(),
            pixels < shown[:, :1],
            pixels < shown[:, 1:],
        )

    def inside(self) -> torch.Tensor:
        """(B, crop, crop) bool: pixels that show the photo and not padding."""
        return self.rows_inside[:, :, None] & self.columns_inside[:, None, :]

    def labels(self, stored: torch.Tensor, index: torch.Tensor, at: slice = slice(None)) -> torch.Tensor:
        """Labels of the nearest pixels.

        Args:
            stored: (photos, S, S) uint8 ids.
            index: (B,) indices of the crops' photos.
            at: rows and columns of the crops to look up.

        Returns:
            (B, h, w) uint8, 255 in the padding.
        """
        rows = _nearest(self.rows[:, at], self.sizes[:, :1])
        columns = _nearest(self.columns[:, at], self.sizes[:, 1:])
        nearest = stored[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        is_inside = self.rows_inside[:, at, None] & self.columns_inside[:, None, at]
        return torch.where(is_inside, nearest, torch.full_like(nearest, IGNORE))


def _nearest(positions: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return (positions + 0.5).floor().long().clamp(min=0).minimum(lengths - 1)


def cut_crops(photos: torch.Tensor, positions: CropPositions) -> torch.Tensor:
    """Sample crops: bilinear, and the mean of four samples a pixel where a photo of the batch is reduced.

    Args:
        photos: (B, 3, S, S) uint8.
        positions: positions of the crops' pixels.

    Returns:
        (B, 3, crop, crop) float32 levels.
    """
    side = photos.shape[-1]
    levels = photos.float()
    last = (positions.sizes - 1).float()
    total: torch.Tensor | None = None
    is_reduced = bool((positions.shrinkage > 0).any())
    offsets = (-0.5, 0.5) if is_reduced else (0.0,)
    for down in offsets:
        for right in offsets:
            rows = positions.rows.float() + down * positions.shrinkage[:, :1]
            columns = positions.columns.float() + right * positions.shrinkage[:, 1:]
            y = (rows.clamp(min=0).minimum(last[:, :1]) + 0.5) * (2 / side) - 1
            x = (columns.clamp(min=0).minimum(last[:, 1:]) + 0.5) * (2 / side) - 1
            shape = (len(photos), y.shape[1], x.shape[1])
            grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), dim=-1)
            sampled = F.grid_sample(levels, grid, mode="bilinear", padding_mode="border", align_corners=False)
            total = sampled if total is None else total.add_(sampled)
    assert total is not None
    return total / len(offsets) ** 2


def jittered_batch(levels: torch.Tensor, is_inside: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Change the colours of a batch as ``deeplab.training.augmentation.jittered`` does those of one photo.

    Args:
        levels: (B, 3, H, W) float32.
        is_inside: (B, H, W) bool; pixels of padding do not count for the mean grey.
        factors: (B, 3) factors on brightness, contrast and saturation.

    Returns:
        (B, 3, H, W) float32, 0–255.
    """
    brightness, contrast, saturation = (factors[:, n, None, None, None] for n in range(3))
    levels = levels * brightness
    shown = is_inside[:, None]
    mean = (levels * shown).sum((1, 2, 3), keepdim=True) / (3 * shown.sum((1, 2, 3), keepdim=True))
    levels = mean + contrast * (levels - mean)
    weights = torch.tensor([0.299, 0.587, 0.114], device=levels.device)
    grey = (levels * weights[:, None, None]).sum(1, keepdim=True)
    return (grey + saturation * (levels - grey)).clamp(0, 255)


def paste_mask(labels: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """Pixels of each crop that the next crop of the batch covers, for class mixing.

    Args:
        labels: (B, H, W) uint8 ids.
        ranks: (B, K) random numbers; of a crop's classes, background left out, the lower half is pasted.

    Returns:
        (B, H, W) bool.

    Source: "ClassMix" (arXiv 2007.07936), section 3.2.
    """
    batch, classes = ranks.shape
    flat = labels.reshape(batch, -1).long()
    is_present = torch.zeros((batch, IGNORE + 1), dtype=torch.bool, device=labels.device)
    is_present = is_present.scatter(1, flat, True)[:, :classes].clone()
    is_present[:, 0] = False
    absent_last = torch.where(is_present, ranks, torch.full_like(ranks, 2))
    order = absent_last.argsort(1).argsort(1)
    is_chosen = is_present & (order < ((is_present.sum(1, keepdim=True) + 1) // 2))
    by_id = torch.cat((is_chosen, is_chosen.new_zeros(batch, IGNORE + 1 - classes)), dim=1)
    return by_id.gather(1, flat).view(labels.shape).roll(-1, 0)
