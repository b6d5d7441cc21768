import pytest
import torch
import torch.nn.functional as F

from deeplab.network.architecture import VARIANTS, build
from deeplab.network.upsampling import upsample


def test_parameters_of_the_paper(network):
    assert sum(p.numel() for p in network.parameters()) == 20_505_429
    assert sum(p.numel() for name, p in network.named_parameters() if name.startswith("conv")) == 14_714_688


@pytest.mark.parametrize(("size", "wanted"), [((321, 65), (41, 9)), ((65, 513), (9, 65)), ((1, 9), (1, 2))])
def test_map_sizes_of_the_paper(network, size, wanted):
    with torch.inference_mode():
        scores = network(torch.zeros(2, 3, *size))
        assert scores.shape == (2, 21, *wanted)
        assert upsample(scores).shape[-2:] == size


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("deeplab", 65_140_565),
        ("deeplab-4x4", 65_140_565),
        ("deeplab-7x7", 134_346_581),
        ("deeplab-largefov", 20_505_429),
        ("deeplab-msc", 66_346_686),
        ("deeplab-msc-largefov", 21_711_550),
    ],
)
def test_parameters_of_all_variants(variant, parameters):
    with torch.device("meta"):
        network = build(variant)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("variant", ["deeplab", "deeplab-4x4", "deeplab-7x7"])
def test_map_sizes_of_the_plain_variants(variant):
    with torch.device("meta"):
        network = build(variant)
        assert network.train()(torch.zeros(1, 3, 306, 314)).shape[-2:] == (39, 40)
        assert network.eval()(torch.zeros(1, 3, 514, 306)).shape[-2:] == (67, 41)
        assert network.full_scores(torch.zeros(1, 3, 514, 306)).shape == (1, 21, 514, 306)
    assert [VARIANTS[variant].legal_size(n) for n in (1, 2, 3, 306, 307, 500)] == [2, 2, 18, 306, 322, 514]


@pytest.mark.parametrize("variant", ["deeplab-msc", "deeplab-msc-largefov"])
def test_map_sizes_of_the_multi_scale_variants(variant):
    with torch.device("meta"):
        network = build(variant)
        batch = torch.zeros(1, 3, 321, 65)
        assert network.train()(batch).shape[-2:] == network.eval()(batch).shape[-2:] == (41, 9)
        assert network.full_scores(batch).shape == (1, 21, 321, 65)
    assert [VARIANTS[variant].legal_size(n) for n in (1, 2, 321, 322)] == [1, 9, 321, 329]


def test_multi_scale_scores_in_training_are_those_of_testing_at_every_eighth_pixel():
    # Upsampling with corners aligned keeps the scores at every eighth pixel.
    torch.manual_seed(0)
    network = build("deeplab-msc-largefov", classes=3).eval()
    for parameter in network.branches.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    batch = torch.randn(1, 3, 25, 41)
    with torch.inference_mode():
        strided, dense = network(batch), network.full_scores(batch)
        single = upsample(network.scores_from_pool4(network.pool4(batch)))
    torch.testing.assert_close(dense[..., ::8, ::8], strided, rtol=1e-4, atol=1e-4)
    assert (dense - single).abs().max() > 0.1  # the branches contribute


def test_scores_of_the_plain_variant_are_not_shifted():
    # Every layer passes on the first channel of one position, so the scores peak where the photo does.
    network = build("deeplab", classes=2).eval()
    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.zeros_(layer.weight)
            middle = 1 if layer.kernel_size == (4, 4) else layer.kernel_size[0] // 2
            layer.weight.data[
                0, 0, middle : middle + 1 + (name == "fc6"), middle : middle + 1 + (name == "fc6")
            ] = 1
    batch = torch.zeros(1, 3, 146, 162)
    batch[0, 0, 60:68, 92:100] = 1
    with torch.inference_mode():
        scores = network.full_scores(batch)[0, 0].clamp(min=0)
    rows, columns = torch.arange(146.0), torch.arange(162.0)
    center = [(scores.sum(1) * rows).sum() / scores.sum(), (scores.sum(0) * columns).sum() / scores.sum()]
    assert abs(center[0] - 63.5) < 3
    assert abs(center[1] - 95.5) < 3


def test_layers_as_in_the_release(network):
    rates = {name: m.dilation[0] for name, m in network.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert {name for name, rate in rates.items() if rate == 2} == {"conv5_1", "conv5_2", "conv5_3"}
    assert rates["fc6"] == 12
    assert network.fc6.weight.shape == (1024, 512, 3, 3)
    assert network.fc7.weight.shape == (1024, 1024, 1, 1)


def test_against_the_layers_written_out(network):
    x = torch.randn(1, 3, 41, 57, generator=torch.Generator().manual_seed(1))
    p = network.state_dict()

    def conv(x, name, rate=1):
        return F.relu(F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=rate, dilation=rate))

    with torch.inference_mode():
        found = network(x)
        for stage, depth in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3)):
            for layer in range(1, depth + 1):
                x = conv(x, f"conv{stage}_{layer}", 2 if stage == 5 else 1)
            x = F.max_pool2d(x, 3, 2 if stage < 4 else 1, padding=1)
        ninths = torch.full((512, 1, 3, 3), 1 / 9)  # pool5a divides by nine at the border, too
        x = F.conv2d(x, ninths, padding=1, groups=512)
        x = conv(x, "fc6", 12)
        x = F.relu(F.conv2d(x, p["fc7.weight"], p["fc7.bias"]))
        wanted = F.conv2d(x, p["fc8.weight"], p["fc8.bias"])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_dropout_only_in_training(network):
    features = torch.rand(1, 512, 5, 7)
    with torch.inference_mode():
        assert torch.equal(network.scores_from_pool4(features), network.scores_from_pool4(features))
        network.train()
        assert not torch.equal(network.scores_from_pool4(features), network.scores_from_pool4(features))
        network.eval()


def test_any_number_of_classes():
    assert build(classes=3)(torch.zeros(1, 3, 9, 17)).shape == (1, 3, 2, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "deeplab-v9"}, "wanted one of: deeplab, deeplab-4x4"),
        ({"classes": 1}, "wanted at least 2"),
    ],
)
def test_unknown_networks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
