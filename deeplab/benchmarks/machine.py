"""Used by the benchmarks: what they ran on, peak memory, and writing the record."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

TWO_PREDICTIONS = """
import json, sys
sys.path.insert(0, sys.argv[2])
import numpy
import deeplab
from machine import peak_megabytes
model = deeplab.load(**json.loads(sys.argv[1]))
for _ in range(2):
    model.predictor.probabilities([numpy.zeros((513, 513, 3), 'uint8')])
print(peak_megabytes())
"""


def processor() -> str:
    """The processor's name as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_megabytes() -> int | None:
    """Peak memory of this process in MB; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        line = next(line for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024 // 10**6


def peak_of_prediction(**options: Any) -> int | None:
    """Peak memory in MB of a new process that runs a network twice on a photo of 513×513.

    Args:
        options: arguments of ``deeplab.load``.
    """
    command = [sys.executable, "-c", TWO_PREDICTIONS, json.dumps(options), str(Path(__file__).parent)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak: int | None = None if done.stdout.strip() == "None" else int(done.stdout)
    return peak


def write_record(record: dict[str, Any], path: Path | None) -> None:
    """Print a record as JSON and write it to a file, if one is given."""
    text = json.dumps(record, indent=2)
    print(text)
    if path is not None:
        path.write_text(text + "\n")
