"""Network and CRF per photo in one run, the paper's, rivals' and ours; cost against pixels, labels and
threads.

    python speed_table.py --out results/speed --calibrate PHOTOS

writes OUT.md, OUT.json and OUT.png. Ways of a table take turns, so that a noisy machine is noisy to all. What
is not there (pydensecrf2, ONNX Runtime, OpenVINO, bfloat16, a GPU) is left out, and the table says so. The
CRF works on the shipped network's probabilities of a photograph; more labels are made by splitting these,
fewer by merging the rarest.
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
from cascade import PHOTO, in_turns, plain_eager, scores
from exported import ways
from machine import processor
from PIL import Image
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
SIDES = (161, 225, 321, 449, 641)
LABELS = (2, 5, 10, 21, 40, 80)
PARAMS = densecrf.Params(normalization="symmetric")
RIVAL = find_spec("pydensecrf") is not None
Times = dict[str, dict[str, float]]


def photo_of(width: int, height: int) -> np.ndarray:
    """The photograph at a size, (H, W, 3) uint8."""
    with Image.open(PHOTO) as file:
        return np.array(file.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))


def with_labels(probabilities: np.ndarray, count: int) -> np.ndarray:
    """(K, H, W) of a network as (count, H, W): the rarest merged, or each split into unequal parts."""
    labels = len(probabilities)
    if count < labels:
        order = np.argsort(-probabilities.sum((1, 2)))
        return np.concatenate(
            [probabilities[order[: count - 1]], probabilities[order[count - 1 :]].sum(0)[None]]
        )
    parts = -(-count // labels)
    shares = np.array([2.0 ** -(part + 1) for part in range(parts)], np.float32)
    split = (shares[:, None, None, None] * probabilities).reshape(-1, *probabilities.shape[1:])[:count]
    return np.ascontiguousarray(split / split.sum(0))


def pydensecrf(photo: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The same CRF by the rival."""
    import pydensecrf.densecrf as dcrf

    labels, height, width = probabilities.shape
    crf = dcrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(-np.log(np.maximum(probabilities, 1e-10)).reshape(labels, -1))
    crf.addPairwiseGaussian(PARAMS.smoothness_xy_std, PARAMS.smoothness_weight)
    crf.addPairwiseBilateral(
        PARAMS.appearance_xy_std, PARAMS.appearance_rgb_std, photo, PARAMS.appearance_weight
    )
    return np.array(crf.inference(10))


def crf_ways(
    photo: np.ndarray, probabilities: np.ndarray, threads: tuple[int, ...]
) -> dict[str, Callable[[], object]]:
    """Ours with some numbers of threads, and the rival."""
    work: dict[str, Callable[[], object]] = {
        f"densecrf, threads: {count}": partial(
            densecrf.refine, photo, probabilities, params=PARAMS, threads=count
        )
        for count in threads
    }
    if RIVAL:
        work["pydensecrf2 (one thread)"] = partial(pydensecrf, photo, probabilities)
    return work


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads in torch, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def networks(calibrate: Path | None, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Every way to the scores that there is here, and what is left out and why."""
    exact = deeplab.load(precision="fp32", device="cpu")
    assert isinstance(exact.network, torch.nn.Module)
    found: dict[str, Any] = {
        "torch, plain eager fp32": plain_eager(exact.network),
        "torch, fp32" + (", direct" if DIRECT_IS_FASTER else ", Winograd"): exact,
    }
    missing = []
    if compute_dtype("auto", torch.device("cpu")) == torch.bfloat16:
        found["torch, bf16"] = deeplab.load(precision="bf16", device="cpu")
    else:
        missing.append("torch in bf16: this processor has none")
    if all(find_spec(name) for name in ("onnxscript", "onnxruntime", "openvino", "nncf")):
        files, told = ways(folder, None, calibrate)
        found |= {
            name: deeplab.load(weights=file, precision=how)
            for name, (file, how) in files.items()
            if not name.startswith("torch")
        }
        missing += [f"{name}: {text}" for name, text in told.items() if text.startswith("left out")]
    else:
        missing.append("ONNX Runtime and OpenVINO: not installed")
    if torch.cuda.is_available():
        found[f"torch, bf16, {torch.cuda.get_device_name()}"] = deeplab.load(device="cuda")
    else:
        missing.append("a GPU: none here")
    if not RIVAL:
        missing.append("pydensecrf2: not installed")
    return found, missing


def network_times(models: dict[str, Any], width: int, height: int, runs: int) -> Times:
    """Scores at stride 8 of one photo by each."""
    legal = pad_to_legal(prepare(photo_of(width, height)), VARIANTS["deeplab-largefov"])
    work: dict[str, Callable[[], object]] = {}
    for name, model in models.items():
        if isinstance(model, deeplab.Model) and model.predictor.device.type == "cuda":
            work[name] = partial(_on_gpu, model, legal.cuda())
        elif isinstance(model, deeplab.Model) and not isinstance(model.predictor.network, torch.nn.Module):
            work[name] = partial(_exported, model, legal)
        else:
            work[name] = partial(scores, model, legal)
    return in_turns(work, runs)


def _on_gpu(model: deeplab.Model, batch: torch.Tensor) -> None:
    scores(model, batch)
    torch.cuda.synchronize()


@torch.inference_mode()
def _exported(model: deeplab.Model, batch: torch.Tensor) -> object:
    return model.predictor.network(batch)


def curves(runs: int, bar: tqdm[Any]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Cost against pixels, labels and threads: for each curve its points (x, median seconds)."""
    model = deeplab.load(precision="fp32", device="cpu")
    most = os.cpu_count() or 1
    found: dict[str, dict[str, list[tuple[float, float]]]] = {"megapixels": {}, "labels": {}, "threads": {}}

    def keep(axis: str, x: float, times: Times) -> None:
        for name, figures in times.items():
            found[axis].setdefault(name, []).append((round(x, 4), figures["median s"]))
        bar.update()

    for side in SIDES:
        photo = photo_of(side, side)
        probabilities = model.segment(photo, crf=False).probabilities
        work = crf_ways(photo, probabilities, (most,))
        work["network, torch fp32"] = partial(scores, model, prepare(photo))
        keep("megapixels", side * side / 1e6, in_turns(work, runs))
    photo = photo_of(*SIZE)
    probabilities = model.segment(photo, crf=False).probabilities
    for count in LABELS:
        keep("labels", count, in_turns(crf_ways(photo, with_labels(probabilities, count), (most,)), runs))
    counts = sorted({1, most, *(n for n in (2, 4, 8, 16, 32) if n < most)})
    for count in counts:
        work = {"densecrf": partial(densecrf.refine, photo, probabilities, params=PARAMS, threads=count)}
        with torch_threads(count):
            work["network, torch fp32"] = partial(
                scores, model, pad_to_legal(prepare(photo), model.network.variant)
            )
            keep("threads", count, in_turns(work, runs))
    return found


def chart(found: dict[str, dict[str, list[tuple[float, float]]]]) -> bytes:
    """The three curves side by side."""
    figure = new_figure(11, 3.6)
    for place, (axis, lines) in enumerate(found.items()):
        axes = figure.add_subplot(1, 3, place + 1)
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), marker="o", ms=3, label=name)
        axes.set(xlabel=axis, ylabel="seconds" if place == 0 else "")
        axes.set_ylim(bottom=0)
        if axis == "threads":
            axes.set_xticks([x for x, _ in next(iter(lines.values()))])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return png_of(figure)


def text_of(record: dict[str, Any], picture: str) -> str:
    """The report."""
    width, height = SIZE
    table = [["paper: network, 306×306, on a Titan GPU", PAPER["network, 306×306, Titan GPU"], ""]]
    table += [
        [f"network, 321×321: {name}", f"{figures['median s']:.3f}", f"{figures['best s']:.3f}"]
        for name, figures in record["network, 321x321"].items()
    ]
    table += [
        [f"network, {width}×{height}: {name}", f"{figures['median s']:.3f}", f"{figures['best s']:.3f}"]
        for name, figures in record[f"network, {width}x{height}"].items()
    ]
    table.append(["paper: CRF, 10 iterations, on a CPU", PAPER["CRF, 500×375, CPU"], ""])
    table += [
        [
            f"CRF, {width}×{height}, 21 labels: {name}",
            f"{figures['median s']:.3f}",
            f"{figures['best s']:.3f}",
        ]
        for name, figures in record[f"CRF, {width}x{height}"].items()
    ]
    table += [
        [
            f"photo to labels, {width}×{height}: {name}",
            f"{figures['median s']:.3f}",
            f"{figures['best s']:.3f}",
        ]
        for name, figures in record[f"photo to labels, {width}x{height}"].items()
    ]
    missing = "; ".join(record["left out"]) or "nothing"
    return (
        "# Seconds a photo\n\n"
        f"{record['machine']['processor']}, {record['machine']['cores']} cores, {record['date']}; medians of "
        f"{record['runs']} turns in one run by `deeplab/benchmarks/speed_table.py`. CRF: 10 iterations, "
        f"{PARAMS.appearance_weight:g}/{PARAMS.appearance_xy_std:g}/{PARAMS.appearance_rgb_std:g} + "
        f"{PARAMS.smoothness_weight:g}/{PARAMS.smoothness_xy_std:g}, on the shipped network's probabilities of one "
        f"photograph. Left out: {missing}.\n\n"
        + markdown_table([["what", "median s", "best s"], *table])
        + f"\n\n![Cost against pixels, labels and threads]({picture})\n\n"
        f"Left: square photos, 21 labels, all threads. Middle and right: {width}×{height}.\n"
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="OUT.md, OUT.json and OUT.png are written")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument(
        "--calibrate", type=Path, help="a folder of photos for int8; without it, int8 is left out"
    )
    parser.add_argument(
        "--picture", default=None, help="how OUT.md names the picture, if it is moved afterwards"
    )
    options = parser.parse_args()
    width, height = SIZE
    most = os.cpu_count() or 1
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=4 + len(SIDES) + len(LABELS) + 2, disable=None) as bar,
    ):
        models, missing = networks(options.calibrate, Path(folder))
        record: dict[str, Any] = {
            "date": date.today().isoformat(),
            "machine": {"processor": processor(), "cores": most},
            "versions": {
                "torch": torch.__version__,
                "densecrf": densecrf.__version__,
                "deeplab": deeplab.__version__,
            },
            "runs": options.runs,
            "paper, s": PAPER,
            "left out": missing,
            "network, 321x321": network_times(models, 321, 321, options.runs),
        }
        bar.update()
        record[f"network, {width}x{height}"] = network_times(models, width, height, options.runs)
        bar.update()
        photo = photo_of(width, height)
        probabilities = deeplab.load(precision="fp32", device="cpu").segment(photo, crf=False).probabilities
        record[f"CRF, {width}x{height}"] = in_turns(
            crf_ways(photo, probabilities, tuple(sorted({1, most}))), options.runs
        )
        bar.update()
        whole: dict[str, Callable[[], object]] = {
            name: partial(model.segment, photo) for name, model in models.items() if hasattr(model, "segment")
        }
        record[f"photo to labels, {width}x{height}"] = in_turns(whole, options.runs)
        bar.update()
        record["curves"] = curves(max(3, options.runs // 2), bar)
    write_whole(options.out.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())
    write_whole(options.out.with_suffix(".png"), chart(record["curves"]))
    picture = options.picture or options.out.with_suffix(".png").name
    text = text_of(record, picture)
    write_whole(options.out.with_suffix(".md"), text.encode())
    print(text)


if __name__ == "__main__":
    main()
