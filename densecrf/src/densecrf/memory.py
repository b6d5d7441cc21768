"""Refuse at once what the system would kill the process for later, and give back what is free."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path


def available(root: str | Path = "/") -> int | None:
    """Bytes that this process can still take before the system swaps or kills.

    That is the least of what the machine has and what each control group above the process leaves: a
    container's limit, less what is in use. Cached files that nobody has used lately (inactive_file) are not
    in use, as the system drops them first. Both versions of control groups are understood.

    Args:
        root: of the file system that /proc and /sys/fs/cgroup lie in.

    Returns:
        The number, at least 0; None where the system does not say.

    Source: the Linux kernel's documentation, admin-guide/cgroup-v2 and cgroup-v1/memory.
    """
    root = Path(root)
    limits = [value for value in (_of_machine(root), *_of_groups(root)) if value is not None]
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

    Arrays of some megabytes that come and go leave holes between those that stay. In a process that is to
    stay within a limit for hours, the holes add up.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return
    trim(ctypes.c_size_t(0))


def _of_machine(root: Path) -> int | None:
    kilobytes = _figures(root / "proc/meminfo").get("MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _of_groups(root: Path) -> Iterator[int]:
    """What each control group that the process is in leaves, version 2 and version 1."""
    own = {"": "", "memory": ""}  # by the controllers' name, which version 2 leaves out; a container sees "/"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        own |= {name: path.strip("/") for name in controllers.split(",") if name in own}
    base = root / "sys/fs/cgroup"
    for folder in _upwards(base, own[""]):
        yield from _left(folder, "memory.max", "memory.current", "inactive_file")
    for folder in _upwards(base / "memory", own["memory"]):
        yield from _left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _upwards(base: Path, path: str) -> list[Path]:
    """The folder of a group and those above it; a container may see the path of the host, which is not
    there."""
    folder = base / path
    return [folder, *(parent for parent in folder.parents if parent == base or base in parent.parents)]


def _left(folder: Path, limit: str, usage: str, cache: str) -> Iterator[int]:
    most, used = _text(folder / limit).strip(), _text(folder / usage).strip()
    if most.isdecimal() and used.isdecimal():  # "max" is no limit
        yield int(most) - max(0, int(used) - _figures(folder / "memory.stat").get(cache, 0))


def _figures(path: Path) -> dict[str, int]:
    """The first number of each line of a file by its first word."""
    parts = [line.split() for line in _text(path).splitlines()]
    return {part[0]: int(part[1]) for part in parts if len(part) > 1 and part[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
