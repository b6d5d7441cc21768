"""The networks of the paper: VGG-16 with atrous convolutions, and its fully connected layers as convolutions.

A network maps a prepared batch (channels B, G, R in 0–255 levels minus the mean) to class scores at stride 8
or at every pixel. It knows nothing of photos, labels or the CRF.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from deeplab.network.upsampling import OUTPUT_STRIDE as OUTPUT_STRIDE
from deeplab.network.upsampling import upsample
from deeplab.network.winograd import Convolution3x3


@dataclass(frozen=True)
class Convolution:
    """A 3×3 convolution of the trunk that keeps the size of its input, followed by a ReLU."""

    name: str
    channels: int
    atrous_rate: int = 1


@dataclass(frozen=True)
class Pool:
    """A pool of the trunk. Sizes are rounded up as in Caffe, and no window begins beyond the input."""

    kind: str
    stride: int
    kernel: int = 3
    padding: int = 1
    training_padding: int = 1


_STAGES = (("conv1", 64, 2), ("conv2", 128, 2), ("conv3", 256, 3), ("conv4", 512, 3), ("conv5", 512, 3))


def _trunk(*pools: Pool) -> tuple[Convolution | Pool, ...]:
    """VGG-16 with these pools after its stages; pools 4 and 5 have stride 1, so conv5 has atrous rate 2."""
    layers: list[Convolution | Pool] = []
    for (stage, channels, depth), pool in zip(_STAGES, pools, strict=False):
        rate = 2 if stage == "conv5" else 1
        layers += [Convolution(f"{stage}_{n + 1}", channels, rate) for n in range(depth)]
        layers.append(pool)
    return (*layers, *pools[len(_STAGES) :])


# The release has 3×3 pools with padding 1 in all but the plain networks: maps of all strides then align.
MULTI_SCALE_TRUNK = _trunk(*[Pool("max", 2)] * 3, *[Pool("max", 1)] * 2)
TRUNK = (*MULTI_SCALE_TRUNK, Pool("average", 1))  # LargeFOV; the last pool is pool5a
PLAIN_TRUNK = _trunk(
    *[Pool("max", 2, kernel=2)] * 3, Pool("max", 1, kernel=2, training_padding=0), Pool("max", 1)
)
# The 2×2 pools of the plain trunk shift its scores by 7 pixels to the upper left.
PLAIN_OFFSET = 7
POOL4 = 13  # index in a trunk of the pool that ends stage 4


@dataclass(frozen=True)
class Head:
    """fc6 as an atrous convolution, and fc7 and fc8 as 1×1 convolutions."""

    kernel: int
    atrous_rate: int
    channels: int


@dataclass(frozen=True)
class Variant:
    """A network of the paper's Tables 1 and 2."""

    name: str
    trunk: tuple[Convolution | Pool, ...]
    head: Head
    multi_scale: bool = False
    """Whether classifiers on the image and on pools 1 to 4 add to the scores."""

    def legal_size(self, length: int) -> int:
        """Smallest size from ``length`` pixels up at which scores align exactly with pixels in testing."""
        if self._is_plain:
            return -(-max(length - 2, 0) // 16) * 16 + 2
        return -(-(length - 1) // OUTPUT_STRIDE) * OUTPUT_STRIDE + 1

    def legal_crop(self, length: int) -> int:
        """Smallest size of a training crop from ``length`` up: 8m + 2 for the plain variants, else 8m + 1."""
        first = self.first_target + 1
        return -(-max(length - first, OUTPUT_STRIDE) // OUTPUT_STRIDE) * OUTPUT_STRIDE + first

    @property
    def first_target(self) -> int:
        """First row and column of a training crop that has a score; every 8th after it has one, too."""
        return 1 if self._is_plain else 0

    @property
    def score_offset(self) -> int:
        """Row and column of the upsampled scores where the photo begins: 7 for the plain variants, else 0."""
        return PLAIN_OFFSET if self._is_plain else 0

    @property
    def _is_plain(self) -> bool:
        return self.trunk == PLAIN_TRUNK


_SMALL = Head(kernel=4, atrous_rate=4, channels=4096)
_LARGE_FOV = Head(kernel=3, atrous_rate=12, channels=1024)
_TABLE = (
    Variant("deeplab", PLAIN_TRUNK, _SMALL),
    Variant("deeplab-4x4", PLAIN_TRUNK, Head(kernel=4, atrous_rate=8, channels=4096)),
    Variant("deeplab-7x7", PLAIN_TRUNK, Head(kernel=7, atrous_rate=4, channels=4096)),
    Variant("deeplab-largefov", TRUNK, _LARGE_FOV),
    Variant("deeplab-msc", MULTI_SCALE_TRUNK, _SMALL, multi_scale=True),
    Variant("deeplab-msc-largefov", TRUNK, _LARGE_FOV, multi_scale=True),
)
VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _TABLE}

# Inputs of the multi-scale classifiers: name, channels, and stride.
BRANCHES = (("data", 3, 1), ("pool1", 64, 2), ("pool2", 128, 4), ("pool3", 256, 8), ("pool4", 512, 8))


class Branch(nn.Sequential):
    """A multi-scale classifier: 3×3 and 1×1 convolutions of 128 channels, and a 1×1 convolution to scores."""

    def __init__(self, channels: int, classes: int, dropout: float):
        super().__init__(
            nn.Conv2d(channels, 128, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(128, 128, 1),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(128, classes, 1),
        )

    def strided(self, x: torch.Tensor, stride: int) -> torch.Tensor:
        """Compute the scores at every ``stride``-th position only.

        Args:
            x: (B, C, H, W).
            stride: Distance of the scores in positions of ``x``.

        Returns:
            (B, K, h, w) with h = (H − 1) // stride + 1.
        """
        first = self[0]
        assert isinstance(first, nn.Conv2d)
        x = F.conv2d(x, first.weight, first.bias, stride, padding=1)
        for layer in list(self)[1:]:
            x = layer(x)
        return x


class DeepLab(nn.Module):
    """The network of a variant. Layers have the names of the release's prototxt files, conv1_1 to fc8.

    Args:
        variant: Which network.
        classes: K, background included.
        dropout: Probability at fc6 and fc7 in training.
    """

    def __init__(self, variant: Variant, classes: int, dropout: float = 0.5):
        super().__init__()
        self.variant = variant
        self.classes = classes
        self.dropout = dropout
        channels = 3
        for layer in variant.trunk:
            if isinstance(layer, Convolution):
                self.add_module(layer.name, Convolution3x3(channels, layer.channels, layer.atrous_rate))
                channels = layer.channels
        self._add_head(channels)
        self._initialize()
        if variant.multi_scale:
            self.branches = nn.ModuleDict(
                {name: Branch(inputs, classes, dropout) for name, inputs, _ in BRANCHES}
            )
            self._initialize_branches()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Compute class scores at stride 8, as training uses them.

        Args:
            batch: Prepared batch (B, 3, H, W).

        Returns:
            (B, K, h, w) with h = (H − 1) // 8 + 1 where H = 8m + 1. For the plain variants in training mode,
            h = (H + 6) // 8 where H = 8m + 2.
        """
        if not self.variant.multi_scale:
            return self.scores_from_pool4(self.pool4(batch))
        maps, scores = self._maps(batch)
        for name, _, stride in BRANCHES:
            branch = self.branches[name]
            assert isinstance(branch, Branch)
            scores = scores + branch.strided(maps[name], OUTPUT_STRIDE // stride)
        return scores

    def full_scores(self, batch: torch.Tensor) -> torch.Tensor:
        """Compute class scores at every pixel, as in testing.

        Scores at stride 8 are upsampled with corners aligned and shifted by ``Variant.score_offset``. Each
        multi-scale classifier runs at every position of its map and is upsampled by that map's stride.

        Args:
            batch: Prepared batch (B, 3, H, W) of legal size (``Variant.legal_size``).

        Returns:
            (B, K, H, W) float32.

        Source: DeepLab, sections 3.2 and 4.1; the release's test.prototxt files.
        """
        height, width = batch.shape[-2:]
        if self.variant.multi_scale:
            maps, main = self._maps(batch)
            scores = upsample(main)
            for name, _, stride in BRANCHES:
                scores = scores + upsample(self.branches[name](maps[name]), stride)
        else:
            scores = upsample(self(batch))
        start = self.variant.score_offset
        return scores[..., start : start + height, start : start + width]

    def pool4(self, batch: torch.Tensor) -> torch.Tensor:
        """Run the lower trunk: (B, 3, H, W) to (B, 512, h, w) at stride 8."""
        return self._run(self.variant.trunk[: POOL4 + 1], batch)

    def scores_from_pool4(self, features: torch.Tensor) -> torch.Tensor:
        """Run the upper trunk and the head without branches: (B, 512, h, w) to class scores (B, K, h, w)."""
        x = self._run(self.variant.trunk[POOL4 + 1 :], features)
        x = F.dropout(F.relu(self.fc6(x), inplace=True), self.dropout, self.training)
        x = F.dropout(F.relu(self.fc7(x), inplace=True), self.dropout, self.training)
        scores: torch.Tensor = self.fc8(x)
        return scores

    def _maps(self, batch: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The inputs of the multi-scale classifiers by name, and the main scores at stride 8."""
        maps = {"data": batch}
        start = 0
        for index, layer in enumerate(self.variant.trunk[: POOL4 + 1]):
            if isinstance(layer, Pool):
                name = f"pool{len(maps)}"
                maps[name] = self._run(self.variant.trunk[start : index + 1], list(maps.values())[-1])
                start = index + 1
        return maps, self.scores_from_pool4(maps["pool4"])

    def _run(self, layers: tuple[Convolution | Pool, ...], x: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            if isinstance(layer, Convolution):
                x = F.relu(getattr(self, layer.name)(x), inplace=True)
                continue
            padding = layer.training_padding if self.training else layer.padding
            if layer.kind == "max":
                x = F.max_pool2d(x, layer.kernel, layer.stride, padding, ceil_mode=True)
            else:  # Caffe's average counts the padding in its divisor
                x = F.avg_pool2d(x, layer.kernel, layer.stride, padding, count_include_pad=True)
        return x

    def _add_head(self, channels: int) -> None:
        """Add fc6, fc7 and fc8 behind a trunk of so many channels."""
        head = self.variant.head
        self.fc6: nn.Conv2d
        if head.kernel == 3:
            self.fc6 = Convolution3x3(channels, head.channels, head.atrous_rate)
        else:
            padding = head.atrous_rate * (head.kernel - 1) // 2
            self.fc6 = nn.Conv2d(
                channels, head.channels, head.kernel, padding=padding, dilation=head.atrous_rate
            )
        self.fc7 = nn.Conv2d(head.channels, head.channels, 1)
        self.fc8 = nn.Conv2d(head.channels, self.classes, 1)

    def _initialize(self) -> None:
        """Draw random weights; fc8 has the release's filler."""
        for convolution in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
        nn.init.normal_(self.fc8.weight, std=0.01)

    def _initialize_branches(self) -> None:
        """Draw the branches' weights as the release does; the classifier on pool3 begins with zeros."""
        for name, branch in self.branches.items():
            first, second, last = (layer for layer in branch.modules() if isinstance(layer, nn.Conv2d))
            for layer, std in ((first, 0.001), (second, 0.005 if name == "pool4" else 0.001), (last, 0.01)):
                nn.init.normal_(layer.weight, std=std)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            if name == "pool3":
                nn.init.zeros_(last.weight)


def build(variant: str = "deeplab-largefov", *, classes: int = 21, dropout: float = 0.5) -> DeepLab:
    """Build a network of the paper with random weights.

    Args:
        variant: Name of a variant in ``VARIANTS``.
        classes: K, background included, at least 2.
        dropout: Probability at fc6 and fc7 in training.

    Returns:
        The module. It maps a prepared batch (B, 3, H, W) float32 to class scores (B, K, h, w) at stride 8;
        its ``full_scores`` gives (B, K, H, W).

    Raises:
        ValueError: For an unknown variant, or fewer than 2 classes.

    Source: DeepLab, sections 3.1 and 4, Tables 1 and 2; layer for layer the release's prototxt files.
    """
    if variant not in VARIANTS:
        raise ValueError(f"got variant {variant!r}, wanted one of: {', '.join(VARIANTS)}")
    if classes < 2:
        raise ValueError(f"got {classes} classes, wanted at least 2 (background and one more)")
    return DeepLab(VARIANTS[variant], classes, dropout)
