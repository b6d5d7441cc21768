"""Training of the shipped networks on one GPU: short comparisons, LargeFOV, then MSc-LargeFOV on top of it.

Question: Which optimizer, soft targets and augmentation train LargeFOV best in a few minutes on a GPU?

Command:
    python gpu_training.py --recipes deeplab/recipes --data PACK --teacher teacher.npz --imagenet VGG16.npz \
        --stages compare,largefov,msc --seconds 270 --out runs

Writes: OUT/gpu-training.json after every run, from which results/gpu-training.md is made, and a folder
for each run.

The comparisons train voc-gpu.toml and changes of it for the same few hundred steps and score each on
``val_choose``; the better of the two optimizers then trains the network. Its number of steps is what fits
into ``--seconds`` at the speed of the comparisons. ``--small`` does everything with a handful of crops,
to try it out on a CPU.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from deeplab.files import write_whole
from deeplab.training.loop import train
from deeplab.training.recipe import Recipe, read_recipe

COMPARED: dict[str, dict[str, Any]] = {
    "recipe": {},
    "sgd": {"optimizer": "sgd", "rate": 2e-3, "weight_decay": 5e-4, "bias_rate": 2.0, "clip": 10.0},
    "labels alone": {"teacher": (), "teacher_share": 0.0},
    "nothing pasted": {"mix": 0.0},
}
"""Changes of voc-gpu.toml by the name of the comparison."""
OPTIMIZERS = ("recipe", "sgd")
"""Comparisons of which the better one trains the network."""
SMALL: dict[str, Any] = {
    "crop": 97,
    "batch": 4,
    "workers": 2,
    "memory_side": 128,
    "precision": "fp32",
    "warmup": 1,
    "validate_photos": 2,
}
SMALL_STEPS: dict[str, Any] = {"steps": 10, "validate_every": 10}
MIN_STEPS = 10
MAX_STEPS = 12000
WARM_UP_STEPS = 20
"""Steps at the start of a run that do not count for its speed."""


def run(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Train, and read speed and scores from the log.

    Args:
        recipe: the run.
        out: its folder.

    Returns:
        Seconds of the whole run and of its steps, crops a second, the last loss and all validation scores.
    """
    started = time.time()
    train(recipe, out)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "seconds" in line and "loss" in line]
    scores = [line for line in lines if "pixel accuracy" in line]
    late = [line for line in steps if line["step"] > WARM_UP_STEPS] or steps
    seconds = late[-1]["seconds"] - late[0]["seconds"]
    crops = recipe.batch * (late[-1]["step"] - late[0]["step"])
    return {
        "steps": recipe.steps,
        "batch": recipe.batch,
        "crop": recipe.crop,
        "wall_s": time.time() - started,
        "train_s": steps[-1]["seconds"],
        "crops_per_s": crops / seconds if seconds > 0 else 0.0,
        "loss": steps[-1]["loss"],
        "scores": scores,
    }


class Stages:
    """The stages of the training, which share a report and a folder."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.out: Path = options.out
        self.report_file = self.out / "gpu-training.json"
        self.report: dict[str, Any] = {}
        if self.report_file.is_file():
            self.report = json.loads(self.report_file.read_text())
        if torch.cuda.is_available():
            self.report["device"] = torch.cuda.get_device_name()
        self.report["torch"] = torch.__version__
        self.data: dict[str, Any] = {"data": str(options.data), "teacher": (str(options.teacher),)}
        self.small = SMALL if options.small else {}
        self.small_steps = SMALL | SMALL_STEPS if options.small else {}
        self.voc_gpu = replace(
            read_recipe(options.recipes / "voc-gpu.toml"),
            init=str(options.imagenet or ""),
            **self.data,
            **self.small,
        )
        self.weights = self.out / "voc-gpu" / "weights.safetensors"

    def compare(self) -> None:
        """Train each change of the recipe for the same few steps."""
        steps = self.options.compare_steps
        for name, changes in COMPARED.items():
            recipe = replace(
                self.voc_gpu,
                steps=steps,
                warmup=min(60, steps // 4),
                validate_every=steps,
                checkpoint_every=steps,
                ema=0.99,
                **changes,
            )
            self._run(f"compare {name}", recipe, self.out / f"compare-{name.replace(' ', '-')}")

    def largefov(self) -> None:
        """Train LargeFOV with the better optimizer, for the steps that fit into the time."""
        recipe = self.voc_gpu
        compared = [name for name in OPTIMIZERS if f"compare {name}" in self.report]
        if compared:
            best = max(compared, key=self._compared_score)
            crops_per_second = self.report[f"compare {best}"]["crops_per_s"]
            steps = int(crops_per_second * self.options.seconds / recipe.batch)
            steps = max(MIN_STEPS, min(MAX_STEPS, steps))
            every = -(-steps // 4)
            recipe = replace(
                recipe, steps=steps, validate_every=every, checkpoint_every=every, **COMPARED[best]
            )
        self._run("largefov", recipe, self.weights.parent)

    def msc(self) -> None:
        """Train the multi-scale classifiers on top of the best LargeFOV."""
        recipe = read_recipe(self.options.recipes / "voc-gpu-msc.toml")
        recipe = replace(recipe, init=str(self.weights), **self.data, **self.small_steps)
        self._run("msc", recipe, self.out / "voc-gpu-msc")

    def camvid(self) -> None:
        """Train on CamVid from the last LargeFOV."""
        last = self.weights.with_name("last.safetensors")
        recipe = read_recipe(self.options.recipes / "camvid-gpu.toml")
        recipe = replace(recipe, data=str(self.options.camvid), init=str(last), **self.small_steps)
        self._run("camvid", recipe, self.out / "camvid")

    def _compared_score(self, name: str) -> float:
        return float(self.report[f"compare {name}"]["scores"][-1]["mIoU-21"])

    def _run(self, name: str, recipe: Recipe, out: Path) -> None:
        """Train and add the result to the report."""
        result = run(recipe, out)
        self.report[name] = result
        write_whole(self.report_file, (json.dumps(self.report, indent=1) + "\n").encode())
        print(name, json.dumps(result), flush=True)


def main() -> None:
    """Run the stages of the command line, in their order."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder made by training_pack.py")
    parser.add_argument(
        "--teacher", type=Path, required=True, help="scores of its photos, see strong_teacher.py"
    )
    parser.add_argument("--imagenet", type=Path, help="VGG-16 with ImageNet's weights")
    parser.add_argument("--camvid", type=Path, help="folder of CamVid, for the stage camvid")
    parser.add_argument("--stages", default="compare,largefov,msc")
    parser.add_argument("--compare-steps", type=int, default=450)
    parser.add_argument("--seconds", type=float, default=270, help="time for the steps of LargeFOV")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    stages = Stages(options)
    known = {
        "compare": stages.compare,
        "largefov": stages.largefov,
        "msc": stages.msc,
        "camvid": stages.camvid,
    }
    for stage in options.stages.split(","):
        if stage not in known:
            parser.error(f"got stage {stage!r}, wanted one of: {', '.join(known)}")
        known[stage]()


if __name__ == "__main__":
    main()
