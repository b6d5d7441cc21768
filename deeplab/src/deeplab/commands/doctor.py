"""``deeplab doctor``: what runs here, how fast, and what the shipped weights can and cannot do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deeplab.commands.common import FAILED, OK

PER_CLASS = "IoU of each class, network + CRF"
"""Where a card's provenance keeps what was measured, class: percent."""


@dataclass(frozen=True)
class Doctor:
    """Say what is installed, what the network runs on here and how fast, and what the shipped weights
    know."""


def doctor(options: Doctor) -> int:
    """Print a table of facts, run a small photo through network and CRF, and say whether all is well."""
    import platform
    import time

    import numpy as np
    import torch
    from rich.console import Console
    from rich.table import Table

    import deeplab
    import densecrf
    from deeplab.optional import EXTRAS, is_installed
    from densecrf import _native, memory

    model = deeplab.load()
    rng = np.random.default_rng(0)
    photo = np.kron(rng.integers(0, 256, (15, 20, 3)), np.ones((25, 25, 1))).astype(np.uint8)
    model.segment(photo)
    started = time.perf_counter()
    result = model.segment(photo)
    spent = time.perf_counter() - started
    sums = result.probabilities.sum(axis=0)
    well = bool(np.isfinite(sums).all() and np.abs(sums - 1).max() < 1e-3)

    good, poor = _abilities(model.card.provenance)
    table = Table(show_header=False, box=None)
    free = memory.available()
    installed = {name: is_installed(name) for name in EXTRAS}
    lacking = [name for name, there in installed.items() if not there]
    for title, fact in (
        ("deeplab, densecrf", f"{deeplab.__version__}, {densecrf.__version__}"),
        ("Python, torch", f"{platform.python_version()}, {torch.__version__}"),
        (
            "network",
            f"{model.predictor.device}, {str(model.predictor.dtype).removeprefix('torch.')}, "
            f"{torch.get_num_threads()} threads",
        ),
        ("CRF", f"{_native.simd_level()}, {densecrf.threads.thread_count(None)} threads"),
        ("free memory", f"{free / 1e9:.1f} GB" if free else "not known"),
        (
            "a photo of 500×375",
            f"{spent:.2f} s: " + ", ".join(f"{k} {v:.2f}" for k, v in result.seconds.items()),
        ),
        ("extras", ", ".join(name for name, there in installed.items() if there) or "none"),
        ("not installed", ", ".join(f"pip install 'deeplab-crf[{name}]'" for name in lacking) or "nothing"),
        ("weights", f"{model.card.variant}, {len(model.class_names)} classes"),
        ("trained on", str(model.card.provenance.get("data", "not told"))),
        ("good at", good),
        ("poor at", poor),
        ("self-test", "passed" if well else "failed: probabilities do not sum to 1"),
    ):
        table.add_row(title, fact)
    Console().print(table)
    return OK if well else FAILED


def _abilities(provenance: dict[str, Any]) -> list[str]:
    """Classes with a measured IoU of at least half, and the others with theirs, as the card tells them."""
    measured = provenance.get(PER_CLASS)
    if not isinstance(measured, dict) or not measured:
        return ["not told", "not told"]
    order = sorted(measured, key=lambda name: -measured[name])
    good = [f"{name} {measured[name]:.0f}" for name in order if measured[name] >= 50]
    poor = [f"{name} {measured[name]:.0f}" for name in order if measured[name] < 50]
    return [f"IoU in %: {', '.join(names)}" if names else "nothing" for names in (good, poor)]
