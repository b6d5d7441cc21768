import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import deeplab
from deeplab.cli import main
from deeplab.network.architecture import build
from deeplab.training import loop
from deeplab.training.batch_norm import add_batch_norm, fold_batch_norm
from deeplab.training.loop import train
from deeplab.training.recipe import Recipe
from deeplab.weights.store import LONGEST_SIDE

pytest.importorskip("lightning_fabric")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning_fabric")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Six small photos with a bright cat on dark ground, one step every few hundred milliseconds."""
    root = tmp_path_factory.mktemp("voc")
    rng = np.random.default_rng(0)
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    for i in range(6):
        labels = np.zeros((70, 90), np.uint8)
        top, left = rng.integers(5, 25, size=2)
        labels[top : top + 30, left : left + 40] = 8
        labels[top : top + 30, left : left + 2] = 255
        photo = np.where(labels[:, :, None] == 8, 220, 30) + rng.integers(0, 20, size=(70, 90, 3))
        Image.fromarray(photo.astype(np.uint8)).save(root / f"JPEGImages/{i}.jpg")
        Image.fromarray(labels).save(root / f"SegmentationClass/{i}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("0\n1\n2\n3\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("4\n5\n")
    return Recipe(
        data=str(root),
        crop=65,
        batch=2,
        steps=4,
        rate=1e-4,
        validate_every=2,
        checkpoint_every=1,
        precision="fp32",
        device="cpu",
    )


def tensors(path):
    return deeplab.load(weights=path).network.state_dict()


def same(one, other):
    one, other = tensors(one), tensors(other)
    return all(torch.equal(one[name], other[name]) for name in one)


def records(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


VARIETY = {
    "sgd": {},
    "adamw with everything": {
        "optimizer": "adamw",
        "ema": 0.9,
        "head_norm": True,
        "clip": 1.0,
        "scale_low": 0.5,
        "scale_high": 1.5,
        "jitter": 0.2,
        "dice": 0.5,
        "focal": 1.0,
        "class_weights": "median",
        "policy": "poly",
        "warmup": 2,
    },
    "cached": {"cached_views": 2, "frozen": ("conv1", "conv2", "conv3", "conv4"), "head_norm": True},
    "thawed": {"frozen": ("conv",), "frozen_for": 2},
}


@pytest.mark.parametrize("changes", VARIETY.values(), ids=VARIETY)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(recipe, tmp_path, monkeypatch, changes):
    recipe = replace(recipe, **changes)
    whole = train(recipe, tmp_path / "whole")
    real = loop._step

    def step_and_ask_to_stop(*arguments):
        loss = real(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr(loop, "_step", step_and_ask_to_stop)
    for step in (1, 2, 3):
        with pytest.raises(
            KeyboardInterrupt, match=f"stopped after step {step} of 4; the same command goes on there"
        ):
            train(recipe, tmp_path / "parts")
    monkeypatch.setattr(loop, "_step", real)
    parts = train(recipe, tmp_path / "parts", resume=True)
    assert same(whole, parts)
    without_time = [
        [{k: v for k, v in r.items() if k != "seconds"} for r in records(p.parent)] for p in (whole, parts)
    ]
    assert without_time[0] == without_time[1]
    assert [r["step"] for r in records(whole.parent) if "mIoU-7" in r] == [2, 4]


def command(recipe, out, *more):
    """The command line in a process of its own."""
    sets = [f"--set={key}={value}" for key, value in vars(recipe).items() if value != getattr(BARE, key)]
    path = out.with_suffix(".toml")
    path.write_text("")
    return [sys.executable, "-m", "deeplab", "train", str(path), "--out", str(out), *sets, *more]


BARE = Recipe(data="")


def test_killed_while_a_checkpoint_is_being_written(recipe, tmp_path):
    recipe = replace(recipe, steps=6, validate_every=6)
    whole = train(recipe, tmp_path / "whole")
    out = tmp_path / "killed"
    kills = 0
    for _ in range(8):
        process = subprocess.Popen(command(recipe, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if list(out.glob(".checkpoint*.part")):  # it is being written at this moment
                process.kill()
                kills += 1
                break
            time.sleep(0.001)
        process.communicate(timeout=120)
        if process.returncode == 0:
            break
    assert kills >= 1
    assert (out / "weights.safetensors").is_file() or train(recipe, out)
    assert same(whole, out / "weights.safetensors")


def test_two_processes_are_one_with_the_whole_batch(recipe, tmp_path):
    recipe = replace(recipe, dropout=0.0, batch=4, steps=3, validate_every=3, rate=1e-3)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    line = [*torchrun, "-m", "deeplab", *command(recipe, tmp_path / "two")[3:]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    one = train(recipe, tmp_path / "one")
    parts = train(replace(recipe, accumulate=2), tmp_path / "parts")
    wanted = load_file(one.with_name("checkpoint.safetensors"))  # in fp32, the optimizer's memory with it
    for other in (tmp_path / "two", parts.parent):
        found = load_file(other / "checkpoint.safetensors")
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            scale = float(wanted[name].abs().max())
            torch.testing.assert_close(value, wanted[name], rtol=0, atol=1e-2 * scale)
    assert wanted["optimizer.momentum_buffer.fc8.weight"].abs().max() > 1e-3  # there was something to share


def test_what_is_frozen_does_not_learn(recipe, tmp_path):
    start = loop.train(replace(recipe, steps=1, validate_every=1, rate=0.0), tmp_path / "start")
    trained = train(
        replace(recipe, init=str(start), frozen=("conv1", "conv4_3"), rate=1e-3), tmp_path / "trained"
    )
    before, after = tensors(start), tensors(trained)
    for name, value in after.items():
        frozen = name.startswith(("conv1", "conv4_3"))
        assert torch.equal(value, before[name]) == frozen, name
    with pytest.raises(
        ValueError, match="got frozen layers 'conv9', but no layer begins so; layers: conv1_1"
    ):
        train(replace(recipe, frozen=("conv9",)), tmp_path / "wrong")


def test_second_stage_of_multi_scale(recipe, tmp_path):
    first = train(replace(recipe, steps=1, validate_every=1), tmp_path / "first")
    second = replace(
        recipe,
        variant="deeplab-msc-largefov",
        init=str(first),
        frozen=("conv", "fc"),
        last_layer_rate=1.0,
        steps=2,
    )
    before, after = tensors(first), tensors(train(second, tmp_path / "second"))
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert len([name for name in after if name.startswith("branches")]) == 30


def test_other_classes_keep_what_they_know_by_name(recipe, tmp_path, capsys):
    first = train(replace(recipe, steps=1, validate_every=1), tmp_path / "first")
    network, card = deeplab.weights.store.load_weights(first)
    other, names = deeplab.weights.replace_classes(network, card, ["background", "lamp", "cat"])[:2]
    deeplab.weights.store.save_weights(tmp_path / "other.safetensors", other, names)
    train(
        replace(recipe, steps=1, validate_every=1, init=str(tmp_path / "other.safetensors")),
        tmp_path / "back",
    )
    assert "kept by name: background, cat" in capsys.readouterr().err


def test_it_learns(recipe, tmp_path):
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
    photo = Path(recipe.data) / "JPEGImages/4.jpg"
    labels = np.asarray(Image.open(Path(recipe.data) / "SegmentationClass/4.png"))
    found = deeplab.load(weights=weights).segment(photo, crf=False).labels
    cat, there = (found == 8)[labels != 255], (labels == 8)[labels != 255]
    assert (cat & there).sum() / (cat | there).sum() > 0.4  # intersection over union; 0 before


def test_photos_in_memory_train_to_the_same_weights_after_a_stop(recipe, tmp_path):
    recipe = replace(
        recipe,
        in_memory=True,
        memory_side=96,
        mix=0.5,
        jitter=0.2,
        scale_low=0.8,
        scale_high=1.2,
        steps=2,
        validate_every=2,
        policy="constant",
    )
    whole = train(recipe, tmp_path / "whole")
    train(replace(recipe, steps=1), tmp_path / "parts")
    stopped = tmp_path / "parts"
    record = json.loads((stopped / "recipe.json").read_text()) | {"steps": 2}
    del (
        record["dice"],
        record["focal"],
    )  # as of a run begun before there were these keys; they have their usual values
    (stopped / "recipe.json").write_text(json.dumps(record))
    train(recipe, stopped, resume=True)
    assert same(whole.with_name("last.safetensors"), stopped / "last.safetensors")


@pytest.mark.parametrize(("options", "wanted"), [({}, 90), ({"in_memory": True, "memory_side": 80}, 80)])
def test_the_card_has_the_size_of_the_photos_trained_on(recipe, tmp_path, monkeypatch, options, wanted):
    monkeypatch.setattr("deeplab.training.setup.LONGEST_SIDE", 64)
    weights = train(replace(recipe, steps=1, validate_every=1, **options), tmp_path)
    assert deeplab.load(weights=weights).card.size == wanted


def test_best_is_kept_and_patience_ends(recipe, tmp_path, monkeypatch):
    values = iter([0.3, 0.5, 0.4, 0.2, 0.9])
    real = loop.evaluate

    def scored(*arguments, **options):
        scores = real(*arguments, **options)
        value = next(values)
        monkeypatch.setattr(type(scores), "mean_iou", property(lambda _: value))
        return scores

    monkeypatch.setattr(loop, "evaluate", scored)
    weights = train(replace(recipe, steps=20, validate_every=1, patience=2), tmp_path)
    assert deeplab.load(weights=weights).card.provenance["step"] == 2
    assert deeplab.load(weights=tmp_path / "last.safetensors").card.provenance["step"] == 4
    assert deeplab.load(weights=weights).card.size == LONGEST_SIDE  # the photos are smaller
    assert [r["step"] for r in records(tmp_path) if "mIoU-7" in r] == [1, 2, 3, 4]


def test_a_loss_that_is_no_number_stops_the_run(recipe, tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"the loss is .* at step \d+; nothing of this step was kept"
    ):
        train(replace(recipe, rate=1e30), tmp_path)
    assert (tmp_path / "checkpoint.safetensors").is_file()


def test_a_damaged_photo_in_mid_epoch(recipe, tmp_path, capsys):
    data = tmp_path / "data"
    subprocess.run(["cp", "-r", recipe.data, data], check=True)
    (data / "JPEGImages/2.jpg").write_bytes(b"not a photo")
    train(replace(recipe, data=str(data), steps=4, validate_every=4), tmp_path / "out")
    errors = capsys.readouterr().err
    assert errors.count("another photo takes its place") == 1
    assert "2.jpg" in errors
    for i in (0, 1, 3):
        (data / f"JPEGImages/{i}.jpg").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"photos cannot be used by now, so the run stops: deeplab check-data"
    ):
        train(replace(recipe, data=str(data)), tmp_path / "none")


def test_a_full_disk_leaves_the_last_checkpoint(recipe, tmp_path, monkeypatch):
    real, written = loop.save_checkpoint, []

    def full(folder, *rest):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(real(folder, *rest))

    monkeypatch.setattr(loop, "save_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        train(recipe, tmp_path / "full")
    monkeypatch.setattr(loop, "save_checkpoint", real)
    assert same(train(recipe, tmp_path / "full"), train(recipe, tmp_path / "whole"))


def test_the_folder_tells_the_whole_story(recipe, tmp_path):
    pytest.importorskip("tensorboard")
    train(replace(recipe, tensorboard=True), tmp_path)
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["versions"]["torch"] == torch.__version__
    assert {"commit", "command", "machine", "started"} <= set(facts)
    kept = json.loads((tmp_path / "recipe.json").read_text())
    assert kept["crop"] == 65
    assert list((tmp_path / "tensorboard").glob("events.*"))
    card = json.loads((tmp_path / "weights.json").read_text())
    assert card["provenance"]["recipe"]["data"] == Path(recipe.data).name  # no path of this machine
    with pytest.raises(ValueError, match="holds a run with other steps"):
        train(replace(recipe, steps=5, tensorboard=True), tmp_path)
    damaged = tmp_path / "checkpoint.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a checkpoint of this run"):
        train(replace(recipe, tensorboard=True), tmp_path)


def test_one_run_a_folder(recipe, tmp_path):
    run = loop.Run(tmp_path, recipe)
    with pytest.raises(BlockingIOError, match="another run works in this folder"):
        train(recipe, tmp_path)
    run.close()


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
    with pytest.raises(FileNotFoundError, match="holds no run to go on with"):
        train(recipe, tmp_path / "empty", resume=True)


def test_folding_changes_nothing():
    torch.manual_seed(1)
    network = build(classes=3)
    add_batch_norm(network)
    network.train()
    for _ in range(3):
        network.scores_from_pool4(torch.rand(4, 512, 6, 9))
    network.eval()
    features = torch.rand(1, 512, 6, 9)
    with torch.inference_mode():
        wanted = network.scores_from_pool4(features)
        fold_batch_norm(network)
        torch.testing.assert_close(network.scores_from_pool4(features), wanted, rtol=1e-3, atol=1e-4)
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
