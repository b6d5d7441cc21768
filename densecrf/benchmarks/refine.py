"""Time ``densecrf.refine`` and pydensecrf2 in one run, and write medians as JSON.

The scene is a photo with faint noise and a blocky softmax of 21 labels, 6 of them present, as from a network
of stride 8; in hard cases, noise on every pixel's scores lifts all 21 labels above the merge threshold
somewhere, so that none can be merged at the start. All methods take 10 iterations. Setting A has a bilateral
kernel 4/50/3, setting B 4/121/5, both have a Gaussian kernel 3/3.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from measurement import environment, measure, memory_of
from phases import phase_table, print_phases
from PIL import Image

import densecrf

PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "astronaut.jpg"
SETTINGS = {
    "A": densecrf.Params(appearance_weight=4, appearance_xy_std=50, appearance_rgb_std=3),
    "B": densecrf.Params(appearance_weight=4, appearance_xy_std=121, appearance_rgb_std=5),
}
PRESENT_LABELS = 6
HARD_NOISE = 1.0
CASES = (
    (375, 500, 21, "A", True),
    (375, 500, 21, "B", True),
    (375, 500, 2, "A", True),
    (1024, 2048, 21, "A", True),
    (375, 500, 21, "A", False),
    (375, 500, 21, "B", False),
    (375, 500, 2, "A", False),
    (321, 321, 21, "A", False),
    (1024, 2048, 21, "A", False),
)
"""Height, width, number of labels, setting, and whether the case is hard."""


def make_scene(height: int, width: int, labels: int, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A photo and probabilities like a network's.

    Args:
        height: H in pixels.
        width: W in pixels.
        labels: number of labels K.
        noise: standard deviation of the noise on every pixel's scores, in nats.

    Returns:
        (H, W, 3) uint8 and (K, H, W) float32.
    """
    rng = np.random.default_rng(0)
    with Image.open(PHOTO) as file:
        photo = np.asarray(file.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), np.float64)
    photo = np.clip(np.rint(photo + rng.normal(scale=1.5, size=photo.shape)), 0, 255).astype(np.uint8)
    rows, columns = height // 8 + 2, width // 8 + 2
    grey = np.asarray(Image.fromarray(photo).convert("L").resize((columns, rows), Image.Resampling.BOX))
    edges = np.quantile(grey, np.linspace(0, 1, min(PRESENT_LABELS, labels) + 1)[1:-1])
    coarse = np.digitize(grey, edges)
    flipped = rng.uniform(size=coarse.shape) < 0.1
    coarse[flipped] = rng.integers(min(PRESENT_LABELS, labels), size=np.count_nonzero(flipped))
    scores = 6.0 * (coarse == np.arange(labels)[:, None, None]) + rng.normal(
        scale=0.5, size=(labels, rows, columns)
    )
    fine = [
        Image.fromarray(s.astype(np.float32)).resize((8 * columns, 8 * rows), Image.Resampling.BILINEAR)
        for s in scores
    ]
    logits = np.stack([np.asarray(image)[:height, :width] for image in fine])
    if noise:
        logits += rng.normal(scale=noise, size=logits.shape)
    powers = np.exp(logits - logits.max(0))
    return photo, (powers / powers.sum(0)).astype(np.float32)


def pydensecrf(photo: np.ndarray, probabilities: np.ndarray, params: densecrf.Params) -> np.ndarray:
    """Marginals (K, H·W) of the same CRF by pydensecrf2.

    Args:
        photo: (H, W, 3) uint8.
        probabilities: (K, H, W).
        params: weights and widths; normalisation is symmetric.
    """
    import pydensecrf.densecrf as dcrf

    return _by_script(dcrf, photo, probabilities, params)


def drop_in(photo: np.ndarray, probabilities: np.ndarray, params: densecrf.Params) -> np.ndarray:
    """The same with ``densecrf.pydensecrf``, which merges no labels and skips no pixels."""
    import densecrf.pydensecrf as dcrf

    return _by_script(dcrf, photo, probabilities, params)


def _by_script(
    dcrf: Any, photo: np.ndarray, probabilities: np.ndarray, params: densecrf.Params
) -> np.ndarray:
    labels, height, width = probabilities.shape
    crf = dcrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(-np.log(np.maximum(probabilities, 1e-10)).reshape(labels, -1))
    crf.addPairwiseGaussian(params.smoothness_xy_std, params.smoothness_weight)
    crf.addPairwiseBilateral(
        params.appearance_xy_std, params.appearance_rgb_std, photo, params.appearance_weight
    )
    return np.array(crf.inference(10))


def memory_in_process(method: str, height: int, width: int, labels: int, setting: str, is_hard: bool) -> int:
    """Bytes that one run takes above its inputs, in a process of its own.

    Args:
        method: "densecrf" or "pydensecrf2".
        height: H in pixels.
        width: W in pixels.
        labels: number of labels K.
        setting: "A" or "B".
        is_hard: whether noise lifts all labels.
    """
    case = [method, str(height), str(width), str(labels), setting, "hard" if is_hard else "easy"]
    command = [sys.executable, __file__, "--out", os.devnull, "--memory", *case]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory(method: str, height: str, width: str, labels: str, setting: str, kind: str) -> None:
    """Print what ``memory_in_process`` returns; the arguments are those of the command line."""
    noise = HARD_NOISE if kind == "hard" else 0.0
    photo, probabilities = make_scene(int(height), int(width), int(labels), noise)
    run = pydensecrf if method == "pydensecrf2" else densecrf.refine
    params = SETTINGS[setting]
    # A small run first loads what is loaded on first use.
    run(photo[:8, :8].copy(), probabilities[:, :8, :8].copy(), params=params)
    print(memory_of(lambda: run(photo, probabilities, params=params)))


def compare_with_exact(has_pydensecrf: bool) -> dict[str, dict[str, float]]:
    """Differing labels in percent, mean difference of marginals and time, against the exact CRF at 128×96."""
    photo, probabilities = make_scene(96, 128, 21)
    table: dict[str, dict[str, float]] = {}
    for setting, params in SETTINGS.items():
        methods: dict[str, Callable[[], np.ndarray]] = {
            f"densecrf, {backend}": partial(
                densecrf.refine, photo, probabilities, params=params, backend=backend
            )
            for backend in ("lattice", "accurate", "exact")
        }
        if has_pydensecrf:
            methods["pydensecrf2"] = partial(pydensecrf, photo, probabilities, params)
        started = time.perf_counter()
        expected = methods.pop("densecrf, exact")()
        seconds = {"densecrf, exact": round(time.perf_counter() - started, 2)}
        seconds |= {method: times["median s"] for method, times in measure(dict(methods), 3).items()}
        results = {method: run().reshape(expected.shape) for method, run in methods.items()}
        for method, marginals in (results | {"densecrf, exact": expected}).items():
            differing = 100 * float((marginals.argmax(0) != expected.argmax(0)).mean())
            table[f"{setting}, {method}"] = {
                "labels that differ, %": round(differing, 3),
                "mean difference": float(f"{np.abs(marginals - expected).mean():.3g}"),
                "median s": seconds[method],
            }
    return table


def draw(table: dict[str, dict[str, float]], path: Path) -> None:
    """Draw error against time.

    Args:
        table: result of ``compare_with_exact``.
        path: PNG to write.
    """
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
        setting, method = title.split(", ", 1)
        axes.plot(
            1000 * figures["median s"],
            figures["labels that differ, %"],
            {"A": "o", "B": "s"}[setting],
            color=colors[method],
            label=f"{method} ({setting})",
        )
    axes.set(
        xscale="log",
        xlabel="milliseconds (10 iterations, 128×96, 21 labels)",
        ylabel="labels that differ from the exact CRF, %",
    )
    axes.set_ylim(bottom=-0.05)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def case_title(height: int, width: int, labels: int, setting: str, is_hard: bool) -> str:
    """Name of a case in the record; the arguments are those of ``time_case``."""
    return f"{width}x{height}, {labels} labels, {setting}{', hard' if is_hard else ''}"


def time_case(
    height: int,
    width: int,
    labels: int,
    setting: str,
    is_hard: bool,
    rounds: int,
    has_pydensecrf: bool,
) -> dict[str, dict[str, float]]:
    """Times of all methods on one scene, which are also printed.

    Args:
        height: H in pixels.
        width: W in pixels.
        labels: number of labels K.
        setting: "A" or "B".
        is_hard: whether noise lifts all labels.
        rounds: number of turns of each method; a large scene has fewer.
        has_pydensecrf: whether pydensecrf2 is installed.
    """
    photo, probabilities = make_scene(height, width, labels, HARD_NOISE if is_hard else 0.0)
    params = SETTINGS[setting]
    methods: dict[str, Callable[[], object]] = {}
    for threads in (1, 2):
        run = partial(densecrf.refine, photo, probabilities, params=params, threads=threads)
        methods[f"densecrf, {threads} thread{'s' * (threads > 1)}"] = run
    methods["densecrf.pydensecrf"] = partial(drop_in, photo, probabilities, params)
    if has_pydensecrf:
        methods["pydensecrf2"] = partial(pydensecrf, photo, probabilities, params)
    is_large = height * width > 10**6
    times = measure(methods, min(rounds, 2), 1, 1) if is_large else measure(methods, rounds)
    title = case_title(height, width, labels, setting, is_hard)
    for method, figures in times.items():
        reference = times["pydensecrf2"]["median s"] if has_pydensecrf else float("nan")
        speed_up = f"{reference / figures['median s']:5.2f}x"
        print(f"{title:32s} {method:20s} {figures['median s']:7.3f} s {speed_up}", flush=True)
    return times


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chart", type=Path, help="PNG to draw error against time into; needs matplotlib")
    parser.add_argument("--memory", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print_memory(*options.memory)
        return
    has_pydensecrf = find_spec("pydensecrf") is not None
    times: dict[str, dict[str, dict[str, float]]] = {}
    memory = {}
    for case in CASES:
        title = case_title(*case)
        times[title] = time_case(*case, options.rounds, has_pydensecrf)
        for method in ["densecrf", "pydensecrf2"][: 1 + has_pydensecrf]:
            memory[f"{title}, {method}"] = round(memory_in_process(method, *case) / 1e6)
    errors = compare_with_exact(has_pydensecrf)
    phases = phase_table(*make_scene(375, 500, 21, HARD_NOISE), SETTINGS["A"])
    print_phases(phases)
    if options.chart:
        draw(errors, options.chart)
    record = environment(numpy=np.__version__) | {
        "rounds of runs": options.rounds,
        "rival": "pydensecrf2" if has_pydensecrf else "not installed",
        "seconds": times,
        "peak MB above the inputs": memory,
        "against the exact CRF, 128x96, 21 labels": errors,
        "phases of 500x375, 21 labels, A, hard": phases,
    }
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
