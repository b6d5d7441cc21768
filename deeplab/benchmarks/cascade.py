"""Time the network and the whole cascade with the shipped weights, and write medians as JSON."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import deeplab

PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "astronaut.jpg"


def median_seconds(work: Callable[[], object], runs: int) -> dict[str, float]:
    """Median and interquartile range of wall time, after one run that does not count."""
    work()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    spread = float(np.subtract(*np.percentile(times, [75, 25])))
    return {"median s": round(statistics.median(times), 4), "interquartile s": round(spread, 4)}


def _labels(model: deeplab.Model, photo: np.ndarray) -> np.ndarray:
    return model.segment(photo).labels


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    started = time.perf_counter()
    model = deeplab.load()
    table = {"load the shipped weights": {"median s": round(time.perf_counter() - started, 4), "interquartile s": 0.0}}
    with Image.open(PHOTO) as file:
        photos = {size: np.asarray(file.resize(size)) for size in ((321, 321), (513, 513), (500, 375))}
    for (width, height), photo in photos.items():
        plain = model.segment(photo, crf=False)
        table[f"network, {width}x{height}"] = median_seconds(
            partial(model.predictor.probabilities, [photo]), options.runs
        )
        table[f"CRF, {width}x{height}"] = median_seconds(partial(model.refine, plain), options.runs)
        table[f"photo to labels, {width}x{height}"] = median_seconds(partial(_labels, model, photo), options.runs)
    for title, figures in table.items():
        print(f"{title:34s} {figures['median s']:.3f} s")
    record = {
        "date": date.today().isoformat(),
        "threads": torch.get_num_threads(),
        "versions": {"deeplab": deeplab.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "runs": options.runs,
        "paper": {"network, 306x306": "0.125 s on a Titan GPU", "CRF": "under 0.5 s on a CPU"},
        "seconds": table,
    }
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
