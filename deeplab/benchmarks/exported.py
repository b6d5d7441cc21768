"""Measures how fast and how accurate the network is in torch, ONNX Runtime and OpenVINO.

    python deeplab/benchmarks/exported.py --out FILE.json --calibrate PHOTOS --data VOC

Writes JSON. The weights are exported anew in fp32, bf16 and int8, the last calibrated on the photos of
``--calibrate``. All methods take turns in one run, so that noise of the machine affects all equally: ratios
mean more than frames a second. ``--data`` adds mIoU on val photos, without and with the CRF.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cascade import PHOTO, SIZES, labels, plain_eager
from machine import peak_of_prediction, processor, write_record
from PIL import Image
from timing import Times, in_turns
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
STEPS = ("network", "network + CRF")
VERSIONS = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "deeplab-crf")


def export_all(
    folder: Path, weights: str | None, calibrate: Path | None
) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Export the weights in every format.

    Args:
        folder: where to write the files.
        weights: as in ``deeplab.load``.
        calibrate: folder of photos for int8; None to leave int8 out.

    Returns:
        Weights and precision of every method but plain eager torch; and what was reported about each file.
    """
    source = deeplab.load(weights=weights, precision="fp32")
    files: dict[str, tuple[str, Path | None]] = {"net.onnx": ("onnx", None), "net.xml": ("openvino", None)}
    if calibrate is not None:
        files["int8.xml"] = ("openvino", calibrate)
    reports = {
        name: export(source.network, source.card, folder / name, to=to, calibrate=photos).summary()
        for name, (to, photos) in files.items()
    }
    methods = {
        TORCH: (weights or "", "auto"),
        "ONNX Runtime, fp32": (str(folder / "net.onnx"), "fp32"),
        "OpenVINO, fp32": (str(folder / "net.xml"), "fp32"),
    }
    if "BF16" in openvino_precisions():
        methods["OpenVINO, bf16"] = (str(folder / "net.xml"), "bf16")
    else:
        reason = "this processor has no bfloat16, so OpenVINO would compute in fp32"
        reports["OpenVINO, bf16"] = f"left out: {reason}"
    if calibrate is not None:
        methods["OpenVINO, int8"] = (str(folder / "int8.xml"), "auto")
    return methods, reports


@torch.inference_mode()
def scores(
    network: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor, *, channels_last: bool = False
) -> torch.Tensor:
    """Class scores at stride 8.

    Args:
        network: the network.
        batch: (B, 3, H, W) prepared photos.
        channels_last: whether the batch is first brought into channels-last order, as ``Predictor`` does.
    """
    return network(batch.contiguous(memory_format=torch.channels_last) if channels_last else batch)


def with_rates(times: Times, unit: str) -> dict[str, dict[str, float]]:
    """Times with their reciprocals.

    Args:
        times: seconds by method.
        unit: what is counted: "frames" or "photos".
    """
    return {
        name: figures
        | {
            f"{unit} a second, median": round(1 / figures["median s"], 2),
            f"{unit} a second, best": round(1 / figures["best s"], 2),
        }
        for name, figures in times.items()
    }


def speed(models: dict[str, deeplab.Model], eager: torch.nn.Module, runs: int) -> dict[str, Any]:
    """Frames a second of each method at each size, and the speed-up over plain eager torch.

    Args:
        models: models by method.
        eager: the network in plain eager torch.
        runs: number of rounds.
    """
    table: dict[str, Any] = {}
    for width, height in SIZES:
        with Image.open(PHOTO) as file:
            photo = np.asarray(file.convert("RGB").resize((width, height)))
        torch_model = models[TORCH]
        batch = pad_to_legal(prepare(photo, torch_model.card.preparation), torch_model.network.variant)
        methods: dict[str, Callable[[], object]] = {EAGER: partial(scores, eager, batch)}
        for name, model in models.items():
            network = model.predictor.network
            methods[name] = partial(scores, network, batch, channels_last=name == TORCH)
        times = in_turns(methods, runs)
        for name, figures in with_rates(times, "frames").items():
            table[f"network, {width}x{height}: {name}"] = figures | {
                "times plain eager, median": round(times[EAGER]["median s"] / figures["median s"], 2),
                "times plain eager, best": round(times[EAGER]["best s"] / figures["best s"], 2),
            }
        whole = in_turns({name: partial(labels, model, photo) for name, model in models.items()}, runs)
        for name, figures in with_rates(whole, "photos").items():
            table[f"photo to labels with CRF, {width}x{height}: {name}"] = figures
    return table


def accuracy(
    models: dict[str, deeplab.Model],
    weights: str | None,
    data: Path,
    photos: int | None,
    precisions: Sequence[str],
) -> dict[str, Any]:
    """mIoU of each method on val photos, without and with the CRF, and agreement of its labels with fp32.

    Args:
        models: models by method.
        weights: as in ``deeplab.load``, for torch.
        data: folder in VOC's layout.
        photos: number of val photos, spread evenly; None for all.
        precisions: precisions of torch; the first is fp32.
    """
    models = {f"torch, {name}": deeplab.load(weights=weights, precision=name) for name in precisions} | models
    samples = list(open_dataset(data, "val"))
    count = min(photos or len(samples), len(samples))
    samples = [samples[number * len(samples) // count] for number in range(count)]
    names = models[TORCH].class_names
    scorers = {(name, step): Scorer(names) for name in models for step in STEPS}
    same = dict.fromkeys(models, 0)
    pixels = 0
    for sample in tqdm(samples, unit="photo", disable=None):
        photo, truth = sample.read_photo(), sample.read_labels()
        pixels += truth.size
        exact: np.ndarray | None = None
        for name, model in models.items():
            plain = model.segment(photo, crf=False)
            exact = plain.labels if exact is None else exact
            same[name] += int((plain.labels == exact).sum())
            scorers[name, "network"].add(truth, plain.labels)
            scorers[name, "network + CRF"].add(truth, model.refine(plain).labels)
    table: dict[str, Any] = {"photos": count}
    for name in models:
        table[name] = {step: scorers[name, step].scores().summary() for step in STEPS}
        table[name]["mIoU less torch's in fp32, points"] = {
            step: miou_difference(table[name][step], table[EXACT][step]) for step in STEPS
        }
        table[name]["labels as torch's in fp32, %"] = round(100 * same[name] / pixels, 3)
    return table


def miou_difference(summary: dict[str, float], reference: dict[str, float]) -> dict[str, float]:
    """Differences of all mean IoUs of two summaries, in points.

    Args:
        summary: scores of a method.
        reference: scores of torch in fp32.
    """
    return {key: round(value - reference[key], 2) for key, value in summary.items() if key.startswith("mIoU")}


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole record; exported files go into a folder."""
    methods, reports = export_all(folder, options.weights, options.calibrate)
    models = {
        name: deeplab.load(weights=file or None, precision=precision)
        for name, (file, precision) in methods.items()
    }
    weight_files = [file for file in sorted(folder.iterdir()) if file.suffix in (".onnx", ".bin")]
    record: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in VERSIONS},
        "runs": options.runs,
        "computes in": {
            name: str(model.predictor.dtype).removeprefix("torch.") for name, model in models.items()
        },
        "exported": reports,
        "MB on disk": {file.name: round(file.stat().st_size / 1e6, 1) for file in weight_files},
    }
    if not options.no_speed:
        fp32 = deeplab.load(weights=options.weights, precision="fp32")
        assert isinstance(fp32.network, torch.nn.Module)
        record["speed"] = speed(models, plain_eager(fp32.network), options.runs)
        record["peak MB at 513x513"] = {
            name: peak_of_prediction(weights=file or None, precision=precision)
            for name, (file, precision) in methods.items()
        }
    if options.data is not None:
        with_bf16 = options.imitate or "BF16" in openvino_precisions()
        precisions = ("fp32", "bf16") if with_bf16 else ("fp32",)
        record["scores"] = accuracy(models, options.weights, options.data, options.photos, precisions)
    return record


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--runs", type=int, default=9, help="rounds of each measurement")
    parser.add_argument("--weights", help="as in deeplab segment; by default those of the package")
    parser.add_argument(
        "--calibrate", type=Path, help="folder of photos for int8; without it, int8 is left out"
    )
    parser.add_argument("--data", type=Path, help="folder in VOC's layout, to score on its val photos")
    parser.add_argument("--photos", type=int, help="number of val photos, spread evenly; by default all")
    parser.add_argument(
        "--imitate", action="store_true", help="score torch's bf16 even if the processor only emulates it"
    )
    parser.add_argument("--no-speed", action="store_true", help="only score")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = measure(options, Path(folder))
    write_record(record, options.out)


if __name__ == "__main__":
    main()
