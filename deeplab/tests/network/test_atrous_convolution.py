"""Atrous convolution is no approximation: it computes the same sums in another order. (In float64.)"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

EXAMPLE = Path(__file__).parents[3] / "examples" / "hole_algorithm.py"


def relu_conv(network, name, x, **options):
    layer = getattr(network, name)
    return F.relu(F.conv2d(x, layer.weight, layer.bias, **options))


def strided_vgg(network, batch, pools):
    """conv5_3 of VGG-16 as it was before the hole algorithm: pool4 has stride 2, conv5 rate 1."""
    x = batch
    for stage, depth in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3)):
        for layer in range(1, depth + 1):
            x = relu_conv(network, f"conv{stage}_{layer}", x, padding=1)
        if stage < 5:
            x = F.max_pool2d(x, pools, 2, padding=1, ceil_mode=True)
    return x


@pytest.mark.parametrize(("variant", "pools"), [("deeplab-largefov", 3), ("deeplab", 2)])
def test_the_trunk_is_the_strided_vgg_at_all_shifts(narrow, variant, pools):
    network = narrow(variant).double()
    batch = 60 * torch.randn(1, 3, 370, 434, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        dense = network.pool4(batch)
        for layer in ("conv5_1", "conv5_2", "conv5_3"):
            dense = F.relu(getattr(network, layer)(dense))  # with their own atrous rates
        for down in (0, 1):
            for right in (0, 1):
                shifted = strided_vgg(network, batch[..., 8 * down :, 8 * right :], pools)
                found = dense[..., down::2, right::2]
                # Compare positions away from the border, which lies elsewhere in the shifted photo.
                inner = (..., slice(7, 16), slice(7, 20))
                assert shifted[inner].shape == found[inner].shape
                torch.testing.assert_close(shifted[inner], found[inner], rtol=1e-10, atol=1e-10)


HEADS = ["deeplab", "deeplab-4x4", "deeplab-7x7", "deeplab-largefov"]


@pytest.mark.parametrize("variant", HEADS)
def test_fc6_is_a_plain_convolution_at_all_shifts(narrow, variant):
    fc6 = narrow(variant).double().fc6
    features = torch.randn(2, fc6.in_channels, 29, 37, dtype=torch.float64)
    (rate, _), (pad, _) = fc6.dilation, fc6.padding
    with torch.inference_mode():
        dense, padded = fc6(features), F.pad(features, (pad,) * 4)
        interleaved = torch.full_like(dense, float("nan"))
        for down in range(rate):
            for right in range(rate):
                part = F.conv2d(padded[..., down::rate, right::rate], fc6.weight, fc6.bias)
                target = interleaved[..., down::rate, right::rate]
                target.copy_(part[..., : target.shape[-2], : target.shape[-1]])
    torch.testing.assert_close(interleaved, dense, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", HEADS)
def test_fc6_is_a_convolution_with_zero_stuffed_filters(narrow, variant):
    fc6 = narrow(variant).double().fc6
    kernel, rate = fc6.kernel_size[0], fc6.dilation[0]
    stuffed = torch.zeros(
        *fc6.weight.shape[:2], *[kernel + (kernel - 1) * (rate - 1)] * 2, dtype=torch.float64
    )
    stuffed[..., ::rate, ::rate] = fc6.weight.detach()
    features = torch.randn(1, fc6.in_channels, 17, 31, dtype=torch.float64)
    with torch.inference_mode():
        wanted = F.conv2d(features, stuffed, fc6.bias, padding=fc6.padding)
        torch.testing.assert_close(fc6(features), wanted, rtol=1e-12, atol=1e-12)


def test_the_example_runs_and_finds_no_difference(tmp_path):
    out = tmp_path / "hole.png"
    done = subprocess.run([sys.executable, EXAMPLE, "--out", out], capture_output=True, text=True, check=True)
    assert out.stat().st_size > 10_000
    difference = float(done.stdout.split("largest difference: ")[1].split()[0])
    assert difference < 1e-10
