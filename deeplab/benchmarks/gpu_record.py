"""Used by gpu.py: the record of a run, which is written to a file after every measurement."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RUNS = (3, 20)
"""Minimum and maximum number of runs of which a median is taken."""
MAX_SECONDS = 0.4
"""Seconds after which no further run of the same work is started."""


class Record:
    """A JSON file of sections, each of named results.

    Args:
        path: the file; what it holds already is kept.
        device: the device that is measured.
        small: whether to use the sizes of a test.
        seconds: time after which no new measurement is started.
    """

    def __init__(self, path: Path, device: torch.device, *, small: bool = False, seconds: float = 600.0):
        self.path = path
        self.device = device
        self.small = small
        self._end = time.monotonic() + seconds
        self.data: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._end

    def put(self, section: str, name: str, value: Any) -> None:
        """Add a result and write the file, which is complete at every moment.

        Args:
            section: name of the section.
            name: name of the result.
            value: anything that JSON can hold.
        """
        self.data.setdefault(section, {})[name] = value
        temporary = self.path.with_name(f".{self.path.name}.part")
        temporary.write_text(json.dumps(self.data, indent=2, ensure_ascii=False) + "\n")
        os.replace(temporary, self.path)
        print(f"{section} | {name} | {json.dumps(value, ensure_ascii=False)[:300]}", flush=True)

    def attempt(self, section: str, name: str, work: Callable[[], Any]) -> Any:
        """Add the result of some work; if it fails, add its traceback and continue.

        Args:
            section: name of the section.
            name: name of the result.
            work: returns the result; None is not added.
        """
        if self.is_over:
            self.put(section, name, {"left out": "the time was up"})
            return None
        try:
            value = work()
        except Exception as error:
            lines = traceback.format_exc().splitlines()[-12:]
            self.put(section, name, {"failed": " ".join(str(error).split())[:300], "traceback": lines})
            print("\n".join(lines), file=sys.stderr, flush=True)
            return None
        if value is not None:
            self.put(section, name, value)
        return value

    def milliseconds(self, work: Callable[[], object], repeats: int = 1) -> list[float]:
        """Times of several runs after a warm-up; on a GPU between events on its stream, with all kernels.

        With the sizes of a test the work runs once.

        Args:
            work: what to time.
            repeats: for work shorter than its launch: number of calls in a run, of which the mean is taken.
        """
        if self.small and self.device.type == "cpu":
            started = time.perf_counter()
            work()
            return [1000 * (time.perf_counter() - started)]
        return _milliseconds(work, self.device, repeats)

    def time(self, section: str, name: str, work: Callable[[], object], **facts: Any) -> None:
        """Add the median and best milliseconds of some work.

        Args:
            section: name of the section.
            name: name of the result.
            work: what to time.
            facts: what else to add to the result.
        """

        def measured() -> dict[str, Any]:
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            times = self.milliseconds(work)
            result = {"median ms": round(statistics.median(times), 3), "best ms": round(min(times), 3)}
            if self.device.type == "cuda":
                result["peak GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
            return result | {"runs": len(times)} | facts

        self.attempt(section, name, measured)


def _milliseconds(work: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    times: list[float] = []
    started = time.monotonic()
    while len(times) < RUNS[0] or (len(times) < RUNS[1] and time.monotonic() - started < MAX_SECONDS):
        times.append(_run_milliseconds(work, device, repeats) / repeats)
        if time.monotonic() - started > 4 * MAX_SECONDS:
            break
    return times


def _run_milliseconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    if device.type == "cuda":
        first, last = _event(), _event()
        first.record()
        for _ in range(repeats):
            work()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last))
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    return 1000 * (time.perf_counter() - started)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
