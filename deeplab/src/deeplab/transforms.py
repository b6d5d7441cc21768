"""From a photo to what the network takes: channel order, mean, padding."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from deeplab.network import OUTPUT_STRIDE, Variant


def prepare(photo: np.ndarray, mean: tuple[float, float, float]) -> torch.Tensor:
    """A photo as a batch of one.

    Args:
        photo: (H, W, 3) uint8, R, G, B.
        mean: of the channels B, G, R, in 0–255 levels; subtracted, nothing is divided.

    Returns:
        (1, 3, H, W) float32, channels B, G, R.

    Source: DeepLab release, data transformer.
    """
    bgr = torch.from_numpy(np.ascontiguousarray(photo[:, :, ::-1])).permute(2, 0, 1)[None]
    return bgr.float() - torch.tensor(mean)[:, None, None]


def padded_size(length: int, least: int = 1) -> int:
    """The smallest 8m + 1 that is at least ``length`` and ``least``: sizes at which score maps align exactly."""
    return -(-(max(length, least) - 1) // OUTPUT_STRIDE) * OUTPUT_STRIDE + 1


def pad_to_stride(batch: torch.Tensor, least: int = 1) -> torch.Tensor:
    """Pad a prepared batch at the bottom and right with the mean colour (zero, once it is subtracted) to 8m + 1."""
    height, width = batch.shape[-2:]
    return F.pad(batch, (0, padded_size(width, least) - width, 0, padded_size(height, least) - height))


def pad_to_legal(batch: torch.Tensor, variant: Variant) -> torch.Tensor:
    """Pad likewise to the variant's next legal size for testing."""
    height, width = batch.shape[-2:]
    return F.pad(batch, (0, variant.legal_size(width) - width, 0, variant.legal_size(height) - height))
