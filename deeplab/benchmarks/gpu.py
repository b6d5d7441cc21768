"""One command for a GPU: set-up check, tests that need the card, and all times, in OUT.json and OUT.md.

    PYTHONPATH=densecrf/src:deeplab/src python deeplab/benchmarks/gpu.py --out results/gpu

Nothing needs to be installed but torch, NumPy and Pillow (pytest for the tests): the network has random
weights, and where densecrf's native kernels are not built, the references come from plain PyTorch. Each group
of sections runs in a process of its own, so that one that fails or hangs leaves the rest; every number is
written as soon as it is measured. ``--device cpu --small`` runs the same code on a processor at the sizes of
a test.
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
TESTS = ("densecrf/tests/test_torch_on_gpu.py", "deeplab/tests/test_network_on_gpu.py")
GROUPS: dict[str, tuple[str, ...]] = {
    "crf": ("set-up", "CRF parity", "lattice", "exact", "backward"),
    "network": ("network parity", "network", "photo to labels"),
    "tests": ("tests",),
    "late": ("exact, plain PyTorch", "compiled"),
}
"""In the order of importance."""
SHARES = {"crf": 0.6, "network": 0.4, "tests": 0.4, "late": 1.0}
"""Of all seconds, that a group may take at most."""
LEAST_SECONDS = 5.0
"""Kept back for ending a group and writing the table; with less than twice so many left no group is begun."""


def stand_in_for_native() -> bool:
    """Whether densecrf's native kernels are there; if not, a module takes their place that fails once it is
    used."""
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


def set_up(record: Any, native: bool) -> None:
    """What this runs on, and the ceilings of the card: copies and matrix products."""
    on_gpu = record.device.type == "cuda"
    facts: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(record.device) if on_gpu else platform.processor() or "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "native kernels": "built" if native else "not built",
        "Triton": "none",
    }
    if importlib.util.find_spec("triton"):
        import triton

        facts["Triton"] = triton.__version__
    if on_gpu:
        free, total = torch.cuda.mem_get_info(record.device)
        facts |= {
            "CUDA": torch.version.cuda,
            "capability": torch.cuda.get_device_capability(record.device),
            "multiprocessors": torch.cuda.get_device_properties(record.device).multi_processor_count,
            "memory, GB": round(total / 1e9, 1),
            "memory free, GB": round(free / 1e9, 1),
            "driver": _driver(),
        }
    record.put("set-up", "machine", facts)

    def kernels() -> dict[str, Any]:
        from densecrf.torch import fused

        started = time.monotonic()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            used = fused.kernels_for(torch.zeros(1, device=record.device)) is not None
        found = {"used": used, "seconds to compile and try": round(time.monotonic() - started, 1)}
        return found | ({"warnings": [str(one.message) for one in told]} if told else {})

    record.attempt("set-up", "Triton kernels", kernels)

    def ceilings() -> dict[str, float]:
        side = 8192 if on_gpu else 256
        source = torch.randn(8 * side * side, device=record.device)
        target = torch.empty_like(source)
        copy = min(record.milliseconds(lambda: target.copy_(source)))
        left, right = (torch.randn(side, side, device=record.device, dtype=torch.bfloat16) for _ in range(2))
        product = min(record.milliseconds(lambda: left @ right))
        return {
            "copy, GB/s read and written": round(2 * 4 * source.numel() / copy / 1e6),
            "bf16 matrix product, TFLOP/s": round(2 * side**3 / product / 1e9, 1),
        }

    record.attempt("set-up", "ceilings", ceilings)


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def run_group(options: argparse.Namespace) -> None:
    """What a group's process does."""
    native = stand_in_for_native()
    if options.group == "tests":
        raise SystemExit(run_tests(options))
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
        "set-up": lambda record: set_up(record, native),
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


def run_tests(options: argparse.Namespace) -> int:
    """The tests that need a card, alone; those of this torch's warnings that ours has not are no failures."""
    import pytest

    files = [str(ROOT / name) for name in TESTS]
    quiet = ["-W", "default", "-p", "no:cacheprovider", "-q", "-ra", "--tb=short"]
    return int(
        pytest.main(
            [*quiet, "-m", "cuda", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), *files]
        )
    )


def start_group(group: str, options: argparse.Namespace, seconds: float) -> None:
    """Run a group in a process of its own, for so many seconds at most, and keep how it ended."""
    from gpu_record import Record

    command = [
        sys.executable,
        __file__,
        "--out",
        str(options.out),
        "--device",
        options.device,
        "--seconds",
        str(seconds),
        "--group",
        group,
        *(["--small"] if options.small else []),
        *(["--plain"] if options.plain else []),
    ]
    log = options.out.with_suffix(f".{group}.log")
    with log.open("w") as output:
        try:
            code: int | str = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, timeout=seconds + 3, env=_environment()
            ).returncode
        except subprocess.TimeoutExpired:
            code = f"stopped after {seconds:.0f} s"
    lines = log.read_text(errors="replace").splitlines()
    log.unlink()
    record = Record(options.out.with_suffix(".json"), torch.device("cpu"))
    record.put(
        "groups",
        group,
        {"ended with": code} | ({"last lines": lines[-25:]} if code or group == "tests" else {}),
    )


def _environment() -> dict[str, str]:
    paths = [str(ROOT / "densecrf/src"), str(ROOT / "deeplab/src"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
    }


def main() -> None:
    """Check, run the groups, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="OUT.json and OUT.md are written")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 … or cpu")
    parser.add_argument("--small", action="store_true", help="sizes of a test")
    parser.add_argument("--seconds", type=float, default=175.0, help="for everything")
    parser.add_argument(
        "--plain", action="store_true", help="without Triton kernels, should they break a run"
    )
    parser.add_argument("--groups", default=",".join(GROUPS), help="which to run, by commas")
    parser.add_argument("--group", choices=GROUPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.group:
        run_group(options)
        return
    unknown = set(options.groups.split(",")) - set(GROUPS)
    if unknown:
        raise SystemExit(f"got groups {', '.join(sorted(unknown))}, wanted some of: {', '.join(GROUPS)}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit(
            f"got device {options.device!r}, but torch {torch.__version__} sees no GPU here; '--device cpu --small' "
            "runs the same code on a processor"
        )
    from gpu_table import write_table

    end = time.monotonic() + options.seconds
    options.out.parent.mkdir(parents=True, exist_ok=True)
    target = options.out.with_suffix(".json")
    target.unlink(missing_ok=True)
    for group in options.groups.split(","):
        left = end - time.monotonic()
        if left > 2 * LEAST_SECONDS:
            start_group(group, options, min(left - LEAST_SECONDS, SHARES[group] * options.seconds))
        write_table(target, options.out.with_suffix(".md"))
    print(options.out.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
