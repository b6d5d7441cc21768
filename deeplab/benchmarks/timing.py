"""Used by the benchmarks: wall times of several methods that take turns."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable

Times = dict[str, dict[str, float]]
"""Median and best seconds by method."""


def in_turns(methods: dict[str, Callable[[], object]], runs: int) -> Times:
    """Median and best wall time of each method.

    The methods take turns, so that noise of the machine affects all of them equally. One round before is not
    counted.

    Args:
        methods: functions by name.
        runs: number of rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(runs + 1):
        for name, work in methods.items():
            started = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - started)
    return {
        name: {"median s": round(statistics.median(seconds), 4), "best s": round(min(seconds), 4)}
        for name, seconds in times.items()
    }


def best_of_three(command: list[str]) -> float:
    """Best of three wall times of a command, in seconds."""
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        best = min(best, time.perf_counter() - started)
    return round(best, 3)
