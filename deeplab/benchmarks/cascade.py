"""Measures how long the network and the whole cascade take with the shipped weights.

    python deeplab/benchmarks/cascade.py --out results/bench-deeplab.json

Writes medians as JSON: the network beside plain eager fp32 torch, the CRF, photo to labels, peak memory, and
start-up times. ``--agreement VOC`` also counts, on the val photos of a folder in VOC's layout, the labels
that are the same in bfloat16 as in fp32.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import peak_of_prediction, processor, write_record
from PIL import Image
from timing import best_of_three, in_turns
from tqdm import tqdm

import deeplab
from deeplab.datasets.opening import open_dataset
from deeplab.network.layer_table import describe
from deeplab.network.preprocessing import prepare
from deeplab.network.winograd import Convolution3x3

PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "astronaut.jpg"
SIZES = ((321, 321), (513, 513), (500, 375))
"""Widths and heights."""


@torch.inference_mode()
def scores(network: deeplab.Model | torch.nn.Module, batch: torch.Tensor) -> object:
    """Class scores at stride 8.

    Args:
        network: the network alone, or a model, which gets its batch in channels-last order.
        batch: (B, 3, H, W) prepared photos.
    """
    if isinstance(network, deeplab.Model):
        return network.predictor.network(batch.contiguous(memory_format=torch.channels_last))
    return network(batch)


def labels(model: deeplab.Model, photo: np.ndarray) -> np.ndarray:
    """Labels of the whole cascade, (H, W) uint8."""
    return model.segment(photo).labels


def plain_eager(network: torch.nn.Module) -> torch.nn.Module:
    """A copy without our optimizations: direct convolutions, channels first."""
    plain = copy.deepcopy(network)
    for layer in plain.modules():
        if isinstance(layer, Convolution3x3):
            layer.fast = False
    return plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def times(
    model: deeplab.Model, fp32: deeplab.Model, eager: torch.nn.Module, runs: int
) -> dict[str, dict[str, float]]:
    """Seconds of each step at each size, and the speed-up of the network over plain eager fp32.

    Args:
        model: in the default precision.
        fp32: the same weights in fp32.
        eager: the fp32 network without our optimizations.
        runs: number of rounds.
    """
    table: dict[str, dict[str, float]] = {}
    for width, height in SIZES:
        with Image.open(PHOTO) as file:
            photo = np.asarray(file.resize((width, height)))
        plain = model.segment(photo, crf=False)
        methods: dict[str, Callable[[], object]] = {
            "network, plain eager fp32": partial(scores, eager, prepare(photo)),
            "network, fp32": partial(scores, fp32, prepare(photo)),
            "network": partial(scores, model, prepare(photo)),
            "photo to probabilities": partial(model.predictor.probabilities, [photo]),
            "CRF": partial(model.refine, plain),
            "photo to labels": partial(labels, model, photo),
        }
        seconds = in_turns(methods, runs)
        table |= {f"{name}, {width}x{height}": figures for name, figures in seconds.items()}
        ours, theirs = seconds["network"], seconds["network, plain eager fp32"]
        table[f"network against plain eager fp32, {width}x{height}"] = {
            "median": round(theirs["median s"] / ours["median s"], 2),
            "best": round(theirs["best s"] / ours["best s"], 2),
        }
    return table


def agreement(data: Path) -> dict[str, float]:
    """Percentage of labels on the val photos that are the same in bfloat16 as in fp32."""
    models = [deeplab.load(precision=precision) for precision in ("fp32", "bf16")]
    same = {"network": 0, "network + CRF": 0}
    pixels = 0
    for sample in tqdm(open_dataset(data, "val"), unit="photo", disable=None):
        plain = [model.segment(sample.photo, crf=False) for model in models]
        refined = [model.refine(result) for model, result in zip(models, plain, strict=True)]
        pixels += plain[0].labels.size
        for name, results in (("network", plain), ("network + CRF", refined)):
            same[name] += int((results[0].labels == results[1].labels).sum())
    return {name: round(100 * count / pixels, 4) for name, count in same.items()}


def matrix_rate(dtype: torch.dtype) -> float:
    """10⁹ multiplications a second of a product of two large matrices, an upper bound of the network's."""
    matrix = torch.randn(2048, 2048).to(dtype)
    return round(2.048**3 / in_turns({"product": lambda: matrix @ matrix}, 7)["product"]["best s"], 0)


def loading_seconds() -> float:
    """Seconds to load the shipped weights."""
    started = time.perf_counter()
    deeplab.load()
    return round(time.perf_counter() - started, 3)


def measure(runs: int) -> dict[str, Any]:
    """The record without agreement.

    Args:
        runs: number of rounds.
    """
    model = deeplab.load()
    fp32 = deeplab.load(precision="fp32")
    assert isinstance(fp32.network, torch.nn.Module)
    giga = sum(row.multiplications for row in describe(height=513, width=513)) / 1e9
    return {
        "date": date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "threads": torch.get_num_threads(),
        "precision": str(model.predictor.dtype).removeprefix("torch."),
        "versions": {
            "deeplab": deeplab.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "runs": runs,
        "paper": {"network, 306x306": "0.125 s on a Titan GPU", "CRF": "under 0.5 s on a CPU"},
        "seconds": times(model, fp32, plain_eager(fp32.network), runs),
        "floor": {
            "10^9 multiplications at 513x513": round(giga, 1),
            "10^9 multiplications a second of a bfloat16 matrix product": matrix_rate(torch.bfloat16),
            "of an fp32 matrix product": matrix_rate(torch.float32),
        },
        "peak MB at 513x513": {p: peak_of_prediction(precision=p) for p in ("auto", "fp32")},
        "load the shipped weights, s": loading_seconds(),
        "deeplab --help, s": best_of_three([str(Path(sys.executable).with_name("deeplab")), "--help"]),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--runs", type=int, default=9, help="rounds of each measurement")
    parser.add_argument("--agreement", type=Path, metavar="VOC", help="folder in VOC's layout")
    options = parser.parse_args()
    record = measure(options.runs)
    if options.agreement is not None:
        record["labels as in fp32, %"] = agreement(options.agreement)
    write_record(record, options.out)


if __name__ == "__main__":
    main()
