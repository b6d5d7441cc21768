"""How much memory is free, what is refused, and what is returned to the system."""

import platform
import subprocess
import sys

import pytest

from densecrf import memory

HOLES = """
from pathlib import Path
import numpy as np
from densecrf import memory

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

arrays = [np.ones(8000) for _ in range(4000)]
kept = arrays[::40]
arrays = None
before = resident()
memory.give_back()
assert all((array == 1).all() for array in kept)
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep no freed memory")
def test_holes_between_arrays_are_returned_to_the_system():
    done = subprocess.run([sys.executable, "-c", HOLES], check=True, capture_output=True, text=True)
    assert int(done.stdout) > 100_000  # kilobytes, of 256,000


def test_too_large_requests_are_refused_with_the_free_amount(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2_000_000_000)
    memory.require(2_000_000_000, "a photo")
    with pytest.raises(MemoryError, match=r"a photo needs about 3\.0 GB, but 2\.0 GB are free"):
        memory.require(3_000_000_000, "a photo")
    monkeypatch.setattr(memory, "available", lambda: None)  # a system that does not tell
    memory.require(10**15, "a photo")


def put(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


MEMINFO = "MemTotal:       16000000 kB\nMemFree:          500000 kB\nMemAvailable:    8000000 kB\n"
STAT = "anon 700000000\nfile 1300000000\ninactive_file 1200000000\nactive_file 100000000\n"
V2 = {"memory.max": "3000000000\n", "memory.current": "2500000000\n", "memory.stat": STAT}
V1 = {
    "memory.limit_in_bytes": "3000000000\n",
    "memory.usage_in_bytes": "2500000000\n",
    "memory.stat": "cache 5\ninactive_file 7\ntotal_inactive_file 1200000000\n",
}
GROUPS = "12:cpu,cpuacct:/docker/a\n5:memory:/docker/a\n1:name=systemd:/docker/a\n0::/docker/b\n"


def below(folder, files):
    return {f"sys/fs/cgroup/{folder}{name}": content for name, content in files.items()}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/meminfo": MEMINFO}, 8_000_000 * 1024),
        ({"proc/meminfo": "an unknown format\n\n"}, None),
        ({"proc/meminfo": MEMINFO} | below("", V2), 1_700_000_000),  # cached files count as free
        ({"proc/meminfo": MEMINFO} | below("", V2 | {"memory.max": "max\n"}), 8_000_000 * 1024),
        (below("", {k: v for k, v in V2.items() if k != "memory.stat"}), 500_000_000),
        (below("", V2 | {"memory.current": "4300000000"}), 0),  # over its limit: never negative
        # the two files may be from different moments
        (below("", V2 | {"memory.current": "1000000000"}), 3_000_000_000),
        ({"proc/meminfo": "MemAvailable: 1000 kB\n"} | below("", V2), 1_024_000),
        (below("memory/", V1), 1_700_000_000),
        (
            {"proc/meminfo": MEMINFO}
            | below("memory/", V1 | {"memory.limit_in_bytes": "9223372036854771712"}),
            8192e6,
        ),
        ({"proc/self/cgroup": GROUPS} | below("docker/b/", V2), 1_700_000_000),
        ({"proc/self/cgroup": GROUPS} | below("docker/a/", V2), None),
        ({"proc/self/cgroup": GROUPS} | below("memory/docker/a/", V1), 1_700_000_000),
        (  # a group within another one with a lower limit
            {"proc/self/cgroup": GROUPS}
            | below("docker/b/", V2)
            | below("docker/", V2 | {"memory.max": "2000000000"}),
            700_000_000,
        ),
        ({"proc/self/cgroup": "0::/of/the/host\n"} | below("", V2), 1_700_000_000),
        (below("", V2 | {"memory.max": "junk"}), None),
    ],
)
def test_available_memory(tmp_path, files, expected):
    put(tmp_path, files)
    assert memory.available(tmp_path) == expected


def test_available_memory_of_this_machine():
    free = memory.available()
    assert free is None or free > 0
