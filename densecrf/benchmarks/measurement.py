"""Time and memory of runs, and the record that every benchmark writes."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import densecrf
from densecrf import _native


def measure(
    methods: dict[str, Callable[[], object]], rounds: int, warm_up: int = 2, timed: int = 3
) -> dict[str, dict[str, float]]:
    """Median wall time and minimum processor time of each method, in seconds.

    The methods take turns. In each turn a few runs warm up caches and processors before the timed ones, so
    that each method is measured as if it ran on many photos in a row.

    Args:
        methods: functions by name.
        rounds: number of turns of each method.
        warm_up: number of runs in a turn that are not timed.
        timed: number of runs in a turn that are timed.
    """
    wall: dict[str, list[float]] = {name: [] for name in methods}
    processor: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, run in methods.items():
            for count in range(warm_up + timed):
                before, started = time.process_time(), time.perf_counter()
                run()
                if count >= warm_up:
                    wall[name].append(time.perf_counter() - started)
                    processor[name].append(time.process_time() - before)
    return {
        name: {
            "median s": round(statistics.median(wall[name]), 4),
            "interquartile s": round(float(np.subtract(*np.percentile(wall[name], [75, 25]))), 4),
            "least processor s": round(min(processor[name]), 4),
        }
        for name in methods
    }


def memory_of(run: Callable[[], object]) -> int:
    """Bytes that a run takes at its peak above what this process has before it (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the memory in use
    before = _peak_memory()
    run()
    return _peak_memory() - before


def _peak_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def environment(**versions: str) -> dict[str, Any]:
    """Date, processor and versions for a record.

    Args:
        versions: versions of other packages than densecrf, by name.
    """
    return {
        "date": date.today().isoformat(),
        "processor": processor_name(),
        "instruction set": _native.simd_level(),
        "versions": {
            "densecrf": densecrf.__version__,
            **versions,
            "python": platform.python_version(),
        },
    }


def processor_name() -> str:
    """The model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
