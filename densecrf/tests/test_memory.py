"""What memory is free, what is refused, and what is given back."""

import platform
import subprocess
import sys

import pytest

from densecrf import memory

HOLES = """
from pathlib import Path
import numpy as np
from densecrf import memory

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

arrays = [np.ones(8000) for _ in range(4000)]
kept = arrays[::40]
arrays = None
before = held()
memory.give_back()
assert all((array == 1).all() for array in kept)
print(before - held())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep no freed memory")
def test_holes_between_arrays_are_given_back():
    done = subprocess.run([sys.executable, "-c", HOLES], check=True, capture_output=True, text=True)
    assert int(done.stdout) > 100_000  # kilobytes, of 256,000


def test_more_than_there_is_is_refused_with_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2_000_000_000)
    memory.require(2_000_000_000, "a photo")
    with pytest.raises(MemoryError, match=r"a photo needs about 3\.0 GB, but 2\.0 GB are free"):
        memory.require(3_000_000_000, "a photo")
    monkeypatch.setattr(memory, "available", lambda: None)  # a system that does not say
    memory.require(10**15, "a photo")
