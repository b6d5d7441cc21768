import pytest
import torch

from deeplab.cli import main
from deeplab.network.architecture import VARIANTS, build
from deeplab.network.layer_table import describe


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_table_describes_the_network(variant):
    rows = {row.name: row for row in describe(variant, classes=5, height=310, width=150)}
    with torch.device("meta"):
        network = build(variant, classes=5).eval()
        shape = (VARIANTS[variant].legal_size(310), VARIANTS[variant].legal_size(150))
        assert network.scores_from_pool4(network.pool4(torch.zeros(1, 3, *shape))).shape[-2:] == (
            rows["fc8"].height,
            rows["fc8"].width,
        )
    assert sum(row.parameters for row in rows.values()) == sum(p.numel() for p in network.parameters())
    for name, module in network.named_children():
        if isinstance(module, torch.nn.Conv2d):
            assert rows[name].parameters == sum(p.numel() for p in module.parameters())
            assert rows[name].atrous_rate == module.dilation[0]


def test_fields_of_view_of_the_paper():
    # Paper, section 3.1: 404 for 7×7 and 308 for 4×4 with rate 4. The release's pools enlarge it.
    views = {name: {row.name: row for row in describe(name)}["fc8"].field_of_view for name in VARIANTS}
    assert (views["deeplab-7x7"], views["deeplab"], views["deeplab-4x4"]) == (404, 308, 404)
    assert views["deeplab-largefov"] == 435
    assert views["deeplab-msc"] == 323
    assert {row.output_stride for row in describe() if row.name.startswith(("conv5", "fc"))} == {8}


def test_multiplications_by_hand():
    first = describe(height=9, width=17)[0]
    assert (first.name, first.height, first.width) == ("conv1_1", 9, 17)
    assert first.multiplications == 9 * 17 * 27 * 64
    assert first.parameters == 27 * 64 + 64


def test_on_the_command_line(capsys):
    assert main(["describe", "deeplab-msc-largefov"]) == 0
    out = capsys.readouterr().out
    assert "fc6" in out
    assert "21,711,550" in out
    assert main(["describe", "deeplab-v9"]) == 1
    assert "wanted one of: deeplab" in capsys.readouterr().err
