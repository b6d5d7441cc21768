"""Checks whether everything works on this GPU, and measures how fast.

    PYTHONPATH=densecrf/src:deeplab/src python deeplab/benchmarks/gpu.py --out results/gpu

Checks the set-up, runs the tests that need the card, times CRF and network, and writes OUT.json and OUT.md.
Nothing needs to be installed but torch, NumPy and Pillow (pytest for the tests): the network has random
weights, and where densecrf's native kernels are not built, plain PyTorch gives the references. Each group of
sections runs in a process of its own, so that a group that fails or hangs does not stop the others; every
number is written as soon as it is measured. ``--device cpu --small`` runs the same code on a processor with
the sizes of a test.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
GROUPS: dict[str, tuple[str, ...]] = {
    "crf": ("set-up", "CRF parity", "lattice", "exact", "backward"),
    "network": ("network parity", "network", "photo to labels"),
    "tests": ("tests",),
    "late": ("exact, plain PyTorch", "compiled"),
}
"""Sections of each group, the most important group first."""
SHARES = {"crf": 0.6, "network": 0.4, "tests": 0.4, "late": 1.0}
"""Share of all seconds that a group may take at most."""
RESERVED_SECONDS = 5.0
"""Seconds for ending a group and writing the table; no group starts when less than twice as many are left."""


def replace_missing_kernels() -> bool:
    """Whether densecrf's native kernels are built; if not, a module that fails when used replaces them."""
    try:
        import densecrf
    except ImportError as error:
        if "_native" not in str(error):
            raise
    else:
        return bool(densecrf)
    for name in [name for name in sys.modules if name.split(".")[0] == "densecrf"]:
        del sys.modules[name]

    class Missing(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            raise RuntimeError(f"densecrf's native kernels, which have {name!r}, are not built here")

    sys.modules["densecrf._native"] = Missing("densecrf._native")
    return False


def set_up(record: Any, has_native: bool) -> None:
    """Record what this runs on, and the card's rates of copying and of matrix products.

    Args:
        record: the record.
        has_native: whether densecrf's native kernels are built.
    """
    record.put("set-up", "machine", machine(record.device, has_native))
    record.attempt("set-up", "Triton kernels", partial(triton_kernels, record.device))
    record.attempt("set-up", "ceilings", partial(ceilings, record))


def machine(device: torch.device, has_native: bool) -> dict[str, Any]:
    """Names and versions of what is there.

    Args:
        device: the device that is measured.
        has_native: whether densecrf's native kernels are built.
    """
    on_gpu = device.type == "cuda"
    facts: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "native kernels": "built" if has_native else "not built",
        "Triton": "none",
    }
    if importlib.util.find_spec("triton"):
        import triton

        facts["Triton"] = triton.__version__
    if on_gpu:
        free, total = torch.cuda.mem_get_info(device)
        facts |= {
            "CUDA": torch.version.cuda,
            "capability": torch.cuda.get_device_capability(device),
            "multiprocessors": torch.cuda.get_device_properties(device).multi_processor_count,
            "memory, GB": round(total / 1e9, 1),
            "memory free, GB": round(free / 1e9, 1),
            "driver": driver_version(),
        }
    return facts


def triton_kernels(device: torch.device) -> dict[str, Any]:
    """Whether the Triton kernels are used, how long compiling them takes, and warnings."""
    from densecrf.torch import fused

    started = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        used = fused.kernels_for(torch.zeros(1, device=device)) is not None
    facts = {"used": used, "seconds to compile and try": round(time.monotonic() - started, 1)}
    return facts | ({"warnings": [str(warning.message) for warning in caught]} if caught else {})


def ceilings(record: Any) -> dict[str, float]:
    """Upper bounds of what the card can do: a copy, and a product of two matrices."""
    side = 8192 if record.device.type == "cuda" else 256
    source = torch.randn(8 * side * side, device=record.device)
    target = torch.empty_like(source)
    copy = min(record.milliseconds(lambda: target.copy_(source)))
    left, right = (torch.randn(side, side, device=record.device, dtype=torch.bfloat16) for _ in range(2))
    product = min(record.milliseconds(lambda: left @ right))
    return {
        "copy, GB/s read and written": round(2 * 4 * source.numel() / copy / 1e6),
        "bf16 matrix product, TFLOP/s": round(2 * side**3 / product / 1e9, 1),
    }


def driver_version() -> str:
    """Version of NVIDIA's driver, "unknown" if nvidia-smi does not report it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def run_group(options: argparse.Namespace) -> None:
    """Run the sections of a group; called in the group's process."""
    has_native = replace_missing_kernels()
    if options.group == "tests":
        raise SystemExit(run_tests())
    import gpu_crf
    import gpu_network
    from gpu_record import Record

    record = Record(
        options.out.with_suffix(".json"),
        torch.device(options.device),
        small=options.small,
        seconds=options.seconds,
    )
    sections: dict[str, Callable[[Record], None]] = {
        "set-up": lambda record: set_up(record, has_native),
        "CRF parity": gpu_crf.parity,
        "lattice": gpu_crf.lattice,
        "exact": gpu_crf.exact,
        "backward": gpu_crf.backward,
        "network parity": gpu_network.parity,
        "network": gpu_network.network,
        "photo to labels": gpu_network.photo_to_labels,
        "exact, plain PyTorch": gpu_crf.exact_plain,
        "compiled": gpu_network.compiled,
    }
    from densecrf.torch import fused

    with fused.plain_pytorch() if options.plain else nullcontext():
        for name in GROUPS[options.group]:
            started = time.monotonic()
            record.attempt("sections", name, partial(sections[name], record))
            record.put("seconds", name, round(time.monotonic() - started, 1))


def gpu_tests() -> list[Path]:
    """Test files with tests that need a card; the other files may need packages that are not installed."""
    return sorted(
        path
        for package in ("densecrf", "deeplab")
        for path in ROOT.glob(f"{package}/tests/**/test_*_on_gpu.py")
    )


def run_tests() -> int:
    """Run the tests that need a card. Warnings are no errors, since each version of torch has its own."""
    import pytest

    files = [str(path) for path in gpu_tests()]
    options = ["-W", "default", "-p", "no:cacheprovider", "-q", "-ra", "--tb=short", "-m", "cuda"]
    configuration = ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    return int(pytest.main([*options, *configuration, *files]))


def start_group(group: str, options: argparse.Namespace, seconds: float) -> None:
    """Run a group in a process of its own and record how it ended.

    Args:
        group: name of the group.
        options: of the command line.
        seconds: time after which it is stopped.
    """
    from gpu_record import Record

    command = [sys.executable, __file__, "--out", str(options.out), "--device", options.device]
    command += ["--seconds", str(seconds), "--group", group]
    command += ["--small"] if options.small else []
    command += ["--plain"] if options.plain else []
    log = options.out.with_suffix(f".{group}.log")
    with log.open("w") as output:
        try:
            code: int | str = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, timeout=seconds + 3, env=environment()
            ).returncode
        except subprocess.TimeoutExpired:
            code = f"stopped after {seconds:.0f} s"
    lines = log.read_text(errors="replace").splitlines()
    log.unlink()
    record = Record(options.out.with_suffix(".json"), torch.device("cpu"))
    last_lines = {"last lines": lines[-25:]} if code or group == "tests" else {}
    record.put("groups", group, {"ended with": code} | last_lines)


def environment() -> dict[str, str]:
    """Environment variables of a group's process: both packages are found without being installed."""
    paths = [str(ROOT / "densecrf/src"), str(ROOT / "deeplab/src"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
    }


def parse_options() -> argparse.Namespace:
    """Options of the command line; exits with one line if they cannot be used here."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="OUT.json and OUT.md are written")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 … or cpu")
    parser.add_argument("--small", action="store_true", help="use the sizes of a test")
    parser.add_argument("--seconds", type=float, default=175.0, help="time for everything")
    parser.add_argument("--plain", action="store_true", help="without Triton kernels, if they break a run")
    parser.add_argument("--groups", default=",".join(GROUPS), help="groups to run, separated by commas")
    parser.add_argument("--group", choices=GROUPS, help=argparse.SUPPRESS)  # what this process runs
    options = parser.parse_args()
    unknown = set(options.groups.split(",")) - set(GROUPS)
    if unknown:
        raise SystemExit(f"got groups {', '.join(sorted(unknown))}, wanted some of: {', '.join(GROUPS)}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit(
            f"got device {options.device!r}, but torch {torch.__version__} sees no GPU here; "
            "'--device cpu --small' runs the same code on a processor"
        )
    return options


def main() -> None:
    """Check, run the groups, write the table."""
    options = parse_options()
    if options.group:
        run_group(options)
        return
    from gpu_table import write_table

    end = time.monotonic() + options.seconds
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record_path, table_path = options.out.with_suffix(".json"), options.out.with_suffix(".md")
    record_path.unlink(missing_ok=True)
    for group in options.groups.split(","):
        remaining = end - time.monotonic()
        if remaining > 2 * RESERVED_SECONDS:
            seconds = min(remaining - RESERVED_SECONDS, SHARES[group] * options.seconds)
            start_group(group, options, seconds)
        write_table(record_path, table_path)
    print(table_path.read_text())


if __name__ == "__main__":
    main()
