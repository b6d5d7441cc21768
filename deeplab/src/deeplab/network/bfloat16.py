"""Fewer bits where the processor is made for them: a network that computes in bfloat16, with the same
labels."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from deeplab.network.architecture import Branch, DeepLab

PRECISIONS = ("auto", "fp32", "bf16")


def choose(precision: str, device: torch.device) -> torch.dtype:
    """The number format to compute in.

    Args:
        precision: "fp32", "bf16", or "auto": bfloat16 where the processor multiplies it in hardware (AVX-512
            BF16 or AMX), as elsewhere it would be slower than fp32. On a GPU "auto" is fp32, whose
            convolutions torch runs as
            TF32: on an H100 a photo of 321×321 took 1.0 ms that way and 23 ms in bfloat16, for which cuDNN
                chose a
            slow kernel (results/gpu.md); for batches of 16 and more "bf16" is faster.
        device: where the network will run.

    Raises:
        ValueError: for another word.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"got precision {precision!r}, wanted one of: {', '.join(PRECISIONS)}")
    if precision == "auto":
        precision = "bf16" if device.type == "cpu" and has_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware: AVX-512 BF16, AMX, NVIDIA from compute capability 8
    on."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private; where torch lacks them, fp32
    return any(bool(getattr(torch.cpu, test, bool)()) for test in tests)


def reduced(network: DeepLab) -> DeepLab:
    """A copy that computes in bfloat16 between its first and last convolutions; it takes and gives fp32.

    What a network sees and what it says keep all their bits: bfloat16 has eight, too few for pixels less a
    mean and for scores that lie close together. That halves the share of labels that differ from fp32's
    (README, numbers).
    """
    low = copy.deepcopy(network).bfloat16()
    first = network.conv1_1
    assert isinstance(first, nn.Conv2d)
    low.conv1_1 = _PreciseInput(first)
    low.fc8 = _PreciseOutput(network.fc8)
    if network.variant.multi_scale:
        for name, branch in network.branches.items():
            mine = low.branches[name]
            assert isinstance(branch, Branch)
            assert isinstance(mine, Branch)
            mine[6] = _PreciseOutput(branch[6])
            if name == "data":
                mine[0] = _PreciseInput(branch[0])
    return low.eval()


class _PreciseInput(nn.Conv2d):
    """A 3×3 convolution of an fp32 batch in bfloat16: numbers go in as sums of two, so that no bit of them is
    lost."""

    def __init__(self, convolution: nn.Module):
        assert isinstance(convolution, nn.Conv2d)
        super().__init__(3 * convolution.in_channels, convolution.out_channels, 3, padding=1)
        weight = convolution.weight.detach()
        high = weight.bfloat16()
        low = (weight - high.float()).bfloat16()
        assert convolution.bias is not None
        self.weight = nn.Parameter(torch.cat([high, high, low], dim=1), requires_grad=False)
        self.bias = nn.Parameter(convolution.bias.detach().bfloat16(), requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) float32 to (B, O, H, W) bfloat16."""
        high = input.bfloat16()
        low = (input - high.float()).bfloat16()
        return F.conv2d(
            torch.cat([high, low, high], dim=1), self.weight, self.bias, self.stride, self.padding
        )


class _PreciseOutput(nn.Conv2d):
    """A 1×1 convolution in fp32 of features in bfloat16."""

    def __init__(self, convolution: nn.Module):
        assert isinstance(convolution, nn.Conv2d)
        super().__init__(convolution.in_channels, convolution.out_channels, 1)
        self.load_state_dict(convolution.state_dict())

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) bfloat16 to (B, K, h, w) float32."""
        return super().forward(input.float())
