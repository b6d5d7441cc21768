"""Time the shipped network in torch, ONNX Runtime and OpenVINO (fp32, bf16, int8) in turns, and score each;
JSON.

The files are exported anew, int8 calibrated on ``--calibrate``. All ways take turns in one run, so that a
noisy machine is noisy to all: ratios mean more than frames a second. ``--data`` adds mIoU on val photos,
without and with the CRF.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cascade import PHOTO, SIZES, _labels, in_turns, plain_eager
from machine import processor
from PIL import Image
from tqdm import tqdm

import deeplab
from deeplab.datasets.opening import open_dataset
from deeplab.evaluation.scoring import Scorer
from deeplab.network.preprocessing import pad_to_legal, prepare
from deeplab.weights.exported import openvino_precisions
from deeplab.weights.exporter import export

EAGER = "torch, plain eager fp32"
TORCH = "torch, default"
EXACT = "torch, fp32"


def ways(
    folder: Path, weights: str | None, calibrate: Path | None
) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Weights and precision of every way but plain eager, and what exporting said."""
    made = {"onnx": ("net.onnx", None), "fp32": ("net.xml", None), "int8": ("int8.xml", calibrate)}
    if calibrate is None:
        del made["int8"]
    source, told = deeplab.load(weights=weights, precision="fp32"), {}
    for kind, (name, photos) in made.items():
        to = "onnx" if kind == "onnx" else "openvino"
        told[name] = export(source.network, source.card, folder / name, to=to, calibrate=photos).summary()
    found = {
        TORCH: (weights or "", "auto"),
        "ONNX Runtime, fp32": (str(folder / "net.onnx"), "fp32"),
        "OpenVINO, fp32": (str(folder / "net.xml"), "fp32"),
    }
    if "BF16" in openvino_precisions():
        found["OpenVINO, bf16"] = (str(folder / "net.xml"), "bf16")
    else:
        told["OpenVINO, bf16"] = "left out: this processor has no bfloat16, so OpenVINO would compute in fp32"
    if calibrate is not None:
        found["OpenVINO, int8"] = (str(folder / "int8.xml"), "auto")
    return found, told


@torch.inference_mode()
def scores(network: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
    """Class scores at stride 8."""
    return network(batch)


@torch.inference_mode()
def scores_channels_last(
    network: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor
) -> torch.Tensor:
    """Class scores at stride 8, as ``Predictor`` asks torch for them."""
    return network(batch.contiguous(memory_format=torch.channels_last))


def speed(models: dict[str, deeplab.Model], eager: torch.nn.Module, runs: int) -> dict[str, Any]:
    """Frames a second of each way at each size, and how many times plain eager torch's that is."""
    table: dict[str, Any] = {}
    for width, height in SIZES:
        with Image.open(PHOTO) as file:
            photo = np.asarray(file.convert("RGB").resize((width, height)))
        torch_model = models[TORCH]
        batch = pad_to_legal(prepare(photo, torch_model.card.preparation), torch_model.network.variant)
        work: dict[str, Callable[[], object]] = {EAGER: partial(scores, eager, batch)}
        for name, model in models.items():
            ask = scores_channels_last if name == TORCH else scores
            work[name] = partial(ask, model.predictor.network, batch)
        times = in_turns(work, runs)
        for name, spent in times.items():
            table[f"network, {width}x{height}: {name}"] = spent | {
                "frames a second, median": round(1 / spent["median s"], 2),
                "frames a second, best": round(1 / spent["best s"], 2),
                "times plain eager, median": round(times[EAGER]["median s"] / spent["median s"], 2),
                "times plain eager, best": round(times[EAGER]["best s"] / spent["best s"], 2),
            }
        whole = in_turns({name: partial(_labels, model, photo) for name, model in models.items()}, runs)
        for name, spent in whole.items():
            table[f"photo to labels with CRF, {width}x{height}: {name}"] = spent | {
                "photos a second, median": round(1 / spent["median s"], 2),
                "photos a second, best": round(1 / spent["best s"], 2),
            }
    return table


def peak_megabytes(weights: str, precision: str) -> int:
    """Peak memory of a fresh process that loads the weights and looks at one photo of 513×513, twice."""
    script = (
        "import numpy, deeplab\n"
        f"model = deeplab.load(weights={weights or None!r}, precision={precision!r})\n"
        "photo = numpy.zeros((513, 513, 3), 'uint8')\n"
        "model.predictor.probabilities([photo]); model.predictor.probabilities([photo])\n"
        "print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return int(done.stdout) * 1024 // 10**6


def accuracy(
    models: dict[str, deeplab.Model],
    weights: str | None,
    data: Path,
    photos: int | None,
    precisions: Sequence[str],
) -> dict[str, Any]:
    """mIoU of each way on val photos, without and with the CRF, how far it and its labels are from torch's in
    fp32."""
    models = {f"torch, {how}": deeplab.load(weights=weights, precision=how) for how in precisions} | models
    pairs = list(open_dataset(data, "val"))
    count = min(photos or len(pairs), len(pairs))
    pairs = [pairs[number * len(pairs) // count] for number in range(count)]
    names = models[TORCH].class_names
    scorers = {(name, step): Scorer(names) for name in models for step in ("network", "network + CRF")}
    same, pixels = dict.fromkeys(models, 0), 0
    for pair in tqdm(pairs, unit="photo", disable=None):
        photo, truth = pair.read_photo(), pair.read_labels()
        pixels += truth.size
        first: np.ndarray | None = None
        for name, model in models.items():
            plain = model.segment(photo, crf=False)
            first = plain.labels if first is None else first
            same[name] += int((plain.labels == first).sum())
            scorers[name, "network"].add(truth, plain.labels)
            scorers[name, "network + CRF"].add(truth, model.refine(plain).labels)
    table: dict[str, Any] = {"photos": count}
    for name in models:
        table[name] = {step: scorers[name, step].scores().summary() for step in ("network", "network + CRF")}
        table[name]["mIoU less torch's in fp32, points"] = {
            step: {
                key: round(value - table[EXACT][step][key], 2)
                for key, value in table[name][step].items()
                if key.startswith("mIoU")
            }
            for step in ("network", "network + CRF")
        }
        table[name]["labels as torch's in fp32, %"] = round(100 * same[name] / pixels, 3)
    return table


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--weights", help="as of deeplab segment; by default those of the package")
    parser.add_argument(
        "--calibrate", type=Path, help="a folder of photos for int8; without it, int8 is left out"
    )
    parser.add_argument("--data", type=Path, help="a folder in VOC's layout, to score on its val photos")
    parser.add_argument("--photos", type=int, help="how many of them, spread evenly; by default all")
    parser.add_argument(
        "--imitate", action="store_true", help="score torch's bf16 also where it is imitated, and slow"
    )
    parser.add_argument("--no-speed", action="store_true", help="score only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files, told = ways(Path(folder), options.weights, options.calibrate)
        models = {
            name: deeplab.load(weights=file or None, precision=how) for name, (file, how) in files.items()
        }
        record: dict[str, Any] = {
            "date": date.today().isoformat(),
            "machine": {"processor": processor(), "cores": os.cpu_count()},
            "threads": torch.get_num_threads(),
            "versions": {
                name: version(name)
                for name in ("torch", "onnx", "onnxruntime", "openvino", "nncf", "deeplab-crf")
            },
            "runs": options.runs,
            "computes in": {
                name: str(model.predictor.dtype).removeprefix("torch.") for name, model in models.items()
            },
            "exported": told,
            "MB on disk": {
                file.name: round(file.stat().st_size / 1e6, 1)
                for file in sorted(Path(folder).iterdir())
                if file.suffix in (".onnx", ".bin")
            },
        }
        if not options.no_speed:
            exact = deeplab.load(weights=options.weights, precision="fp32")
            assert isinstance(exact.network, torch.nn.Module)
            record["speed"] = speed(models, plain_eager(exact.network), options.runs)
            record["peak MB at 513x513"] = {name: peak_megabytes(*way) for name, way in files.items()}
        if options.data is not None:
            precisions = ("fp32", "bf16") if options.imitate or "BF16" in openvino_precisions() else ("fp32",)
            record["scores"] = accuracy(models, options.weights, options.data, options.photos, precisions)
    print(json.dumps(record, indent=2))
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
