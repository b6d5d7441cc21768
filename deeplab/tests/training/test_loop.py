import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import deeplab
from deeplab.cli import main
from deeplab.model.loading import shipped
from deeplab.network.architecture import build
from deeplab.training.batch_norm import add_batch_norm, fold_batch_norm
from deeplab.training.loop import train
from deeplab.training.run_folder import RunFolder
from deeplab.weights.class_replacement import replace_classes
from deeplab.weights.store import LONGEST_SIDE, load_weights, save_weights
from training_runs import weights_of

pytest.importorskip("lightning_fabric")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning_fabric")


def one_step(recipe, **changes):
    return replace(recipe, **({"steps": 1, "validate_every": 1, "validate_photos": 1} | changes))


def test_two_processes_are_one_with_the_whole_batch(recipe, tmp_path):
    recipe = replace(recipe, dropout=0.0, batch=4, crop=33, steps=2, rate=1e-3, validate_photos=1)
    recipe = replace(recipe, checkpoint_every=2)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    path = tmp_path / "recipe.toml"
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in vars(recipe).items()))
    command = [*torchrun, "-m", "deeplab", "train", str(path), "--out", str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as two:
        one = train(recipe, tmp_path / "one")  # meanwhile, on the other core
        parts = train(replace(recipe, accumulate=2), tmp_path / "parts")
        _, errors = two.communicate(timeout=300)
    assert two.returncode == 0, errors[-2000:]
    expected = load_file(one.with_name("checkpoint.safetensors"))  # in fp32, with the optimizer's momentum
    for folder in (tmp_path / "two", parts.parent):
        found = load_file(folder / "checkpoint.safetensors")
        assert found.keys() == expected.keys()
        for name, value in found.items():
            scale = float(expected[name].abs().max())
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-2 * scale)
    assert expected["optimizer.momentum_buffer.fc8.weight"].abs().max() > 1e-3  # gradients are not all zero


def test_frozen_layers_do_not_learn(recipe, tmp_path):
    start = train(one_step(recipe, rate=0.0), tmp_path / "start")
    frozen = ("conv1", "conv4_3")
    trained = train(one_step(recipe, init=str(start), frozen=frozen, rate=1e-3), tmp_path / "trained")
    before = weights_of(start)
    for name, value in weights_of(trained).items():
        assert torch.equal(value, before[name]) == name.startswith(frozen), name
    with pytest.raises(
        ValueError, match="got frozen layers 'conv9', but no layer begins so; layers: conv1_1"
    ):
        train(replace(recipe, frozen=("conv9",)), tmp_path / "wrong")


def test_second_stage_of_multi_scale(recipe, tmp_path):
    first = train(one_step(recipe), tmp_path / "first")
    second = replace(
        recipe,
        variant="deeplab-msc-largefov",
        init=str(first),
        frozen=("conv", "fc"),
        last_layer_rate=1.0,
        steps=2,
    )
    before = weights_of(first)
    after = weights_of(train(second, tmp_path / "second"))
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert len([name for name in after if name.startswith("branches")]) == 30


def test_classifiers_are_carried_over_by_class_name(recipe, tmp_path, capsys):
    first = train(one_step(recipe), tmp_path / "first")
    network, card, _ = replace_classes(*load_weights(first), ["background", "lamp", "cat"])
    save_weights(tmp_path / "other.safetensors", network, card)
    train(one_step(recipe, init=str(tmp_path / "other.safetensors")), tmp_path / "back")
    assert "kept by name: background, cat" in capsys.readouterr().err


def test_it_learns(recipe, cats, tmp_path):
    recipe = replace(
        recipe,
        steps=16,
        validate_every=16,
        checkpoint_every=16,
        batch=4,
        optimizer="adamw",
        rate=3e-4,
        head_norm=True,
        dropout=0.0,
        last_layer_rate=10.0,
        policy="poly",
    )
    weights = train(recipe, tmp_path)
    labels = np.asarray(Image.open(cats / "SegmentationClass/4.png"))
    found = deeplab.load(weights=weights).segment(cats / "JPEGImages/4.jpg", crf=False).labels
    is_valid = labels != 255
    predicted, actual = (found == 8)[is_valid], (labels == 8)[is_valid]
    assert (predicted & actual).sum() / (predicted | actual).sum() > 0.4  # intersection over union; 0 before


@pytest.mark.parametrize(("options", "expected"), [({}, 540), ({"in_memory": True, "memory_side": 530}, 530)])
def test_the_card_has_the_size_of_the_photos_trained_on(recipe, cats, tmp_path, options, expected):
    data = tmp_path / "data"
    shutil.copytree(cats, data)
    Image.new("RGB", (540, 20)).save(data / "JPEGImages/0.jpg")
    Image.new("L", (540, 20)).save(data / "SegmentationClass/0.png")
    weights = train(one_step(recipe, data=str(data), **options), tmp_path / "out")
    assert deeplab.load(weights=weights).card.size == expected


def test_the_card_keeps_crf_parameters_and_size_of_the_initial_weights(recipe, tmp_path):
    network, card = shipped()
    trained = train(one_step(recipe, init="shipped", rate=0.0), tmp_path / "from-shipped")
    found = deeplab.load(weights=trained).card
    assert card.crf
    assert (found.crf, found.size) == (card.crf, card.size)

    card = replace(card, crf={"appearance_weight": 7.0, "normalization": "after"}, size=700)
    save_weights(tmp_path / "own.safetensors", network, card)
    trained = train(one_step(recipe, init=str(tmp_path / "own.safetensors"), rate=0.0), tmp_path / "from-own")
    found = deeplab.load(weights=trained).card
    assert (found.crf, found.size) == (card.crf, 700)

    save_weights(tmp_path / "full.safetensors", network, replace(card, size=0))
    trained = train(one_step(recipe, init=str(tmp_path / "full.safetensors"), rate=0.0), tmp_path / "full")
    assert deeplab.load(weights=trained).card.size == 0  # full size, whatever the photos


def test_the_card_of_a_network_trained_from_random_weights(recipe, tmp_path):
    card = deeplab.load(weights=train(one_step(recipe), tmp_path)).card
    assert card.crf == {}  # the defaults
    assert card.size == LONGEST_SIDE  # the photos are smaller


def test_a_loss_that_is_not_finite_stops_the_run(recipe, tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"the loss is .* at step \d+; nothing of this step was kept"
    ):
        train(replace(recipe, rate=1e30), tmp_path)
    assert (tmp_path / "checkpoint.safetensors").is_file()


def test_damaged_photos_are_replaced_unless_there_are_too_many(recipe, cats, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(cats, data)
    (data / "JPEGImages/2.jpg").write_bytes(b"not a photo")
    train(replace(recipe, data=str(data), steps=4, validate_every=4), tmp_path / "out")
    errors = capsys.readouterr().err
    assert errors.count("another photo takes its place") == 1
    assert "2.jpg" in errors
    for number in (0, 1, 3):
        (data / f"JPEGImages/{number}.jpg").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"4 of 4 photos cannot be used: deeplab check-data names each problem"
    ):
        train(replace(recipe, data=str(data)), tmp_path / "none")


def test_the_folder_of_a_run(recipe, tmp_path):
    pytest.importorskip("tensorboard")
    train(replace(recipe, tensorboard=True), tmp_path)
    environment = json.loads((tmp_path / "run.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert {"commit", "command", "machine", "started"} <= set(environment)
    assert json.loads((tmp_path / "recipe.json").read_text())["crop"] == 65
    assert list((tmp_path / "tensorboard").glob("events.*"))
    card = json.loads((tmp_path / "weights.json").read_text())
    assert card["provenance"]["recipe"]["data"] == Path(recipe.data).name  # no path of this machine
    with pytest.raises(ValueError, match="holds a run with other steps"):
        train(replace(recipe, steps=5, tensorboard=True), tmp_path)
    damaged = tmp_path / "checkpoint.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a checkpoint of this run"):
        train(replace(recipe, tensorboard=True), tmp_path)


def test_a_folder_takes_one_run_at_a_time(recipe, tmp_path):
    other = RunFolder(tmp_path, recipe)
    with pytest.raises(BlockingIOError, match="another run works in this folder"):
        train(recipe, tmp_path)
    other.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 3, "accumulate": 2}, "got batch = 3 for 1 processes × accumulate = 2"),
        ({"cached_views": 2}, "cached_views = 2 needs one process"),
        ({"data": "nowhere"}, "nowhere"),
        ({"init": "nothing.npz"}, "no file nothing.npz"),
    ],
)
def test_runs_that_cannot_begin(recipe, tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(replace(recipe, **changes), tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        train(recipe, tmp_path / "empty", resume=True)


def test_folding_batch_norm_changes_nothing():
    torch.manual_seed(1)
    network = build(classes=3)
    add_batch_norm(network)
    network.train()
    for _ in range(3):
        network.scores_from_pool4(torch.rand(4, 512, 6, 9))
    network.eval()
    features = torch.rand(1, 512, 6, 9)
    with torch.inference_mode():
        expected = network.scores_from_pool4(features)
        fold_batch_norm(network)
        torch.testing.assert_close(network.scores_from_pool4(features), expected, rtol=1e-3, atol=1e-4)
    assert network.state_dict().keys() == build(classes=3).state_dict().keys()


def test_the_tutorial_from_drawn_photos_to_a_labelled_one(tmp_path, monkeypatch):
    root = Path(__file__).parents[3]
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, root / "examples/draw_shapes.py", "shapes", "--photos", "8"], check=True)
    assert main(["check-data", "shapes"]) == 0
    short = ["--set", "steps=2", "--set", "validate_every=2", "--set", "batch=2"]
    smoke = str(root / "deeplab/recipes/smoke.toml")
    assert main(["train", smoke, "--data", "shapes", "--out", "run", *short]) == 0
    weights = ["--weights", "run/weights.safetensors"]
    assert main(["segment", "shapes/images/val", *weights, "--out", "labelled"]) == 0
    assert np.asarray(Image.open("labelled/val_000.png")).shape == (96, 128)
    assert main(["evaluate", "--data", "shapes", "--split", "val", *weights, "--out", "scores.json"]) == 0
    assert set(json.loads(Path("scores.json").read_text())["scores"]) == {"network", "network + CRF"}
