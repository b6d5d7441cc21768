"""Free memory: its amount, an early refusal of what would not fit, and the return of unused pages."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path


def available(root: str | Path = "/") -> int | None:
    """Bytes that this process can still allocate before the system swaps or kills it.

    This is the minimum of the free memory of the machine and of each control group of the process, such as a
    container: its limit minus what is in use. Cached files that have not been used lately (inactive_file) do
    not count as in use, as the system drops them first. Versions 1 and 2 of control groups are supported.

    Args:
        root: root of the file system that contains /proc and /sys/fs/cgroup.

    Returns:
        The number of bytes, at least 0; None where the system does not tell.

    Source: the Linux kernel's documentation, admin-guide/cgroup-v2 and cgroup-v1/memory.
    """
    root = Path(root)
    limits = [value for value in (_free_on_machine(root), *_free_in_groups(root)) if value is not None]
    return max(0, min(limits)) if limits else None


def require(needed: int, what: str) -> None:
    """Refuse work that needs more memory than is free.

    Args:
        needed: number of bytes that the work takes.
        what: name of the work, with which the message begins.

    Raises:
        MemoryError: if fewer bytes are free.
    """
    free = available()
    if free is not None and needed > free:
        raise MemoryError(
            f"{what} needs about {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; "
            "use a smaller image, or tiles"
        )


def give_back() -> None:
    """Return freed memory to the system where the C library keeps it (glibc); elsewhere do nothing.

    Arrays of a few megabytes that are freed leave holes between those that stay. In a process that has to
    stay within a limit for hours, the holes add up.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return
    trim(ctypes.c_size_t(0))


def _free_on_machine(root: Path) -> int | None:
    kilobytes = _numbers(root / "proc/meminfo").get("MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _free_in_groups(root: Path) -> Iterator[int]:
    """Free bytes of each control group of the process, version 2 first."""
    own = {"": "", "memory": ""}  # paths by controller, which is empty in version 2; a container sees "/"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        own |= {name: path.strip("/") for name in controllers.split(",") if name in own}
    base = root / "sys/fs/cgroup"
    for folder in _folders_upwards(base, own[""]):
        yield from _free_in_group(folder, "memory.max", "memory.current", "inactive_file")
    for folder in _folders_upwards(base / "memory", own["memory"]):
        yield from _free_in_group(
            folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        )


def _folders_upwards(base: Path, path: str) -> list[Path]:
    """The folder of a group and those above it; in a container, the path of the host may not exist."""
    folder = base / path
    return [folder, *(parent for parent in folder.parents if parent == base or base in parent.parents)]


def _free_in_group(folder: Path, limit: str, usage: str, cache: str) -> Iterator[int]:
    """The free bytes of the group in a folder, if it has a limit. The other arguments are names in there."""
    allowed = _text(folder / limit).strip()
    used = _text(folder / usage).strip()
    if allowed.isdecimal() and used.isdecimal():  # "max" means no limit
        yield int(allowed) - max(0, int(used) - _numbers(folder / "memory.stat").get(cache, 0))


def _numbers(path: Path) -> dict[str, int]:
    """The first number in each line of a file, by the first word of the line."""
    parts = [line.split() for line in _text(path).splitlines()]
    return {part[0]: int(part[1]) for part in parts if len(part) > 1 and part[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
