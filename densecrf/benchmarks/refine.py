"""Time ``densecrf.refine`` beside pydensecrf2 in one run, and write medians as JSON.

The work: a photograph with faint noise and a blocky softmax of 21 labels, 6 of them present, as a network of
stride 8 gives it; 10 iterations. A: bilateral 4/50/3, B: 4/121/5, both with Gaussian 3/3. The contestants
take turns.
"""

from __future__ import annotations

import argparse
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
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

import densecrf
from densecrf import _native

PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "astronaut.jpg"
SETTINGS = {
    "A": densecrf.Params(appearance_weight=4, appearance_xy_std=50, appearance_rgb_std=3),
    "B": densecrf.Params(appearance_weight=4, appearance_xy_std=121, appearance_rgb_std=5),
}
PRESENT = 6
CASES = (
    (375, 500, 21, "A"),
    (375, 500, 21, "B"),
    (375, 500, 2, "A"),
    (321, 321, 21, "A"),
    (1024, 2048, 21, "A"),
)


def work(height: int, width: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo (H, W, 3) uint8 and probabilities (K, H, W) float32 like a network's."""
    rng = np.random.default_rng(0)
    with Image.open(PHOTO) as file:
        photo = np.asarray(file.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), np.float64)
    photo = np.clip(np.rint(photo + rng.normal(scale=1.5, size=photo.shape)), 0, 255).astype(np.uint8)
    rows, columns = height // 8 + 2, width // 8 + 2
    grey = np.asarray(Image.fromarray(photo).convert("L").resize((columns, rows), Image.Resampling.BOX))
    edges = np.quantile(grey, np.linspace(0, 1, min(PRESENT, labels) + 1)[1:-1])
    coarse = np.digitize(grey, edges)
    flipped = rng.uniform(size=coarse.shape) < 0.1
    coarse[flipped] = rng.integers(min(PRESENT, labels), size=np.count_nonzero(flipped))
    scores = 6.0 * (coarse == np.arange(labels)[:, None, None]) + rng.normal(
        scale=0.5, size=(labels, rows, columns)
    )
    fine = [
        Image.fromarray(s.astype(np.float32)).resize((8 * columns, 8 * rows), Image.Resampling.BILINEAR)
        for s in scores
    ]
    logits = np.stack([np.asarray(image)[:height, :width] for image in fine])
    powers = np.exp(logits - logits.max(0))
    return photo, (powers / powers.sum(0)).astype(np.float32)


def pydensecrf(photo: np.ndarray, probabilities: np.ndarray, params: densecrf.Params) -> np.ndarray:
    """The same CRF by the rival."""
    import pydensecrf.densecrf as dcrf

    labels, height, width = probabilities.shape
    crf = dcrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(-np.log(np.maximum(probabilities, 1e-10)).reshape(labels, -1))
    crf.addPairwiseGaussian(params.smoothness_xy_std, params.smoothness_weight)
    crf.addPairwiseBilateral(
        params.appearance_xy_std, params.appearance_rgb_std, photo, params.appearance_weight
    )
    return np.array(crf.inference(10))


def measure(
    contestants: dict[str, Callable[[], object]], rounds: int, warm: int = 2, timed: int = 3
) -> dict[str, dict[str, float]]:
    """Median wall and least processor seconds of each, in turns of some runs that count after some that do
    not.

    So each is measured as in the midst of many photos: caches are its own, and no processor comes out of
    idleness.
    """
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    processor: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            for count in range(warm + timed):
                before, started = time.process_time(), time.perf_counter()
                run()
                if count >= warm:
                    wall[name].append(time.perf_counter() - started)
                    processor[name].append(time.process_time() - before)
    return {
        name: {
            "median s": round(statistics.median(wall[name]), 4),
            "interquartile s": round(float(np.subtract(*np.percentile(wall[name], [75, 25]))), 4),
            "least processor s": round(min(processor[name]), 4),
        }
        for name in contestants
    }


def peak_memory(contestant: str, height: int, width: int, labels: int, name: str) -> int:
    """Bytes that one run takes above its inputs, in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--out",
        os.devnull,
        "--memory",
        contestant,
        str(height),
        str(width),
        str(labels),
    ]
    return int(subprocess.run([*command, name], check=True, capture_output=True, text=True).stdout)


def print_memory(contestant: str, height: str, width: str, labels: str, name: str) -> None:
    """What ``peak_memory`` asks of its process: peak after the run less peak before it."""
    photo, probabilities = work(int(height), int(width), int(labels))
    run = pydensecrf if contestant == "pydensecrf2" else densecrf.refine
    run(
        photo[:8, :8].copy(), probabilities[:, :8, :8].copy(), params=SETTINGS[name]
    )  # loads what is loaded late
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    before = _peak()
    run(photo, probabilities, params=SETTINGS[name])
    print(_peak() - before)


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def exactness(rival: bool) -> dict[str, dict[str, float]]:
    """Labels at 128×96 that differ from the exact CRF, in percent, the mean difference of marginals, and the
    time."""
    photo, probabilities = work(96, 128, 21)
    table: dict[str, dict[str, float]] = {}
    for name, params in SETTINGS.items():
        contestants: dict[str, Callable[[], np.ndarray]] = {
            f"densecrf, {backend}": partial(
                densecrf.refine, photo, probabilities, params=params, backend=backend
            )
            for backend in ("lattice", "accurate", "exact")
        }
        if rival:
            contestants["pydensecrf2"] = partial(pydensecrf, photo, probabilities, params)
        started = time.perf_counter()
        wanted = contestants.pop("densecrf, exact")()
        seconds = {"densecrf, exact": round(time.perf_counter() - started, 2)}
        seconds |= {
            contestant: figures["median s"] for contestant, figures in measure(dict(contestants), 3).items()
        }
        found = {contestant: run().reshape(wanted.shape) for contestant, run in contestants.items()}
        for contestant, marginals in (found | {"densecrf, exact": wanted}).items():
            table[f"{name}, {contestant}"] = {
                "labels that differ, %": round(
                    100 * float((marginals.argmax(0) != wanted.argmax(0)).mean()), 3
                ),
                "mean difference": float(f"{np.abs(marginals - wanted).mean():.3g}"),
                "median s": seconds[contestant],
            }
    return table


def draw(table: dict[str, dict[str, float]], path: Path) -> None:
    """The chart of error against time."""
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    colors = {
        "densecrf, lattice": "C0",
        "densecrf, accurate": "C2",
        "densecrf, exact": "k",
        "pydensecrf2": "C3",
    }
    for title, figures in table.items():
        setting, contestant = title.split(", ", 1)
        axes.plot(
            1000 * figures["median s"],
            figures["labels that differ, %"],
            {"A": "o", "B": "s"}[setting],
            color=colors[contestant],
            label=f"{contestant} ({setting})",
        )
    axes.set(
        xscale="log",
        xlabel="milliseconds (10 iterations, 128×96, 21 labels)",
        ylabel="labels unlike the exact, %",
    )
    axes.set_ylim(bottom=-0.05)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chart", type=Path, help="PNG to draw error against time into; needs matplotlib")
    parser.add_argument("--memory", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print_memory(*options.memory)
        return
    has_rival = find_spec("pydensecrf") is not None
    times: dict[str, dict[str, dict[str, float]]] = {}
    memory = {}
    for height, width, labels, name in CASES:
        photo, probabilities = work(height, width, labels)
        params = SETTINGS[name]
        contestants: dict[str, Callable[[], object]] = {}
        for threads in (1, 2):
            run = partial(densecrf.refine, photo, probabilities, params=params, threads=threads)
            contestants[f"densecrf, {threads} thread{'s' * (threads > 1)}"] = run
        if has_rival:
            contestants["pydensecrf2"] = partial(pydensecrf, photo, probabilities, params)
        title = f"{width}x{height}, {labels} labels, {name}"
        large = height * width > 10**6
        times[title] = measure(contestants, 2, 1, 2) if large else measure(contestants, options.rounds)
        for contestant in ["densecrf", "pydensecrf2"][: 1 + has_rival]:
            memory[f"{title}, {contestant}"] = round(
                peak_memory(contestant, height, width, labels, name) / 1e6
            )
        for contestant, figures in times[title].items():
            slowest = times[title]["pydensecrf2"]["median s"] if has_rival else float("nan")
            share = f"{slowest / figures['median s']:5.2f}x"
            print(f"{title:27s} {contestant:20s} {figures['median s']:7.3f} s {share}", flush=True)
    errors = exactness(has_rival)
    if options.chart:
        draw(errors, options.chart)
    record = {
        "date": date.today().isoformat(),
        "processor": processor_name(),
        "instruction set": _native.simd_level(),
        "versions": {
            "densecrf": densecrf.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "rounds of runs": options.rounds,
        "rival": "pydensecrf2" if has_rival else "not installed",
        "seconds": times,
        "peak MB above the inputs": memory,
        "against the exact CRF, 128x96, 21 labels": errors,
    }
    options.out.write_text(json.dumps(record, indent=2) + "\n")


def processor_name() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()
