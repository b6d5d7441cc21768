"""Measures the seconds per photo of network and CRF: the paper's, other implementations' and ours.

    python deeplab/benchmarks/speed_table.py --out results/speed --calibrate PHOTOS

Writes OUT.md, OUT.json and OUT.png: seconds per photo in one run, and cost against pixels, labels and
threads. The methods of a table take turns, so that noise of the machine affects all equally. What is not
installed or not available (pydensecrf2, ONNX Runtime, OpenVINO, bfloat16, a GPU) is left out, and the table
says so. The CRF gets the shipped network's probabilities of a photograph; for more labels these are split,
for fewer the rarest labels are merged.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cascade import PHOTO, plain_eager, scores
from exported import export_all
from machine import processor
from PIL import Image
from timing import Times, in_turns
from tqdm import tqdm

import deeplab
import densecrf
from deeplab.evaluation.charts import new_figure, png_of
from deeplab.files import write_whole
from deeplab.network.architecture import VARIANTS
from deeplab.network.bfloat16 import compute_dtype
from deeplab.network.preprocessing import pad_to_legal, prepare
from deeplab.network.winograd import DIRECT_IS_FASTER
from deeplab.tables import markdown_table

PAPER = {"network, 306×306, Titan GPU": "0.125", "CRF, 500×375, CPU": "under 0.5"}
SIZE = 500, 375
"""Width and height of the photo."""
SIDES = (161, 225, 321, 449, 641)
"""Sides of the square photos of the curve against pixels."""
LABELS = (2, 5, 10, 21, 40, 80)
PARAMS = densecrf.Params(normalization="symmetric")
HAS_PYDENSECRF = find_spec("pydensecrf") is not None
Curves = dict[str, dict[str, list[tuple[float, float]]]]
"""Points (x, median seconds) by axis and method."""


def photo_of(width: int, height: int) -> np.ndarray:
    """The photograph at a size, (H, W, 3) uint8."""
    with Image.open(PHOTO) as file:
        return np.array(file.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))


def with_labels(probabilities: np.ndarray, count: int) -> np.ndarray:
    """Probabilities of another number of labels: the rarest are merged, or each is split into unequal parts.

    Args:
        probabilities: (K, H, W) float32.
        count: number of labels.

    Returns:
        (count, H, W) float32.
    """
    labels = len(probabilities)
    if count < labels:
        order = np.argsort(-probabilities.sum((1, 2)))
        rarest = probabilities[order[count - 1 :]].sum(0)
        return np.concatenate([probabilities[order[: count - 1]], rarest[None]])
    parts = -(-count // labels)
    shares = np.array([2.0 ** -(part + 1) for part in range(parts)], np.float32)
    split = (shares[:, None, None, None] * probabilities).reshape(-1, *probabilities.shape[1:])[:count]
    return np.ascontiguousarray(split / split.sum(0))


def pydensecrf(photo: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The same CRF in pydensecrf.

    Args:
        photo: (H, W, 3) uint8.
        probabilities: (K, H, W) float32.
    """
    import pydensecrf.densecrf as dcrf

    labels, height, width = probabilities.shape
    crf = dcrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(-np.log(np.maximum(probabilities, 1e-10)).reshape(labels, -1))
    crf.addPairwiseGaussian(PARAMS.smoothness_xy_std, PARAMS.smoothness_weight)
    crf.addPairwiseBilateral(
        PARAMS.appearance_xy_std, PARAMS.appearance_rgb_std, photo, PARAMS.appearance_weight
    )
    return np.array(crf.inference(10))


def crf_methods(
    photo: np.ndarray, probabilities: np.ndarray, threads: tuple[int, ...]
) -> dict[str, Callable[[], object]]:
    """The CRF in densecrf and in pydensecrf.

    Args:
        photo: (H, W, 3) uint8.
        probabilities: (K, H, W) float32.
        threads: numbers of threads of densecrf.
    """
    refine = partial(densecrf.refine, photo, probabilities, params=PARAMS)
    methods: dict[str, Callable[[], object]] = {
        f"densecrf, threads: {count}": partial(refine, threads=count) for count in threads
    }
    if HAS_PYDENSECRF:
        methods["pydensecrf2 (one thread)"] = partial(pydensecrf, photo, probabilities)
    return methods


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set torch's number of threads during the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def networks(calibrate: Path | None, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Every implementation of the network that is available here, and what is left out and why.

    Args:
        calibrate: folder of photos for int8; None to leave int8 out.
        folder: where to write exported files.
    """
    fp32 = deeplab.load(precision="fp32", device="cpu")
    assert isinstance(fp32.network, torch.nn.Module)
    models: dict[str, Any] = {
        "torch, plain eager fp32": plain_eager(fp32.network),
        "torch, fp32" + (", direct" if DIRECT_IS_FASTER else ", Winograd"): fp32,
    }
    missing = []
    if compute_dtype("auto", torch.device("cpu")) == torch.bfloat16:
        models["torch, bf16"] = deeplab.load(precision="bf16", device="cpu")
    else:
        missing.append("torch in bf16: this processor has none")
    if all(find_spec(name) for name in ("onnxscript", "onnxruntime", "openvino", "nncf")):
        methods, reports = export_all(folder, None, calibrate)
        for name, (file, precision) in methods.items():
            if not name.startswith("torch"):
                models[name] = deeplab.load(weights=file, precision=precision)
        missing += [f"{name}: {text}" for name, text in reports.items() if text.startswith("left out")]
    else:
        missing.append("ONNX Runtime and OpenVINO: not installed")
    if torch.cuda.is_available():
        models[f"torch, bf16, {torch.cuda.get_device_name()}"] = deeplab.load(device="cuda")
    else:
        missing.append("a GPU: none here")
    if not HAS_PYDENSECRF:
        missing.append("pydensecrf2: not installed")
    return models, missing


def network_times(models: dict[str, Any], width: int, height: int, runs: int) -> Times:
    """Seconds from a prepared photo to scores at stride 8.

    Args:
        models: models, or networks alone, by method.
        width: of the photo in pixels.
        height: of the photo in pixels.
        runs: number of rounds.
    """
    batch = pad_to_legal(prepare(photo_of(width, height)), VARIANTS["deeplab-largefov"])
    methods: dict[str, Callable[[], object]] = {}
    for name, model in models.items():
        if isinstance(model, deeplab.Model) and model.predictor.device.type == "cuda":
            methods[name] = partial(gpu_scores, model, batch.cuda())
        elif isinstance(model, deeplab.Model) and not isinstance(model.predictor.network, torch.nn.Module):
            methods[name] = partial(exported_scores, model, batch)
        else:
            methods[name] = partial(scores, model, batch)
    return in_turns(methods, runs)


def gpu_scores(model: deeplab.Model, batch: torch.Tensor) -> None:
    """Scores on a GPU, waiting until they are there."""
    scores(model, batch)
    torch.cuda.synchronize()


@torch.inference_mode()
def exported_scores(model: deeplab.Model, batch: torch.Tensor) -> object:
    """Scores of an exported network, which takes channels first."""
    return model.predictor.network(batch)


def curves(runs: int, bar: tqdm[Any]) -> Curves:
    """Cost against pixels, labels and threads.

    Args:
        runs: number of rounds.
        bar: progress bar.
    """
    model = deeplab.load(precision="fp32", device="cpu")
    cores = os.cpu_count() or 1
    points: Curves = {"megapixels": {}, "labels": {}, "threads": {}}

    def add(axis: str, x: float, times: Times) -> None:
        for name, figures in times.items():
            points[axis].setdefault(name, []).append((round(x, 4), figures["median s"]))
        bar.update()

    for side in SIDES:
        photo = photo_of(side, side)
        probabilities = model.segment(photo, crf=False).probabilities
        methods = crf_methods(photo, probabilities, (cores,))
        methods["network, torch fp32"] = partial(scores, model, prepare(photo))
        add("megapixels", side * side / 1e6, in_turns(methods, runs))
    photo = photo_of(*SIZE)
    probabilities = model.segment(photo, crf=False).probabilities
    for count in LABELS:
        add("labels", count, in_turns(crf_methods(photo, with_labels(probabilities, count), (cores,)), runs))
    batch = pad_to_legal(prepare(photo), model.network.variant)
    refine = partial(densecrf.refine, photo, probabilities, params=PARAMS)
    for count in sorted({1, cores, *(n for n in (2, 4, 8, 16, 32) if n < cores)}):
        with torch_threads(count):
            methods = {
                "densecrf": partial(refine, threads=count),
                "network, torch fp32": partial(scores, model, batch),
            }
            add("threads", count, in_turns(methods, runs))
    return points


def chart(points: Curves) -> bytes:
    """The three curves side by side, as PNG."""
    figure = new_figure(11, 3.6)
    for number, (axis, lines) in enumerate(points.items()):
        axes = figure.add_subplot(1, 3, number + 1)
        for name, line in lines.items():
            axes.plot(*zip(*line, strict=True), marker="o", ms=3, label=name)
        axes.set(xlabel=axis, ylabel="seconds" if number == 0 else "")
        axes.set_ylim(bottom=0)
        if axis == "threads":
            axes.set_xticks([x for x, _ in next(iter(lines.values()))])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return png_of(figure)


def rows_of(title: str, times: Times) -> list[list[str]]:
    """Rows of the table: title and method, median, best."""
    return [
        [f"{title}: {name}", f"{figures['median s']:.3f}", f"{figures['best s']:.3f}"]
        for name, figures in times.items()
    ]


def report(record: dict[str, Any], picture: str) -> str:
    """The record as Markdown.

    Args:
        record: all measurements.
        picture: path of the chart.
    """
    width, height = SIZE
    size = f"{width}x{height}"
    table = [
        ["", "median s", "best s"],
        ["paper: network, 306×306, on a Titan GPU", PAPER["network, 306×306, Titan GPU"], ""],
        *rows_of("network, 321×321", record["network, 321x321"]),
        *rows_of(f"network, {width}×{height}", record[f"network, {size}"]),
        ["paper: CRF, 10 iterations, on a CPU", PAPER["CRF, 500×375, CPU"], ""],
        *rows_of(f"CRF, {width}×{height}, 21 labels", record[f"CRF, {size}"]),
        *rows_of(f"photo to labels, {width}×{height}", record[f"photo to labels, {size}"]),
    ]
    missing = "; ".join(record["left out"]) or "nothing"
    return (
        "# Seconds per photo\n\n"
        f"{record['machine']['processor']}, {record['machine']['cores']} cores, {record['date']}; medians of "
        f"{record['runs']} rounds in one run of `deeplab/benchmarks/speed_table.py`. CRF: 10 iterations, "
        f"{PARAMS.appearance_weight:g}/{PARAMS.appearance_xy_std:g}/{PARAMS.appearance_rgb_std:g} + "
        f"{PARAMS.smoothness_weight:g}/{PARAMS.smoothness_xy_std:g}, on the probabilities of the "
        f"included network for one photo. Left out: {missing}.\n\n"
        + markdown_table(table)
        + f"\n\n![Seconds against pixels, labels and threads]({picture})\n\n"
        f"Left: square photos, 21 labels, all threads. Middle and right: {width}×{height}.\n"
    )


def measure(calibrate: Path | None, runs: int) -> dict[str, Any]:
    """The whole record.

    Args:
        calibrate: folder of photos for int8; None to leave int8 out.
        runs: number of rounds.
    """
    width, height = SIZE
    size = f"{width}x{height}"
    cores = os.cpu_count() or 1
    steps = 4 + len(SIDES) + len(LABELS) + 2
    with tempfile.TemporaryDirectory() as folder, tqdm(total=steps, disable=None) as bar:
        models, missing = networks(calibrate, Path(folder))
        record: dict[str, Any] = {
            "date": date.today().isoformat(),
            "machine": {"processor": processor(), "cores": cores},
            "versions": {
                "torch": torch.__version__,
                "densecrf": densecrf.__version__,
                "deeplab": deeplab.__version__,
            },
            "runs": runs,
            "paper, s": PAPER,
            "left out": missing,
            "network, 321x321": network_times(models, 321, 321, runs),
        }
        bar.update()
        record[f"network, {size}"] = network_times(models, width, height, runs)
        bar.update()
        photo = photo_of(width, height)
        probabilities = deeplab.load(precision="fp32", device="cpu").segment(photo, crf=False).probabilities
        record[f"CRF, {size}"] = in_turns(crf_methods(photo, probabilities, tuple(sorted({1, cores}))), runs)
        bar.update()
        whole: dict[str, Callable[[], object]] = {
            name: partial(model.segment, photo) for name, model in models.items() if hasattr(model, "segment")
        }
        record[f"photo to labels, {size}"] = in_turns(whole, runs)
        bar.update()
        record["curves"] = curves(max(3, runs // 2), bar)
    return record


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="OUT.md, OUT.json and OUT.png are written")
    parser.add_argument("--runs", type=int, default=7, help="rounds of each measurement")
    parser.add_argument(
        "--calibrate", type=Path, help="folder of photos for int8; without it, int8 is left out"
    )
    parser.add_argument("--picture", help="path of the chart in OUT.md, if it is moved afterwards")
    options = parser.parse_args()
    record = measure(options.calibrate, options.runs)
    write_whole(options.out.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    write_whole(options.out.with_suffix(".png"), chart(record["curves"]))
    text = report(record, options.picture or options.out.with_suffix(".png").name)
    write_whole(options.out.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
