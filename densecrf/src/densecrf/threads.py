"""How many threads to use."""

from __future__ import annotations

import os


def thread_count(threads: int | None) -> int:
    """``threads`` if given and positive, else the number of processors this process may use."""
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise ValueError(f"got {threads} threads, wanted at least 1, or None for all")
    return threads
