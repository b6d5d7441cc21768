"""Where the time of ``densecrf.refine`` goes: processor time of each phase, and the memory that it moves."""

from __future__ import annotations

import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import densecrf
from densecrf import lattice
from densecrf.crf import CONVERGENCE_TOLERANCE, MERGE_THRESHOLD
from densecrf.unary import FLOOR

ROW_BYTES = 32
"""Of a pixel or vertex: eight lanes."""
NEIGHBOUR_BYTES = 8
"""Of a vertex and axis: the rows of its two neighbours."""


def stream(threads: int, megabytes: int = 256) -> float:
    """Bandwidth of copies of large arrays by so many threads, in GB/s, reads and writes together."""
    arrays = [np.ones(megabytes * 2**17) for _ in range(threads)]
    copies = [np.empty_like(array) for array in arrays]
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(4):
            started = time.perf_counter()
            list(pool.map(np.copyto, copies, arrays))
            best = min(best, time.perf_counter() - started)
    return 2 * sum(array.nbytes for array in arrays) / best / 1e9


def phase_table(
    photo: np.ndarray, probabilities: np.ndarray, params: densecrf.Params, repeats: int = 5
) -> dict[str, dict[str, dict[str, float]]]:
    """Least processor time of each phase for one and two threads, with bytes where they can be counted.

    Args:
        photo: (H, W, 3) uint8.
        probabilities: (K, H, W) float32.
        params: weights and widths.
        repeats: number of runs.

    Returns:
        For "1 thread" and "2 threads": for each phase "CPU ms", for blurs "MB" and "GB/s" of what they read
        and write, too; and "stream", the bandwidth of large copies.
    """
    table: dict[str, dict[str, dict[str, float]]] = {}
    for threads in (1, 2):
        least: dict[str, float] = defaultdict(lambda: float("inf"))
        for _ in range(repeats):
            for phase, seconds in _run_once(photo, probabilities, params, threads).items():
                least[phase] = min(least[phase], seconds)
        least["normalisation"] = least.pop("lattice and normalisation") - least["lattice"]
        traffic = _bytes(photo, params)
        rows = {
            phase: {"CPU ms": round(1e3 * seconds, 1)}
            | (
                {
                    "MB": round(traffic[phase] / 1e6),
                    "GB/s": round(threads * traffic[phase] / seconds / 1e9, 1),
                }
                if phase in traffic and seconds > 0
                else {}
            )
            for phase, seconds in least.items()
        }
        rows["stream"] = {"GB/s": round(stream(threads), 1)}
        table[f"{threads} thread{'s' * (threads > 1)}"] = rows
    return table


def print_phases(table: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the result of ``phase_table``."""
    for threads, rows in table.items():
        for phase, figures in rows.items():
            print(f"{threads:10s} {phase:34s}", *(f"{v:8.1f} {unit}" for unit, v in figures.items()))


def _run_once(
    photo: np.ndarray, probabilities: np.ndarray, params: densecrf.Params, threads: int
) -> dict[str, float]:
    seconds = {}
    last = time.process_time()

    def end(phase: str) -> None:
        nonlocal last
        now = time.process_time()
        seconds[phase] = now - last
        last = now

    height, width = photo.shape[:2]
    smoothness = densecrf.Gaussian((height, width), params.smoothness_xy_std)
    grid = lattice.Kernel(smoothness.features(), params.normalization, True, threads=threads)  # kept
    last = time.process_time()
    bilateral = densecrf.Bilateral(photo, params.appearance_xy_std, params.appearance_rgb_std)
    features = bilateral.features()
    end("features")
    densecrf.Lattice(features, threads=threads)
    end("lattice")
    kernel = lattice.Kernel(features, params.normalization, True, threads=threads)
    end("lattice and normalisation")
    planes = np.ascontiguousarray(probabilities.reshape(len(probabilities), -1))
    strengths = [np.full(len(planes), w) for w in (params.smoothness_weight, params.appearance_weight)]
    field = lattice.MeanField(
        planes,
        [grid, kernel],
        strengths,
        merge_threshold=MERGE_THRESHOLD,
        convergence_tolerance=CONVERGENCE_TOLERANCE,
        threads=threads,
        floor=FLOOR,
    )
    field.run(10)
    field.finish()
    return seconds | {f"10 steps: {phase}": s for phase, s in field.phase_seconds().items() if s > 0}


def _bytes(photo: np.ndarray, params: densecrf.Params) -> dict[str, float]:
    """What the blurs of ten steps of eight lanes read and write, from memory or from caches."""
    smoothness = densecrf.Gaussian(photo.shape[:2], params.smoothness_xy_std)
    appearance = densecrf.Bilateral(photo, params.appearance_xy_std, params.appearance_rgb_std)
    blur = 0
    for features, axes in ((smoothness.features(), 3), (appearance.features(), 6)):
        blur += densecrf.Lattice(features).vertices * axes * (2 * ROW_BYTES + NEIGHBOUR_BYTES)
    return {"10 steps: blur": 10 * blur}
