"""Winograd's algorithm against direct convolution, forward and backward, for all rates and sizes."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab.network.architecture import build
from deeplab.network.winograd import (
    MIN_CHANNELS,
    Convolution3x3,
    cached_bytes,
    convolve,
    is_worthwhile,
    transform_weight,
    weight_gradient,
)

SHAPES = [(2, 128, 136, 33, 41, 1), (3, 128, 192, 37, 30, 2), (1, 256, 128, 48, 40, 12)]


def relative_error(found, wanted):
    return float((found - wanted).detach().abs().max() / wanted.detach().abs().max())


def maps_of(batch, channels, height, width):
    generator = torch.Generator().manual_seed(7)
    maps = torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)
    return maps.float().contiguous(memory_format=torch.channels_last)


def direct(layer):
    """A copy of a layer that computes direct sums."""
    plain = copy.deepcopy(layer)
    plain.fast = False
    return plain


@pytest.fixture(autouse=True)
def on_any_processor(monkeypatch):
    monkeypatch.setattr(Convolution3x3, "fast", True)


@given(
    batch=st.integers(1, 3),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    rate=st.integers(1, 5),
)
@settings(deadline=None, max_examples=60)
def test_any_size_and_rate_equals_the_direct_sums(batch, inputs, outputs, height, width, rate):
    maps = maps_of(batch, inputs, height, width)
    weight = torch.linspace(-1, 1, outputs * inputs * 9).view(outputs, inputs, 3, 3).contiguous()
    bias = torch.arange(outputs).float()
    wanted = torch.nn.functional.conv2d(
        maps.double(), weight.double(), bias.double(), padding=rate, dilation=rate
    )
    found = convolve(maps, transform_weight(weight), bias, rate)
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= 1e-4 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize(("batch", "inputs", "outputs", "height", "width", "rate"), SHAPES)
def test_gradients_equal_the_direct_ones(batch, inputs, outputs, height, width, rate):
    layer = Convolution3x3(inputs, outputs, rate)
    maps = maps_of(batch, inputs, height, width).requires_grad_()
    output_gradient = maps_of(batch, outputs, height, width)
    assert is_worthwhile(height, width, rate)
    found = torch.autograd.grad(layer(maps), (maps, layer.weight, layer.bias), output_gradient)
    plain = direct(layer)
    wanted = torch.autograd.grad(plain(maps), (maps, plain.weight, plain.bias), output_gradient)
    for gradient, direct_gradient in zip(found, wanted, strict=True):
        assert gradient.shape == direct_gradient.shape
        assert relative_error(gradient, direct_gradient) < 3e-5


def test_work_in_chunks_gives_the_same(monkeypatch):
    maps = maps_of(3, 16, 41, 23)
    output_gradient = maps_of(3, 24, 41, 23)
    matrices = transform_weight(torch.randn(24, 16, 3, 3, generator=torch.Generator().manual_seed(1)))
    whole = convolve(maps, matrices, None, 2), weight_gradient(maps, output_gradient, 2)
    monkeypatch.setattr("deeplab.network.winograd.CHUNK_BYTES", 1)
    assert relative_error(convolve(maps, matrices, None, 2), whole[0]) < 1e-6
    assert relative_error(weight_gradient(maps, output_gradient, 2), whole[1]) < 1e-5


def test_cached_weights_follow_every_change():
    layer, other = (Convolution3x3(MIN_CHANNELS, MIN_CHANNELS) for _ in range(2))
    maps = maps_of(1, MIN_CHANNELS, 33, 40)
    with torch.no_grad():
        for change in (lambda: layer.weight.mul_(2), lambda: layer.load_state_dict(other.state_dict())):
            layer(maps)
            change()
            assert relative_error(layer(maps), direct(layer)(maps)) < 3e-5
    with torch.inference_mode():
        assert relative_error(layer(maps), direct(layer)(maps)) < 3e-5


def test_cached_weights_are_neither_saved_nor_copied():
    layer = Convolution3x3(MIN_CHANNELS, MIN_CHANNELS)
    with torch.no_grad():
        layer(maps_of(1, MIN_CHANNELS, 33, 40))
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert layer.is_cached
    assert not copy.deepcopy(layer).is_cached


def test_cached_bytes_before_and_after_a_prediction():
    layers = torch.nn.Sequential(Convolution3x3(MIN_CHANNELS, 2 * MIN_CHANNELS), Convolution3x3(64, 64))
    size = 4 * 36 * MIN_CHANNELS * 2 * MIN_CHANNELS
    assert cached_bytes(layers) == cached_bytes(layers, missing_only=True) == size
    with torch.no_grad():
        layers[0](maps_of(1, MIN_CHANNELS, 33, 40))
    assert (cached_bytes(layers), cached_bytes(layers, missing_only=True)) == (size, 0)


@pytest.mark.parametrize(
    ("channels", "height", "width", "dtype"),
    [
        (MIN_CHANNELS, 9, 12, torch.float32),
        (64, 40, 33, torch.float32),
        (MIN_CHANNELS, 40, 33, torch.float64),
    ],
)
def test_unsuitable_maps_are_convolved_by_direct_sums_to_the_bit(channels, height, width, dtype):
    layer = Convolution3x3(channels, channels).to(dtype)
    maps = maps_of(1, channels, height, width).to(dtype)
    assert torch.equal(layer(maps), direct(layer)(maps))


def test_autocast_and_unbatched_images_use_direct_sums():
    layer = Convolution3x3(MIN_CHANNELS, MIN_CHANNELS)
    maps = maps_of(1, MIN_CHANNELS, 40, 33)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(maps).dtype == torch.bfloat16
    assert layer(maps[0]).shape == (MIN_CHANNELS, 40, 33)


def test_the_whole_network_gives_the_direct_scores_and_gradients():
    torch.manual_seed(3)
    network = build("deeplab-largefov", classes=5, dropout=0)
    plain = copy.deepcopy(network)
    for layer in plain.modules():
        if isinstance(layer, Convolution3x3):
            layer.fast = False
    batch = 50 * maps_of(1, 3, 297, 265)
    scores, wanted = network(batch), plain(batch)
    assert relative_error(scores, wanted) < 1e-4
    scores.square().sum().backward()
    wanted.square().sum().backward()
    for name in ("conv1_1", "conv3_2", "conv5_3", "fc6", "fc8"):
        gradient, direct_gradient = (getattr(one, name).weight.grad for one in (network, plain))
        difference = float((gradient - direct_gradient).norm() / direct_gradient.norm())
        assert difference < 2e-2, name  # rounding changes the outcome of a few pools and ReLUs
