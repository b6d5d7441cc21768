"""DeepLab-LargeFOV: VGG-16 with holes in place of its last strides, and its fully connected layers as convolutions.

The network takes a prepared batch (channels B, G, R, in 0–255 levels minus the mean) and gives class scores at
stride 8. It knows neither photos, nor labels, nor the CRF.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

OUTPUT_STRIDE = 8


@dataclass(frozen=True)
class Convolution:
    """A convolution of the trunk: 3×3, same size out, ReLU after it."""

    name: str
    channels: int
    atrous_rate: int = 1


@dataclass(frozen=True)
class Pool:
    """A 3×3 pool with padding 1: the release's choice, by which maps of all strides align on exact pixels."""

    kind: str
    stride: int


# Input to pool5a, top to bottom. VGG-16 would have stride 2 at pool4 and pool5; both are 1 here, hence hole 2 in conv5.
TRUNK: tuple[Convolution | Pool, ...] = (
    Convolution("conv1_1", 64), Convolution("conv1_2", 64), Pool("max", 2),
    Convolution("conv2_1", 128), Convolution("conv2_2", 128), Pool("max", 2),
    Convolution("conv3_1", 256), Convolution("conv3_2", 256), Convolution("conv3_3", 256), Pool("max", 2),
    Convolution("conv4_1", 512), Convolution("conv4_2", 512), Convolution("conv4_3", 512), Pool("max", 1),
    Convolution("conv5_1", 512, 2), Convolution("conv5_2", 512, 2), Convolution("conv5_3", 512, 2), Pool("max", 1),
    Pool("average", 1),
)  # fmt: skip
POOL4 = 13  # index in TRUNK of the pool that ends stage 4


@dataclass(frozen=True)
class Head:
    """fc6 as an atrous convolution, fc7 and fc8 as 1×1 convolutions."""

    kernel: int
    atrous_rate: int
    channels: int


VARIANTS: dict[str, Head] = {"deeplab-largefov": Head(kernel=3, atrous_rate=12, channels=1024)}


class DeepLab(nn.Module):
    """The network of a variant; layers carry the names of the release's prototxt (conv1_1 … fc8)."""

    def __init__(self, head: Head, classes: int, dropout: float = 0.5):
        super().__init__()
        self.classes, self.dropout = classes, dropout
        channels = 3
        for layer in TRUNK:
            if isinstance(layer, Convolution):
                rate = layer.atrous_rate
                self.add_module(layer.name, nn.Conv2d(channels, layer.channels, 3, padding=rate, dilation=rate))
                channels = layer.channels
        padding = head.atrous_rate * (head.kernel - 1) // 2
        self.fc6 = nn.Conv2d(channels, head.channels, head.kernel, padding=padding, dilation=head.atrous_rate)
        self.fc7 = nn.Conv2d(head.channels, head.channels, 1)
        self.fc8 = nn.Conv2d(head.channels, classes, 1)
        for convolution in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
        nn.init.normal_(self.fc8.weight, std=0.01)  # the release's filler

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Class scores (B, K, h, w) of a prepared batch (B, 3, H, W); h = (H-1)//8 + 1 where H = 8m + 1."""
        return self.scores_from_pool4(self.pool4(batch))

    def pool4(self, batch: torch.Tensor) -> torch.Tensor:
        """The lower trunk alone: (B, 3, H, W) to (B, 512, h, w), h and w already at stride 8."""
        return self._run(TRUNK[: POOL4 + 1], batch)

    def scores_from_pool4(self, features: torch.Tensor) -> torch.Tensor:
        """The upper trunk and the head: (B, 512, h, w) to class scores (B, K, h, w)."""
        x = self._run(TRUNK[POOL4 + 1 :], features)
        x = F.dropout(F.relu(self.fc6(x), inplace=True), self.dropout, self.training)
        x = F.dropout(F.relu(self.fc7(x), inplace=True), self.dropout, self.training)
        scores: torch.Tensor = self.fc8(x)
        return scores

    def _run(self, layers: tuple[Convolution | Pool, ...], x: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            if isinstance(layer, Convolution):
                x = F.relu(getattr(self, layer.name)(x), inplace=True)
            elif layer.kind == "max":
                x = F.max_pool2d(x, 3, layer.stride, padding=1)
            else:  # Caffe's average counts the padding in its divisor
                x = F.avg_pool2d(x, 3, layer.stride, padding=1, count_include_pad=True)
        return x


def build(variant: str = "deeplab-largefov", *, classes: int = 21, dropout: float = 0.5) -> DeepLab:
    """A network of the paper with random weights.

    Args:
        variant: a name in ``VARIANTS``.
        classes: K, background included, at least 2.
        dropout: probability at fc6 and fc7 while training.

    Returns:
        The module; it maps a prepared batch (B, 3, H, W) float32 to class scores (B, K, h, w) at stride 8.

    Raises:
        ValueError: for an unknown variant or too few classes.

    Source: DeepLab, sections 3.1 and 4 (Table 2, LargeFOV); layer for layer the release's train.prototxt.
    """
    if variant not in VARIANTS:
        raise ValueError(f"got variant {variant!r}, wanted one of: {', '.join(VARIANTS)}")
    if classes < 2:
        raise ValueError(f"got {classes} classes, wanted at least 2 (background and one more)")
    return DeepLab(VARIANTS[variant], classes, dropout)


def upsample(scores: torch.Tensor) -> torch.Tensor:
    """Scores (B, K, h, w) to (B, K, 8(h-1)+1, 8(w-1)+1): bilinear, corners aligned.

    Source: DeepLab, section 3.2; the release's Interp layer.
    """
    height, width = ((n - 1) * OUTPUT_STRIDE + 1 for n in scores.shape[-2:])
    return F.interpolate(scores, (height, width), mode="bilinear", align_corners=True)
