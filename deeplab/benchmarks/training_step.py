"""Measures how long a training step of LargeFOV takes: loading, forward, backward and update.

    python deeplab/benchmarks/training_step.py --out results/bench-training.json

Writes medians as JSON: 8 crops of 321×321, conv1 and conv2 frozen, SGD.
"""

from __future__ import annotations

import argparse
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
from machine import peak_megabytes, processor, write_record
from PIL import Image

import deeplab
from deeplab.datasets.opening import Sample
from deeplab.network.architecture import DeepLab, build
from deeplab.network.bfloat16 import compute_dtype
from deeplab.network.preprocessing import Preparation
from deeplab.training.augmentation import Augmentation
from deeplab.training.batches import Batches
from deeplab.training.losses import cross_entropy_sum, weight_of
from deeplab.training.optimizer import freeze, make_optimizer, rate_at, set_rates
from deeplab.training.recipe import Recipe

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
RECIPE = Recipe(
    data="", crop=321, batch=8, frozen=("conv1", "conv2"), scale_low=0.7, scale_high=1.4, jitter=0.2
)
PARTS = ("load", "forward", "backward", "update")
WARM_UP = 2
"""Number of steps that are not counted."""


def write_samples(folder: Path, count: int) -> list[Sample]:
    """Write photos of VOC's size with random labels.

    Args:
        folder: where to write.
        count: number of samples.
    """
    sources = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))]
    rng = np.random.default_rng(0)
    samples = []
    for number in range(count):
        photo, labels = folder / f"{number}.jpg", folder / f"{number}.png"
        sources[number % len(sources)].resize((500, 375)).save(photo, quality=92)
        blocks = np.kron(rng.integers(0, 21, (15, 20)), np.ones((25, 25))).astype(np.uint8)
        Image.fromarray(blocks).save(labels)
        samples.append(Sample(str(number), photo, labels))
    return samples


def batches_for(samples: list[Sample], network: DeepLab) -> Batches:
    """Batches as the recipe makes them.

    Args:
        samples: photos and labels.
        network: the network that they are for.
    """
    augmentation = Augmentation(
        RECIPE.crop, RECIPE.mirror, RECIPE.scale_low, RECIPE.scale_high, RECIPE.jitter
    )
    return Batches(
        [samples],
        network.variant,
        Preparation(),
        augmentation,
        batch=RECIPE.batch,
        extra=0,
        slots=slice(0, RECIPE.batch),
        seed=0,
        workers=RECIPE.workers,
        warn=print,
    )


def time_steps(folder: Path, dtype: torch.dtype, steps: int) -> dict[str, list[float]]:
    """Seconds of each part of every step.

    Args:
        folder: for the samples.
        dtype: of autocast.
        steps: number of steps after the warm-up.
    """
    torch.manual_seed(0)
    network = build(RECIPE.variant).train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    freeze(network, RECIPE.frozen)
    optimizer = make_optimizer(network, RECIPE)
    batches = batches_for(write_samples(folder, 32), network).from_step(0)
    times: dict[str, list[float]] = {part: [] for part in PARTS}
    for step in range(steps + WARM_UP):
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
        set_rates(optimizer, rate_at(RECIPE, step))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        marks.append(time.perf_counter())
        if step >= WARM_UP:
            for part, seconds in zip(PARTS, np.diff(marks), strict=True):
                times[part].append(float(seconds))
    batches.close()
    return times


def measure(steps: int) -> dict[str, object]:
    """Medians of the parts of a step.

    Args:
        steps: number of steps.
    """
    dtype = compute_dtype(RECIPE.precision, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        times = time_steps(Path(folder), dtype, steps)
    medians = {part: round(statistics.median(seconds), 4) for part, seconds in times.items()}
    whole = sum(medians.values())
    return {
        "precision": str(dtype).removeprefix("torch."),
        "median s": medians | {"step": round(whole, 4)},
        "crops a second": round(RECIPE.batch / whole, 2),
        "loading, share of the step, %": round(100 * medians["load"] / whole, 2),
        "peak MB": peak_megabytes(),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--steps", type=int, default=5, help="number of steps")
    options = parser.parse_args()
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
        "step": measure(options.steps),
    }
    write_record(record, options.out)


if __name__ == "__main__":
    main()
