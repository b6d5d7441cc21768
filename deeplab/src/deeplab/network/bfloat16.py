"""Inference in bfloat16 on hardware that multiplies it, with nearly the labels of fp32."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from deeplab.network.architecture import Branch, DeepLab

PRECISIONS = ("auto", "fp32", "bf16")


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Choose the number format to compute in.

    With "auto", a CPU computes in bfloat16 if it multiplies that in hardware (AVX-512 BF16 or AMX), since it
    is slower than fp32 elsewhere. A GPU computes in fp32, whose convolutions torch runs as TF32: on an H100 a
    photo of 321×321 took 1.0 ms that way and 23 ms in bfloat16, for which cuDNN chose a slow kernel
    (results/gpu.md). For batches of 16 and more, "bf16" is faster there.

    Args:
        precision: "auto", "fp32" or "bf16".
        device: Device that the network will run on.

    Returns:
        ``torch.float32`` or ``torch.bfloat16``.

    Raises:
        ValueError: For any other precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"got precision {precision!r}, wanted one of: {', '.join(PRECISIONS)}")
    if precision == "auto":
        precision = "bf16" if device.type == "cpu" and has_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware: AVX-512 BF16, AMX, or CUDA compute capability 8."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private; False where torch lacks them
    return any(bool(getattr(torch.cpu, test, bool)()) for test in tests)


def to_bfloat16(network: DeepLab) -> DeepLab:
    """Copy a network so that it computes in bfloat16 between its first and last convolutions.

    Inputs and scores stay in fp32, because the 8 significant bits of bfloat16 are too few for pixels minus a
    mean and for scores that lie close together. This halves the share of labels that differ from those in
    fp32.

    Args:
        network: Network in fp32, which stays as it is.

    Returns:
        The copy in evaluation mode; it takes and returns fp32.
    """
    low = copy.deepcopy(network).bfloat16()
    first = network.conv1_1
    assert isinstance(first, nn.Conv2d)
    low.conv1_1 = _PreciseInput(first)
    low.fc8 = _PreciseOutput(network.fc8)
    if network.variant.multi_scale:
        for name, branch in network.branches.items():
            low_branch = low.branches[name]
            assert isinstance(branch, Branch)
            assert isinstance(low_branch, Branch)
            low_branch[6] = _PreciseOutput(branch[6])
            if name == "data":
                low_branch[0] = _PreciseInput(branch[0])
    return low.eval()


class _PreciseInput(nn.Conv2d):
    """A 3×3 convolution of an fp32 batch in bfloat16, in which each number enters as a sum of two."""

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
