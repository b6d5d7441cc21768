"""Photos a second on one processor, two, four …, with the shipped weights and the CRF, and write medians as
JSON.

Every measurement is a process of its own that may use only so many processors; the ways take turns, so that a
noisy machine is noisy to all. Photos are those of ``--photos`` at 500×375, under as many names as ``--count``
asks for. Load time and a first photo do not count. ``--ray`` adds the same work on a local Ray cluster of all
processors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import processor
from PIL import Image
from tqdm import tqdm

import deeplab
from deeplab.bulk.jobs import Job, Outcome, Settings, attempt, plan
from deeplab.bulk.workers import Workers, limiter_for, run
from densecrf import memory
from densecrf.threads import thread_count

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
SIZE = (500, 375)


def copies(source: Path, folder: Path, count: int) -> None:
    """So many JPEG files of the photos in a folder, at one size."""
    found = sorted(source.glob("*.jpg"))
    if not found:
        raise FileNotFoundError(f"{source}: no .jpg files")
    for number in range(count):
        with Image.open(found[number % len(found)]) as photo:
            photo.convert("RGB").resize(SIZE).save(folder / f"{number:05}.jpg", quality=90)


def lanes_once(folder: Path, processors: int, lanes: int, threads: int) -> dict[str, Any]:
    """Label a folder in lanes on so many processors; called in a process of its own."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processors])
    torch.set_num_threads(threads)
    model, gate = deeplab.load(), limiter_for(memory.available())
    with tempfile.TemporaryDirectory() as out:
        jobs, _ = plan([folder], Path(out))
        work = partial(_attempt, model)
        work(replace(jobs[0], target=Path(out) / "first"), threads)
        outcomes: list[Outcome] = []
        started, burnt = time.perf_counter(), time.process_time()
        run(jobs, work, outcomes.append, lanes=Workers(lanes, threads), gate=gate)
        wall, burnt = time.perf_counter() - started, time.process_time() - burnt
    spent: dict[str, float] = {}
    for outcome in outcomes:
        assert outcome.error is None, outcome.error
        for step, seconds in outcome.seconds.items():
            spent[step] = spent.get(step, 0.0) + seconds
    return {
        "photos a second": len(jobs) / wall,
        "processors busy": burnt / wall / processors,
        "CPU seconds a photo": burnt / len(jobs),
        "lanes busy": sum(spent.values()) / wall / lanes,
        "share of a lane's time": {
            step: round(seconds / sum(spent.values()), 3) for step, seconds in spent.items()
        },
        "most megapixels in work": gate.largest / 1e6,
        "peak MB": _peak_megabytes(),
    }


def ray_once(folder: Path) -> dict[str, Any]:
    """Label a folder on a local Ray cluster of all processors; called in a process of its own."""
    from deeplab.bulk.ray import run_on_ray

    ends: list[float] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        jobs, _ = plan([folder], Path(out))
        run_on_ray(jobs, {}, Settings(), lambda _: ends.append(time.perf_counter()), address="local")
    return {
        "seconds until the first photo": ends[0] - started,
        "photos a second after it": (len(jobs) - 1) / (ends[-1] - ends[0]),
        "photos a second, all in all": len(jobs) / (time.perf_counter() - started),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--count", type=int, default=24, help="photos in each measurement")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--once", help=argparse.SUPPRESS)  # what a process of its own is to measure
    options = parser.parse_args()
    if options.once:
        way = json.loads(options.once)
        print(json.dumps(ray_once(options.photos) if way == "ray" else lanes_once(options.photos, *way)))
        return
    if options.out is None:
        parser.error("--out is needed")
    most = thread_count(None)
    counts = sorted({1, most, *(2**power for power in range(most.bit_length()))})
    ways: dict[str, Any] = {}
    for count in counts:
        lanes = Workers.of(options.count, processors=count)
        ways[f"{count} × processor, as it comes"] = [count, lanes.count, lanes.threads]
    ways[f"{most} × processor, one photo at a time"] = [most, 1, most]
    ways[f"{most} × processor, one lane more"] = [
        most,
        Workers.of(options.count).count + 1,
        Workers.of(options.count).threads,
    ]
    if options.ray:
        ways["Ray"] = "ray"
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        copies(options.photos, Path(folder), options.count)
        for _ in tqdm(range(options.runs), unit="round", disable=None):
            for name, way in ways.items():
                line = [sys.executable, __file__, "--photos", folder, "--once", json.dumps(way)]
                done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    table = {name: _medians(runs) for name, runs in found.items()}
    rate = {count: table[f"{count} × processor, as it comes"]["photos a second"] for count in counts}
    record = {
        "date": date.today().isoformat(),
        "machine": {"processor": processor(), "processors": most},
        "versions": {
            "deeplab": deeplab.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "precision": str(deeplab.load().predictor.dtype).removeprefix("torch."),
        "photos": {"size": "x".join(map(str, SIZE)), "count": options.count, "runs": options.runs},
        "ways": table,
        "against one processor": {count: round(value / rate[1], 2) for count, value in rate.items()},
        "hours for a million photos": {count: round(1e6 / value / 3600, 1) for count, value in rate.items()},
    }
    print(json.dumps(record, indent=2))
    options.out.write_text(json.dumps(record, indent=2) + "\n")


def _attempt(model: deeplab.Model, job: Job, threads: int) -> Outcome:
    return attempt(job, model, Settings(), threads=threads)


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    middle: dict[str, Any] = {}
    for name, value in runs[0].items():
        numbers = [run[name] for run in runs]
        middle[name] = value if isinstance(value, dict) else round(statistics.median(numbers), 3)
    if "photos a second" in middle:
        middle["photos a second, best"] = round(max(run["photos a second"] for run in runs), 3)
    return middle


def _peak_megabytes() -> int:
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024 // 10**6


if __name__ == "__main__":
    main()
