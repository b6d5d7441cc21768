"""Refuse at once what the system would kill the process for later, and give back what is free."""

from __future__ import annotations

import ctypes
from pathlib import Path


def available() -> int | None:
    """Bytes that this process can still take before the system swaps or kills; None where it does not say."""
    limits = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
        folder = Path("/sys/fs/cgroup")  # a container's own limit
        most = (folder / "memory.max").read_text().strip()
        if most != "max":
            limits.append(int(most) - int((folder / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return max(0, min(limits)) if limits else None


def require(needed: int, what: str) -> None:
    """MemoryError if ``needed`` bytes are more than can be had; ``what`` begins the message."""
    free = available()
    if free is not None and needed > free:
        raise MemoryError(
            f"{what} needs about {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; use a smaller image, or tiles"
        )


def give_back() -> None:
    """Return freed memory to the system where the C library keeps it (glibc); elsewhere nothing happens.

    Arrays of some megabytes that come and go leave holes between those that stay. In a process that is to stay within
    a limit for hours, the holes add up.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return
    trim(ctypes.c_size_t(0))
