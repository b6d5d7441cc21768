"""From a photo to what the network takes: channel order, mean, scale, padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from deeplab.network.architecture import OUTPUT_STRIDE, Variant

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Preparation:
    """What weights were trained to see: (photo in this channel order − mean) · scale."""

    channels: str = "BGR"
    """"BGR" or "RGB"; mean and scale are in this order."""
    mean: Triple = (103.939, 116.779, 123.68)
    """In 0–255 levels; by default of the ImageNet VGG-16."""
    scale: Triple = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.channels not in ("BGR", "RGB"):
            raise ValueError(f"got channels {self.channels!r}, wanted 'BGR' or 'RGB'")
        for name in ("mean", "scale"):
            values = np.asarray(getattr(self, name), float)
            if values.shape != (3,) or not np.isfinite(values).all():
                raise ValueError(f"got {name} {getattr(self, name)}, wanted three finite numbers")


RELEASE = Preparation(mean=(104.008, 116.669, 122.675))
"""Of the authors' release of DeepLab: data transformer and train.prototxt files."""
TORCHVISION = Preparation(
    "RGB", (0.485 * 255, 0.456 * 255, 0.406 * 255), (1 / (0.229 * 255), 1 / (0.224 * 255), 1 / (0.225 * 255))
)
"""Of the ImageNet weights of torchvision and timm: levels from 0 to 1, less a mean, divided by a standard
deviation."""


def prepare(photo: np.ndarray, preparation: Preparation = Preparation()) -> torch.Tensor:
    """A photo as a batch of one.

    Args:
        photo: (H, W, 3) uint8, R, G, B.
        preparation: channel order, mean and scale that belong to the weights.

    Returns:
        (1, 3, H, W) float32.

    Source: DeepLab release, data transformer.
    """
    ordered = photo if preparation.channels == "RGB" else photo[:, :, ::-1]
    levels = torch.from_numpy(np.array(ordered, order="C")).permute(2, 0, 1)[None].float()
    mean, scale = (torch.tensor(v)[:, None, None] for v in (preparation.mean, preparation.scale))
    return levels.sub_(mean).mul_(scale)


def padded_size(length: int, least: int = 1) -> int:
    """The smallest 8m + 1 that is at least ``length`` and ``least``: sizes at which score maps align
    exactly."""
    return -(-(max(length, least) - 1) // OUTPUT_STRIDE) * OUTPUT_STRIDE + 1


def pad_to_stride(batch: torch.Tensor, least: int = 1) -> torch.Tensor:
    """Pad a prepared batch at the bottom and right with the mean colour (zero, once it is subtracted) to 8m +
    1."""
    height, width = batch.shape[-2:]
    return F.pad(batch, (0, padded_size(width, least) - width, 0, padded_size(height, least) - height))


def pad_to_legal(batch: torch.Tensor, variant: Variant) -> torch.Tensor:
    """Pad likewise to the variant's next legal size for testing."""
    height, width = batch.shape[-2:]
    return F.pad(batch, (0, variant.legal_size(width) - width, 0, variant.legal_size(height) - height))
