"""Time a training step of LargeFOV and split its cost: loading, forward, backward, update. Writes JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from contextlib import nullcontext
from datetime import date
from pathlib import Path

import numpy as np
import torch
from machine import processor
from PIL import Image

import deeplab
from deeplab.datasets.opening import Sample
from deeplab.network.architecture import build
from deeplab.network.bfloat16 import compute_dtype
from deeplab.network.preprocessing import Preparation
from deeplab.training.augmentation import Augmentation
from deeplab.training.batches import Batches
from deeplab.training.losses import cross_entropy_sum, weight_of
from deeplab.training.optimizer import freeze, make_optimizer, rate_at, set_rates
from deeplab.training.recipe import Recipe

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


def pairs_in(folder: Path, count: int) -> list[Sample]:
    """Photos of VOC's size with labels, as files."""
    found = []
    sources = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))]
    rng = np.random.default_rng(0)
    for number in range(count):
        photo, labels = folder / f"{number}.jpg", folder / f"{number}.png"
        sources[number % len(sources)].resize((500, 375)).save(photo, quality=92)
        blocks = np.kron(rng.integers(0, 21, (15, 20)), np.ones((25, 25))).astype(np.uint8)
        Image.fromarray(blocks).save(labels)
        found.append(Sample(str(number), photo, labels))
    return found


def measure(recipe: Recipe, steps: int) -> dict[str, object]:
    """Median seconds of each part of a step, after two that do not count."""
    dtype = compute_dtype(recipe.precision, torch.device("cpu"))
    torch.manual_seed(0)
    network = build(recipe.variant).train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    freeze(network, recipe.frozen)
    optimizer = make_optimizer(network, recipe)
    times: dict[str, list[float]] = {"load": [], "forward": [], "backward": [], "update": []}
    with tempfile.TemporaryDirectory() as name:
        how = Augmentation(recipe.crop, recipe.mirror, recipe.scale_low, recipe.scale_high, recipe.jitter)
        batches = Batches(
            [pairs_in(Path(name), 32)],
            network.variant,
            Preparation(),
            how,
            batch=recipe.batch,
            extra=0,
            slots=slice(0, recipe.batch),
            seed=0,
            workers=recipe.workers,
            warn=print,
        ).from_step(0)
        for step in range(steps + 2):
            marks = [time.perf_counter()]
            photos, targets = next(batches)
            photos = photos.contiguous(memory_format=torch.channels_last)
            marks.append(time.perf_counter())
            with torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext():
                scores = network(photos)
            loss = cross_entropy_sum(scores.float(), targets) / weight_of(targets)
            marks.append(time.perf_counter())
            loss.backward()  # type: ignore[no-untyped-call]
            marks.append(time.perf_counter())
            set_rates(optimizer, rate_at(recipe, step))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            marks.append(time.perf_counter())
            if step >= 2:
                for part, spent in zip(times, np.diff(marks), strict=True):
                    times[part].append(float(spent))
        batches.close()
    medians = {part: round(statistics.median(spent), 4) for part, spent in times.items()}
    whole = sum(medians.values())
    status = Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").is_file() else []
    peak = next((int(line.split()[1]) * 1024 // 10**6 for line in status if line.startswith("VmHWM")), None)
    return {
        "precision": str(dtype).removeprefix("torch."),
        "median s": medians | {"step": round(whole, 4)},
        "crops a second": round(recipe.batch / whole, 2),
        "loading, share of the step, %": round(100 * medians["load"] / whole, 2),
        "peak MB": peak,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    recipe = Recipe(
        data="", crop=321, batch=8, frozen=("conv1", "conv2"), scale_low=0.7, scale_high=1.4, jitter=0.2
    )
    record = {
        "date": date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "versions": {
            "deeplab": deeplab.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
        "what": "LargeFOV, 8 crops of 321×321, conv1 and conv2 frozen, SGD",
        "step": measure(recipe, options.steps),
    }
    print(json.dumps(record, indent=2))
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
