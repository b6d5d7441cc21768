"""Training of the shipped networks on one GPU: short comparisons, LargeFOV, then MSc-LargeFOV on top of it.

Question: Which optimizer, soft targets and augmentation train LargeFOV best in a few minutes on a GPU?

Command:
    python gpu_training.py --recipes deeplab/recipes --data PACK --teacher teacher.npz --imagenet VGG16.npz \
        --stages compare,largefov,msc --seconds 270 --out runs

Writes: OUT/gpu-training.json after every run, from which results/gpu-training.md is made, and a folder for each
run.

The comparisons train voc-gpu.toml and changes of it for the same few hundred steps and score each on
``val_choose``; the better of the two optimizers then trains the network. Its number of steps is what fits into
``--seconds`` at the speed of the comparisons. ``--small`` does everything with a handful of crops, to try it out
on a CPU.
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
OPTIMISERS = ("recipe", "sgd")
SMALL: dict[str, Any] = {
    "crop": 97,
    "batch": 4,
    "workers": 2,
    "memory_side": 128,
    "precision": "fp32",
    "warmup": 1,
    "validate_photos": 2,
}


def run(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Train, and give the seconds that steps took, crops a second and the last validation's scores."""
    begun = time.time()
    train(recipe, out)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "seconds" in line and "loss" in line]
    scores = [line for line in lines if "pixel accuracy" in line]
    late = [line for line in steps if line["step"] > 20] or steps
    span = late[-1]["seconds"] - late[0]["seconds"]
    speed = recipe.batch * (late[-1]["step"] - late[0]["step"]) / span if span > 0 else 0.0
    return {
        "steps": recipe.steps,
        "batch": recipe.batch,
        "crop": recipe.crop,
        "wall_s": time.time() - begun,
        "train_s": steps[-1]["seconds"],
        "crops_per_s": speed,
        "loss": steps[-1]["loss"],
        "scores": scores,
    }


def main() -> None:
    """Run the stages that were asked for, in order."""
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
    parser.add_argument("--seconds", type=float, default=270, help="for the steps of LargeFOV")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    report_file = options.out / "gpu-training.json"
    report: dict[str, Any] = json.loads(report_file.read_text()) if report_file.is_file() else {}
    if torch.cuda.is_available():
        report["device"] = torch.cuda.get_device_name()
    report["torch"] = torch.__version__
    small: dict[str, Any] = SMALL if options.small else {}

    def keep(name: str, found: dict[str, Any]) -> None:
        report[name] = found
        write_whole(report_file, (json.dumps(report, indent=1) + "\n").encode())
        print(name, json.dumps(found), flush=True)

    data, teacher = str(options.data), (str(options.teacher),)
    largefov = read_recipe(options.recipes / "voc-gpu.toml")
    largefov = replace(largefov, data=data, teacher=teacher, init=str(options.imagenet or ""), **small)
    weights = options.out / "voc-gpu" / "weights.safetensors"
    for stage in options.stages.split(","):
        if stage == "compare":
            steps = options.compare_steps
            for name, changes in COMPARED.items():
                recipe = replace(
                    largefov,
                    steps=steps,
                    warmup=min(60, steps // 4),
                    validate_every=steps,
                    checkpoint_every=steps,
                    ema=0.99,
                    **changes,
                )
                keep(f"compare {name}", run(recipe, options.out / f"compare-{name.replace(' ', '-')}"))
        elif stage == "largefov":
            recipe = largefov
            known = [name for name in OPTIMISERS if f"compare {name}" in report]
            if known:
                best = max(known, key=lambda name: float(report[f"compare {name}"]["scores"][-1]["mIoU-21"]))
                speed = report[f"compare {best}"]["crops_per_s"]
                steps = max(10, min(12000, int(speed * options.seconds / recipe.batch)))
                every = -(-steps // 4)
                recipe = replace(
                    recipe, steps=steps, validate_every=every, checkpoint_every=every, **COMPARED[best]
                )
            keep("largefov", run(recipe, weights.parent))
        elif stage == "msc":
            recipe = read_recipe(options.recipes / "voc-gpu-msc.toml")
            changed = small | ({"steps": 10, "validate_every": 10} if small else {})
            keep(
                "msc",
                run(
                    replace(recipe, data=data, teacher=teacher, init=str(weights), **changed),
                    options.out / "voc-gpu-msc",
                ),
            )
        elif stage == "camvid":
            recipe = read_recipe(options.recipes / "camvid-gpu.toml")
            changed = small | ({"steps": 10, "validate_every": 10} if small else {})
            last = weights.with_name("last.safetensors")
            recipe = replace(recipe, data=str(options.camvid), init=str(last), **changed)
            keep("camvid", run(recipe, options.out / "camvid"))
        else:
            parser.error(f"got stage {stage!r}, wanted compare, largefov, msc or camvid")


if __name__ == "__main__":
    main()
