"""Time the network and the whole cascade with the shipped weights, beside plain eager fp32, and write medians
as JSON.

The ways take turns, so that a noisy machine is noisy to all. ``--agreement`` also counts, on the photos of a
VOC list, the labels that differ from fp32's.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import processor
from PIL import Image
from tqdm import tqdm

import deeplab
from deeplab.datasets.opening import open_dataset
from deeplab.network.layer_table import describe
from deeplab.network.preprocessing import prepare
from deeplab.network.winograd import Convolution3x3

PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "astronaut.jpg"
SIZES = ((321, 321), (513, 513), (500, 375))


def in_turns(ways: dict[str, Callable[[], object]], runs: int) -> dict[str, dict[str, float]]:
    """Median and best wall time of each way, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(runs + 1):
        for name, work in ways.items():
            started = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - started)
    return {
        name: {"median s": round(statistics.median(spent), 4), "best s": round(min(spent), 4)}
        for name, spent in times.items()
    }


@torch.inference_mode()
def scores(network: deeplab.Model | torch.nn.Module, batch: torch.Tensor) -> object:
    """Class scores at stride 8."""
    if isinstance(network, deeplab.Model):
        return network.predictor.network(batch.contiguous(memory_format=torch.channels_last))
    return network(batch)


def plain_eager(network: torch.nn.Module) -> torch.nn.Module:
    """A copy as torch runs it when nothing is done for speed: direct convolutions, channels first."""
    plain = copy.deepcopy(network)
    for layer in plain.modules():
        if isinstance(layer, Convolution3x3):
            layer.fast = False
    return plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def seconds_of(command: list[str]) -> float:
    """Best of three wall times of a command."""
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        best = min(best, time.perf_counter() - started)
    return round(best, 3)


def peak_megabytes(precision: str) -> int:
    """Peak memory of a fresh process that loads the weights and looks at one photo of 513×513."""
    script = (
        "import numpy, deeplab\n"
        f"model = deeplab.load(precision={precision!r})\n"
        "photo = numpy.zeros((513, 513, 3), 'uint8')\n"
        "model.predictor.probabilities([photo]); model.predictor.probabilities([photo])\n"
        "print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return int(done.stdout) * 1024 // 10**6


def agreement(data: Path) -> dict[str, float]:
    """Percent of labels that are the same in bfloat16 as in fp32, without and with the CRF, on the val
    photos."""
    models = [deeplab.load(precision=precision) for precision in ("fp32", "bf16")]
    same = {"network": 0, "network + CRF": 0}
    pixels = 0
    for pair in tqdm(open_dataset(data, "val"), unit="photo", disable=None):
        plain = [model.segment(pair.photo, crf=False) for model in models]
        refined = [model.refine(result) for model, result in zip(models, plain, strict=True)]
        pixels += plain[0].labels.size
        for name, results in (("network", plain), ("network + CRF", refined)):
            same[name] += int((results[0].labels == results[1].labels).sum())
    return {name: round(100 * count / pixels, 4) for name, count in same.items()}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--agreement", type=Path, help="a folder in VOC's layout")
    options = parser.parse_args()
    model = deeplab.load()
    fp32 = deeplab.load(precision="fp32")
    assert isinstance(fp32.network, torch.nn.Module)
    eager = plain_eager(fp32.network)
    table: dict[str, dict[str, float]] = {}
    for width, height in SIZES:
        with Image.open(PHOTO) as file:
            photo = np.asarray(file.resize((width, height)))
        plain = model.segment(photo, crf=False)
        found = in_turns(
            {
                "network, plain eager fp32": partial(scores, eager, prepare(photo)),
                "network, fp32": partial(scores, fp32, prepare(photo)),
                "network": partial(scores, model, prepare(photo)),
                "photo to probabilities": partial(model.predictor.probabilities, [photo]),
                "CRF": partial(model.refine, plain),
                "photo to labels": partial(_labels, model, photo),
            },
            options.runs,
        )
        for name, figures in found.items():
            table[f"{name}, {width}x{height}"] = figures
        ratio = {
            kind: found["network, plain eager fp32"][kind] / found["network"][kind]
            for kind in found["network"]
        }
        table[f"network against plain eager fp32, {width}x{height}"] = {
            "median": round(ratio["median s"], 2),
            "best": round(ratio["best s"], 2),
        }
    giga = sum(row.multiplications for row in describe(height=513, width=513)) / 1e9
    record: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "threads": torch.get_num_threads(),
        "precision": str(model.predictor.dtype).removeprefix("torch."),
        "versions": {
            "deeplab": deeplab.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "runs": options.runs,
        "paper": {"network, 306x306": "0.125 s on a Titan GPU", "CRF": "under 0.5 s on a CPU"},
        "seconds": table,
        "floor": {
            "10^9 multiplications at 513x513": round(giga, 1),
            "10^9 multiplications a second of a bfloat16 matrix product": round(
                _matrix_rate(torch.bfloat16), 0
            ),
            "of an fp32 matrix product": round(_matrix_rate(torch.float32), 0),
        },
        "peak MB at 513x513": {p: peak_megabytes(p) for p in ("auto", "fp32")},
        "load the shipped weights, s": _load_seconds(),
        "deeplab --help, s": seconds_of([str(Path(sys.executable).with_name("deeplab")), "--help"]),
    }
    if options.agreement is not None:
        record["labels as in fp32, %"] = agreement(options.agreement)
    print(json.dumps(record, indent=2))
    options.out.write_text(json.dumps(record, indent=2) + "\n")


def _labels(model: deeplab.Model, photo: np.ndarray) -> np.ndarray:
    return model.segment(photo).labels


def _matrix_rate(dtype: torch.dtype) -> float:
    """10⁹ multiplications a second of a product of two large matrices: what the processor can do at best."""
    matrix = torch.randn(2048, 2048).to(dtype)
    return 2.048**3 / in_turns({"product": lambda: matrix @ matrix}, 7)["product"]["best s"]


def _load_seconds() -> float:
    started = time.perf_counter()
    deeplab.load()
    return round(time.perf_counter() - started, 3)


if __name__ == "__main__":
    main()
