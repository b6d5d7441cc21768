"""Labels with mistakes: a run is refused before its first step, or goes on without the bad ones."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deeplab.cli import main
from deeplab.training.setup import prepare_training

pytest.importorskip("lightning_fabric")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning_fabric")


def mask(level, size=(70, 90)):
    labels = np.zeros(size, np.uint8)
    labels[10:40, 20:60] = level
    return labels


@pytest.fixture
def data(cats, tmp_path):
    """A copy of the tiny data set."""
    shutil.copytree(cats, tmp_path / "data")
    return tmp_path / "data"


class Fabric:
    """One process on a CPU."""

    is_global_zero = True
    world_size, global_rank, device = 1, 0, "cpu"


@pytest.mark.parametrize("in_memory", [False, True])
def test_one_bad_mask_does_not_end_the_run(recipe, data, tmp_path, capsys, in_memory):
    Image.fromarray(mask(77)).save(data / "SegmentationClass/2.png")  # to train on
    Image.fromarray(mask(8, (70, 89))).save(data / "SegmentationClass/5.png")  # to validate on
    recipe = replace(recipe, data=str(data), batch=4, in_memory=in_memory, memory_side=90)
    setup = prepare_training(recipe, tmp_path, Fabric())
    assert [sample.name for sample in setup.val] == ["4"]
    batches = setup.batches.from_step(0)
    for _ in range(3):
        _, targets = next(batches)
        assert set(targets.unique().tolist()) <= {0, 8, 255}
    errors = capsys.readouterr().err
    assert "SegmentationClass/2.png: id 77 in 1200 pixels; ids must be 0 to 20" in errors
    assert errors.count("another photo takes its place") == 1
    assert "SegmentationClass/5.png: labels of 70×89 pixels (H×W) for a photo of 70×90" in errors


def test_black_and_white_masks(recipe, data, tmp_path, capsys, monkeypatch):
    (data / "classes.txt").write_text("background\nobject\n")
    for number in range(6):
        Image.fromarray(mask(255)).save(data / f"SegmentationClass/{number}.png")
    path = tmp_path / "recipe.toml"
    path.write_text(f"data = '{data}'\ncrop = 65\nbatch = 2\nsteps = 1\nprecision = 'fp32'\ndevice = 'cpu'\n")
    arguments = ["train", str(path), "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    errors = capsys.readouterr().err
    assert "holds 0 and 255 only, as binary masks do" in errors
    assert "binary = true" in errors
    assert errors.count("deeplab: error:") == 1
    recipes = []
    monkeypatch.setattr(
        "deeplab.training.loop.train", lambda recipe, out, **_: recipes.append(recipe) or tmp_path / "w"
    )
    assert main([*arguments, "--binary"]) == 0
    setup = prepare_training(recipes[0], tmp_path, Fabric())
    assert setup.class_names == ("background", "object")
    _, targets = next(setup.batches.from_step(0))
    assert {0, 1} <= set(targets.unique().tolist()) <= {0, 1, 255}


def test_names_that_never_occur_are_told_before_the_first_step(recipe, data, tmp_path, capsys):
    prepare_training(replace(recipe, data=str(data)), tmp_path, Fabric())
    errors = capsys.readouterr().err
    assert errors.count("split train: no pixel of aeroplane, bicycle") == 1
