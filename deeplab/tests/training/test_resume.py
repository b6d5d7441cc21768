"""Runs that are stopped, killed or fail, and are started again; and runs that have ended."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

import deeplab
from deeplab.training.loop import train
from deeplab.training.recipe import Recipe
from training_runs import log_lines, same_weights, validations

pytest.importorskip("lightning_fabric")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning_fabric")

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
    "unfrozen later": {"frozen": ("conv",), "frozen_for": 2},
}


@contextmanager
def signal_after_each_step():
    """This process gets a SIGTERM whenever an optimizer has taken a step."""
    hook = register_optimizer_step_post_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("changes", VARIETY.values(), ids=VARIETY)
def test_a_stopped_run_ends_as_one_that_was_never_stopped(recipe, tmp_path, changes):
    recipe = replace(recipe, **changes)
    whole = train(recipe, tmp_path / "whole")
    with signal_after_each_step():
        for step in (1, 2, 3):
            message = f"stopped after step {step} of 4; give the same command again to resume"
            with pytest.raises(KeyboardInterrupt, match=message):
                train(recipe, tmp_path / "parts")
    parts = train(recipe, tmp_path / "parts", resume=True)
    assert same_weights(whole, parts)
    without_time = [
        [{key: value for key, value in line.items() if key != "seconds"} for line in log_lines(path.parent)]
        for path in (whole, parts)
    ]
    assert without_time[0] == without_time[1]
    assert [line["step"] for line in validations(whole.parent)] == [2, 4]


def command(recipe, out):
    """The command line that trains in a process of its own."""
    defaults = Recipe(data="")
    settings = [
        f"--set={key}={value}" for key, value in vars(recipe).items() if value != getattr(defaults, key)
    ]
    path = out.with_suffix(".toml")
    path.write_text("")
    return [sys.executable, "-m", "deeplab", "train", str(path), "--out", str(out), *settings]


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
    assert same_weights(whole, out / "weights.safetensors")


def test_a_full_disk_leaves_the_last_checkpoint(recipe, tmp_path, monkeypatch):
    written = []

    def replace_file(source, target):
        if Path(target).name == "checkpoint.safetensors":
            if len(written) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(target)
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_file)
        with pytest.raises(OSError, match="No space left"):
            train(recipe, tmp_path / "full")
    assert same_weights(train(recipe, tmp_path / "full"), train(recipe, tmp_path / "whole"))


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
    stopped = tmp_path / "parts"
    train(replace(recipe, steps=1), stopped)
    stored = json.loads((stopped / "recipe.json").read_text()) | {"steps": 2}
    del stored["dice"], stored["focal"]  # as if the run were older than these keys: they have their defaults
    (stopped / "recipe.json").write_text(json.dumps(stored))
    train(recipe, stopped, resume=True)
    assert same_weights(whole.with_name("last.safetensors"), stopped / "last.safetensors")


def test_early_stopping_keeps_the_best_and_ends_the_run_for_good(recipe, tmp_path, capsys):
    # From step 2 on the rate is zero, so that the score stays the same and cannot get better.
    recipe = replace(recipe, steps=20, validate_every=1, patience=2, step_size=2, gamma=0.0)
    weights = train(recipe, tmp_path)
    scores = [line["mIoU-21"] for line in validations(tmp_path)]
    best = 1 + int(np.argmax(scores))
    assert [line["step"] for line in validations(tmp_path)] == list(range(1, best + 3))
    assert deeplab.load(weights=weights).card.provenance["step"] == best
    last = tmp_path / "last.safetensors"
    assert deeplab.load(weights=last).card.provenance["step"] == best + 2

    log = log_lines(tmp_path)
    capsys.readouterr()
    for resume in (False, True):
        assert train(recipe, tmp_path, resume=resume) == weights
        message = capsys.readouterr().err
        assert f"early stopping ended it after step {best + 2} of 20" in message
        assert f"no better than that of step {best}" in message
    assert log_lines(tmp_path) == log


def test_a_run_whose_steps_are_done_says_so(recipe, tmp_path, capsys):
    recipe = replace(recipe, steps=1, validate_every=1, validate_photos=1)
    weights = train(recipe, tmp_path)
    capsys.readouterr()
    assert train(recipe, tmp_path) == weights
    assert "this run is finished: all 1 steps are done" in capsys.readouterr().err


def test_a_run_that_never_began_leaves_its_folder_to_a_corrected_recipe(recipe, cats, tmp_path):
    out = tmp_path / "out"
    data = tmp_path / "data"
    shutil.copytree(cats, data)
    for number in range(4):
        (data / f"JPEGImages/{number}.jpg").write_bytes(b"not a photo")
    frozen = ("conv1", "conv2", "conv3", "conv4")
    recipe = replace(recipe, steps=1, validate_every=1, class_weights="median")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train(replace(recipe, data="nowhere"), out)
    with pytest.raises(ValueError, match="deeplab check-data"):
        train(replace(recipe, data=str(data)), out)
    with pytest.raises(ValueError, match="needs one process"):
        train(replace(recipe, cached_views=1), out)
    # What was counted and cached by the recipes before is not used by the next one.
    (out / "cache-0").mkdir()
    (out / "cache-0/views.json").write_text('{"sizes": []}')
    (out / "class-counts.json").write_text("[]")
    train(replace(recipe, cached_views=1, frozen=frozen), out)
    assert len(json.loads((out / "cache-0/views.json").read_text())["sizes"]) == 4
    assert len(json.loads((out / "class-counts.json").read_text())) == 21
    with pytest.raises(ValueError, match="holds a run with other rate"):
        train(replace(recipe, cached_views=1, frozen=frozen, rate=1.0), out)
