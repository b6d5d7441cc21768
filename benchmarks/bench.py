"""Time network and CRF on a photo of 500×375, pydensecrf2 beside ours where it is installed; medians as JSON."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import deeplab
import densecrf

PHOTO = Path(__file__).parent.parent / "examples" / "photos" / "cat.jpg"
SETTINGS = {
    "A 4/50/3": densecrf.Params(appearance_weight=4, appearance_xy_std=50, appearance_rgb_std=3),
    "B 4/121/5": densecrf.Params(appearance_weight=4, appearance_xy_std=121, appearance_rgb_std=5),
}


def seconds(work: Callable[[], object], runs: int) -> dict[str, float]:
    """Median and spread of wall time over runs, after one that does not count."""
    work()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    low, middle, high = statistics.quantiles(times, n=4)
    return {"median": round(middle, 4), "quartile 1": round(low, 4), "quartile 3": round(high, 4), "runs": runs}


def rival(photo: np.ndarray, probabilities: np.ndarray, params: densecrf.Params) -> Callable[[], object] | None:
    """The same CRF by pydensecrf2, or None where it is not installed."""
    try:
        import pydensecrf.densecrf as dcrf
    except ImportError:
        return None
    labels, height, width = probabilities.shape
    unary = -np.log(np.maximum(probabilities, 1e-10)).reshape(labels, -1)

    def run() -> object:
        crf = dcrf.DenseCRF2D(width, height, labels)
        crf.setUnaryEnergy(np.ascontiguousarray(unary))
        crf.addPairwiseGaussian(params.smoothness_xy_std, params.smoothness_weight)
        crf.addPairwiseBilateral(
            params.appearance_xy_std, params.appearance_rgb_std, photo.copy(), params.appearance_weight
        )
        return crf.inference(10)

    return run


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    with Image.open(PHOTO) as file:
        photo = np.asarray(file.convert("RGB").resize((500, 375)))
    model = deeplab.load()
    times = {"network, 500×375, fp32": seconds(lambda: model.scores(photo), options.runs)}
    crop = np.ascontiguousarray(photo[:321, :321])
    times["network, 321×321, fp32"] = seconds(lambda: model.scores(crop), options.runs)
    probabilities = model.scores(photo)
    for name, params in SETTINGS.items():
        for threads in (1, 2):
            label = f"CRF {name}, 500×375, {len(probabilities)} labels, {threads} thread{'s' * (threads > 1)}"

            def ours(params: densecrf.Params = params, threads: int = threads) -> object:
                return densecrf.refine(photo, probabilities, params=params, threads=threads)

            times[label] = seconds(ours, options.runs)
        theirs = rival(photo, probabilities, params)
        if theirs is not None:
            times[f"CRF {name}, 500×375, pydensecrf2"] = seconds(theirs, options.runs)
    record = {
        "date": date.today().isoformat(),
        "machine": {"processor": _processor(), "threads": torch.get_num_threads()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "seconds": times,
    }
    options.out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    for label, figures in times.items():
        print(f"{label:50s} {figures['median']:.3f} s")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
