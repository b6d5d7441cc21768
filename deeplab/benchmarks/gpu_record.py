"""What a run on a GPU measured: kept in a JSON file number by number, so that a run that is cut off leaves
the rest."""

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
"""Fewest and most runs that a median is taken of."""
PATIENCE = 0.4
"""Seconds after which no further run of the same work is begun."""


class Record:
    """A JSON file of sections, each of named results.

    Args:
        path: of the file; what it holds already is kept.
        device: that is measured on.
        small: whether sizes are those of a test.
        seconds: after which no new measurement is begun.
    """

    def __init__(self, path: Path, device: torch.device, *, small: bool = False, seconds: float = 600.0):
        self.path, self.device, self.small = path, device, small
        self._end = time.monotonic() + seconds
        self.data: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._end

    def put(self, section: str, name: str, value: Any) -> None:
        """Keep a result; the file is whole at every moment."""
        self.data.setdefault(section, {})[name] = value
        aside = self.path.with_name(f".{self.path.name}.part")
        aside.write_text(json.dumps(self.data, indent=2, ensure_ascii=False) + "\n")
        os.replace(aside, self.path)
        print(f"{section} | {name} | {json.dumps(value, ensure_ascii=False)[:300]}", flush=True)

    def attempt(self, section: str, name: str, work: Callable[[], Any]) -> Any:
        """Keep what some work gives; of work that fails its traceback, and what comes after goes on."""
        if self.late:
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
        """Of some runs after one that warms up; on a GPU between events on its stream, all kernels included.

        More repeats are for work shorter than its launch: so many at a time, of which the mean is taken. At
        the sizes of a test it runs once.
        """
        if self.small and self.device.type == "cpu":
            begun = time.perf_counter()
            work()
            return [1000 * (time.perf_counter() - begun)]
        return _milliseconds(work, self.device, repeats)

    def time(self, section: str, name: str, work: Callable[[], object], **facts: Any) -> None:
        """Keep the median and least milliseconds of some work, after one run that warms up, beside other
        facts."""

        def measured() -> dict[str, Any]:
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            times = self.milliseconds(work)
            found = {"median ms": round(statistics.median(times), 3), "best ms": round(min(times), 3)}
            if self.device.type == "cuda":
                found["peak GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
            return found | {"runs": len(times)} | facts

        self.attempt(section, name, measured)


def _milliseconds(work: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    work()
    _wait(device)
    times: list[float] = []
    started = time.monotonic()
    while len(times) < RUNS[0] or (len(times) < RUNS[1] and time.monotonic() - started < PATIENCE):
        if device.type == "cuda":
            first, last = _event(), _event()
            first.record()
            for _ in range(repeats):
                work()
            last.record()
            last.synchronize()
            times.append(first.elapsed_time(last) / repeats)
        else:
            begun = time.perf_counter()
            for _ in range(repeats):
                work()
            times.append(1000 * (time.perf_counter() - begun) / repeats)
        if time.monotonic() - started > 4 * PATIENCE:
            break
    return times


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
