"""Preprocessing of photos for the network: channel order, mean, scale and padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from deeplab.network.architecture import OUTPUT_STRIDE, Variant

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Preparation:
    """The preprocessing that weights were trained with: (photo in this channel order − mean) · scale.

    Raises:
        ValueError: For another channel order, or a mean or scale that is not three finite numbers.
    """

    channels: str = "BGR"
    """Order of the channels, "BGR" or "RGB", of mean and scale as well."""
    mean: Triple = (103.939, 116.779, 123.68)
    """Mean in 0–255 levels, by default that of the ImageNet VGG-16."""
    scale: Triple = (1.0, 1.0, 1.0)
    """Factor on each channel after the mean is subtracted."""

    def __post_init__(self) -> None:
        if self.channels not in ("BGR", "RGB"):
            raise ValueError(f"got channels {self.channels!r}, wanted 'BGR' or 'RGB'")
        for name in ("mean", "scale"):
            values = np.asarray(getattr(self, name), float)
            if values.shape != (3,) or not np.isfinite(values).all():
                raise ValueError(f"got {name} {getattr(self, name)}, wanted three finite numbers")


RELEASE = Preparation(mean=(104.008, 116.669, 122.675))
"""Preprocessing of the authors' release of DeepLab: data transformer and train.prototxt files."""
TORCHVISION = Preparation(
    "RGB", (0.485 * 255, 0.456 * 255, 0.406 * 255), (1 / (0.229 * 255), 1 / (0.224 * 255), 1 / (0.225 * 255))
)
"""Preprocessing of torchvision's and timm's ImageNet weights: levels in 0–1, standardized."""


def prepare(photo: np.ndarray, preparation: Preparation = Preparation()) -> torch.Tensor:
    """Preprocess a photo for the network.

    Args:
        photo: (H, W, 3) uint8 in R, G, B.
        preparation: Channel order, mean and scale that belong to the weights.

    Returns:
        (1, 3, H, W) float32.

    Source: DeepLab release, data transformer.
    """
    ordered = photo if preparation.channels == "RGB" else photo[:, :, ::-1]
    levels = torch.from_numpy(np.array(ordered, order="C")).permute(2, 0, 1)[None].float()
    mean = torch.tensor(preparation.mean)[:, None, None]
    scale = torch.tensor(preparation.scale)[:, None, None]
    return levels.sub_(mean).mul_(scale)


def padded_size(length: int, min_size: int = 1) -> int:
    """Smallest 8m + 1, a size at which score maps align exactly, that is at least the length.

    Args:
        length: Height or width in pixels.
        min_size: Smallest result allowed.

    Returns:
        The size in pixels.
    """
    return -(-(max(length, min_size) - 1) // OUTPUT_STRIDE) * OUTPUT_STRIDE + 1


def pad_to_stride(batch: torch.Tensor, min_size: int = 1) -> torch.Tensor:
    """Pad a prepared batch at the bottom and right to ``padded_size``.

    Args:
        batch: (B, 3, H, W). The padding is zero, which is the mean colour once the mean is subtracted.
        min_size: Smallest height and width of the result.

    Returns:
        (B, 3, H', W').
    """
    height, width = batch.shape[-2:]
    return F.pad(batch, (0, padded_size(width, min_size) - width, 0, padded_size(height, min_size) - height))


def pad_to_legal(batch: torch.Tensor, variant: Variant) -> torch.Tensor:
    """Pad a prepared batch at the bottom and right to the variant's next legal size for testing.

    Args:
        batch: (B, 3, H, W). The padding is zero, which is the mean colour once the mean is subtracted.
        variant: Network that the batch is for.

    Returns:
        (B, 3, H', W').
    """
    height, width = batch.shape[-2:]
    return F.pad(batch, (0, variant.legal_size(width) - width, 0, variant.legal_size(height) - height))
