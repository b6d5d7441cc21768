"""Measures how many photos a second one machine labels on one processor, two, four ….

    python deeplab/benchmarks/many_photos.py --out results/bench-many-photos.json

Writes medians as JSON, with the shipped weights and the CRF. Every measurement is a process of its own that
may use a number of processors; the methods take turns, so that noise of the machine affects all equally. The
photos are those of ``--photos`` at 500×375, repeated to ``--count``. Loading the model and a first photo are
not counted. ``--ray`` adds the same work on a local Ray cluster of all processors.
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
from machine import peak_megabytes, processor, write_record
from PIL import Image
from tqdm import tqdm

import deeplab
from deeplab.bulk.inputs import plan
from deeplab.bulk.jobs import Job, Outcome, Settings, run_job
from deeplab.bulk.memory_limiter import CRF_BYTES_PER_PIXEL, limiter_for
from deeplab.bulk.ray import run_on_ray
from deeplab.bulk.workers import Workers, run
from densecrf import memory
from densecrf.threads import thread_count

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
SIZE = (500, 375)
"""Width and height of the photos."""


def copy_photos(source: Path, folder: Path, count: int) -> None:
    """Write a number of JPEG files of one size.

    Args:
        source: folder of .jpg files, which are repeated.
        folder: where to write.
        count: number of files.
    """
    photos = sorted(source.glob("*.jpg"))
    if not photos:
        raise FileNotFoundError(f"{source}: no .jpg files")
    for number in range(count):
        with Image.open(photos[number % len(photos)]) as photo:
            photo.convert("RGB").resize(SIZE).save(folder / f"{number:05}.jpg", quality=90)


def measure_workers(folder: Path, processors: int, workers: int, threads: int) -> dict[str, Any]:
    """Label a folder with worker threads; called in a process of its own.

    Args:
        folder: the photos.
        processors: number of processors that the process may use.
        workers: number of photos in work at the same time.
        threads: number of threads for each of them.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processors])
    torch.set_num_threads(threads)
    model = deeplab.load()
    limiter = limiter_for(memory.available())
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as out:
        jobs, _ = plan([folder], Path(out))
        work = partial(label, model)
        work(replace(jobs[0], target=Path(out) / "first"), threads)
        started, cpu_started = time.perf_counter(), time.process_time()
        run(jobs, work, outcomes.append, workers=Workers(workers, threads), limiter=limiter)
        wall = time.perf_counter() - started
        cpu = time.process_time() - cpu_started
    seconds: dict[str, float] = {}
    for outcome in outcomes:
        assert outcome.error is None, outcome.error
        for step, value in outcome.seconds.items():
            seconds[step] = seconds.get(step, 0.0) + value
    total = sum(seconds.values())
    return {
        "photos a second": len(jobs) / wall,
        "processors busy": cpu / wall / processors,
        "CPU seconds a photo": cpu / len(jobs),
        "lanes busy": total / wall / workers,
        "share of a lane's time": {step: round(value / total, 3) for step, value in seconds.items()},
        "most megapixels in work": limiter.peak_bytes / CRF_BYTES_PER_PIXEL / 1e6,
        "peak MB": peak_megabytes(),
    }


def label(model: deeplab.Model, job: Job, threads: int) -> Outcome:
    """Label one photo with the default settings."""
    return run_job(job, model, Settings(), threads=threads)


def measure_ray(folder: Path) -> dict[str, Any]:
    """Label a folder on a local Ray cluster of all processors; called in a process of its own."""
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


def methods_for(photos: int, counts: list[int], with_ray: bool) -> dict[str, Any]:
    """Arguments of ``measure_workers`` after the folder, or "ray", by name of the method.

    Args:
        photos: number of photos.
        counts: numbers of processors to measure with; the last is that of all.
        with_ray: whether Ray is measured, too.
    """
    methods: dict[str, Any] = {}
    for count in counts:
        workers = Workers.of(photos, processors=count)
        methods[f"{count} × processor, as it comes"] = [count, workers.count, workers.threads]
    every, workers = counts[-1], Workers.of(photos)
    methods[f"{every} × processor, one photo at a time"] = [every, 1, every]
    methods[f"{every} × processor, one lane more"] = [every, workers.count + 1, workers.threads]
    if with_ray:
        methods["Ray"] = "ray"
    return methods


def measure_in_turns(methods: dict[str, Any], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Medians of every method, each measured in processes of its own."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    with tempfile.TemporaryDirectory() as folder:
        copy_photos(options.photos, Path(folder), options.count)
        for _ in tqdm(range(options.runs), unit="round", disable=None):
            for name, method in methods.items():
                command = [sys.executable, __file__, "--photos", folder, "--once", json.dumps(method)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                results[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {name: medians(runs) for name, runs in results.items()}


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median of every number of several runs; of the photos a second the best, too."""
    summary: dict[str, Any] = {}
    for name, value in runs[0].items():
        is_number = not isinstance(value, dict)
        summary[name] = round(statistics.median(run[name] for run in runs), 3) if is_number else value
    if "photos a second" in summary:
        summary["photos a second, best"] = round(max(run["photos a second"] for run in runs), 3)
    return summary


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of .jpg files")
    parser.add_argument("--count", type=int, default=24, help="photos in each measurement")
    parser.add_argument("--runs", type=int, default=3, help="measurements of each method")
    parser.add_argument("--ray", action="store_true", help="measure Ray, too")
    parser.add_argument("--once", help=argparse.SUPPRESS)  # the method that this process measures
    options = parser.parse_args()
    if options.once:
        method = json.loads(options.once)
        is_ray = method == "ray"
        result = measure_ray(options.photos) if is_ray else measure_workers(options.photos, *method)
        print(json.dumps(result))
        return
    if options.out is None:
        parser.error("--out is needed")
    processors = thread_count(None)
    counts = sorted({1, processors, *(2**power for power in range(processors.bit_length()))})
    table = measure_in_turns(methods_for(options.count, counts, options.ray), options)
    rate = {count: table[f"{count} × processor, as it comes"]["photos a second"] for count in counts}
    record = {
        "date": date.today().isoformat(),
        "machine": {"processor": processor(), "processors": processors},
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
    write_record(record, options.out)


if __name__ == "__main__":
    main()
