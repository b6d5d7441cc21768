import re
from pathlib import Path

import pytest

from deeplab.training.recipe import Recipe, read_recipe

FOLDER = Path(__file__).parents[2] / "recipes"


def write(folder, text):
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_file_and_changes(tmp_path):
    path = write(tmp_path, 'data = "d"\nbatch = 4\nrate = 1\nfrozen = ["conv1"]\n')
    changes = ["head_rate=10", "data=other place", "mirror=false", "frozen=conv1,conv2", "init="]
    expected = Recipe(
        "other place", batch=4, rate=1.0, head_rate=10.0, mirror=False, frozen=("conv1", "conv2")
    )
    assert read_recipe(path, changes) == expected
    assert isinstance(read_recipe(path).rate, float)


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ('data = "d"\nbatches = 4\n', [], "unknown key 'batches'; did you mean 'batch'"),
        ('data = "d"\nbatch = "4"\n', [], "got batch = '4', wanted int"),
        ('data = "d"\nbatch = true\n', [], "got batch = True, wanted int"),
        ('data = "d"\nfrozen = "conv1"\n', [], "got frozen = 'conv1', wanted a list of str"),
        ('data = "d"\n', ["batch=many"], "got batch = 'many', wanted int"),
        ('data = "d"\n', ["batch"], "got 'batch', wanted key=value"),
        ('data = "d"\n', ["mix=0.5"], "got mix without in_memory; wanted in_memory = true as well"),
        (
            'data = "d"\n',
            ["in_memory=true", "cached_views=2"],
            "got in_memory and cached_views, wanted one of the two",
        ),
        ('data = "d"\n', ["batch=0"], "got batch = 0, wanted at least 1"),
        ('data = "d"\n', ["policy=cosine"], "got policy = 'cosine', wanted one of: step, poly, constant"),
        ('data = "d"\n', ["variant=deeplab-v9"], "wanted one of: deeplab, deeplab-4x4"),
        (
            'data = "d"\n',
            ["crop=320"],
            "got crop = 320, which does not align with scores of deeplab-largefov; wanted 321",
        ),
        ('data = "d"\nvariant = "deeplab"\n', [], "got crop = 321, .*; wanted 322"),
        ('data = "d"\n', ["scale_low=2"], "wanted 0 < scale_low"),
        ('data = "d"\n', ["ema=1"], "got ema = 1.0, wanted 0 or more and less than 1"),
        ('data = "d"\n', ["extra_share=0.1"], "extra_data and extra_share go together"),
        (
            'data = "d"\n',
            ["teacher=t.npz", "teacher_share=0.5", "cached_views=2"],
            "got teacher and cached_views",
        ),
        ("", [], "lacks data; give it as --set data=VALUE"),
        ("data = [", [], "not TOML"),
    ],
)
def test_wrong_recipes_are_refused_in_one_line(tmp_path, content, changes, message):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_recipe(path, changes)
    assert "\n" not in str(caught.value)


def test_no_such_recipe(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no recipe .*nothing\.toml"):
        read_recipe(tmp_path / "nothing.toml")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_can_be_read(path):
    recipe = read_recipe(path, ["data=somewhere"])
    assert recipe.steps > 0
    head = path.read_text().split("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in head)
    titles = [line.split()[1] for line in head if re.match(r"# [A-Z][a-z]+: ", line)]
    assert titles[:5] == ["Paper:", "Command:", "Hardware:", "Time:", "Expected:"]


def test_the_papers_settings():
    largefov = read_recipe(FOLDER / "voc-largefov.toml", ["data=x"])
    assert (largefov.batch, largefov.rate, largefov.steps, largefov.policy, largefov.step_size) == (
        30,
        1e-3,
        6000,
        "step",
        2000,
    )
    assert (largefov.last_layer_rate, largefov.bias_rate, largefov.momentum, largefov.weight_decay) == (
        10,
        2,
        0.9,
        5e-4,
    )
    assert (largefov.crop, largefov.scale_low, largefov.scale_high, largefov.jitter, largefov.ema) == (
        321,
        1,
        1,
        0,
        0,
    )
    plain = read_recipe(FOLDER / "voc-deeplab.toml", ["data=x"])
    assert (plain.variant, plain.crop, plain.batch) == ("deeplab", 306, 20)
    poly = read_recipe(FOLDER / "voc-largefov-poly.toml", ["data=x"])
    assert (poly.policy, poly.power, poly.batch, poly.steps) == ("poly", 0.9, 10, 20000)
    msc = read_recipe(FOLDER / "voc-msc-largefov.toml", ["data=x", "init=first.safetensors"])
    assert (msc.variant, msc.frozen, msc.last_layer_rate) == ("deeplab-msc-largefov", ("conv", "fc"), 1)
