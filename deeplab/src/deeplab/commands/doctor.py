"""``deeplab doctor``: the installation, its speed, and the accuracy of the included weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deeplab.commands.common import FAILED, OK

if TYPE_CHECKING:
    from deeplab.model.segmentation import Model, Segmentation

CLASS_IOU = "IoU of each class, network + CRF"
"""Key of a card's provenance for the measured IoU of each class in percent."""
GOOD_IOU = 50.0


@dataclass(frozen=True)
class Doctor:
    """Show the installed versions and extras, the speed here, and the IoU of the included weights."""


def doctor(options: Doctor) -> int:
    """Label a small photo, print a table of facts, and return whether the probabilities are valid."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    import deeplab

    model = deeplab.load()
    result, seconds = _timed_segmentation(model)
    passed = _is_sound(result)
    times = ", ".join(f"{name} {value:.2f}" for name, value in result.seconds.items())
    facts = {
        **_installation(),
        **_hardware(model),
        "a photo of 500×375": f"{seconds:.2f} s: {times}",
        **_extras(),
        **_weights(model),
        "self-test": "passed" if passed else "failed: probabilities do not sum to 1",
    }
    table = Table(show_header=False, box=None)
    for title, fact in facts.items():
        table.add_row(title, Text(fact))  # as plain text: rich would read [train] as markup
    Console().print(table)
    return OK if passed else FAILED


def _timed_segmentation(model: Model) -> tuple[Segmentation, float]:
    """Label a photo of random squares; return the result and the seconds of a second run."""
    import time

    import numpy as np

    squares = np.random.default_rng(0).integers(0, 256, (15, 20, 3))
    photo = np.kron(squares, np.ones((25, 25, 1))).astype(np.uint8)
    model.segment(photo)  # the first run is slower
    started = time.perf_counter()
    result = model.segment(photo)
    return result, time.perf_counter() - started


def _is_sound(result: Segmentation) -> bool:
    import numpy as np

    sums = result.probabilities.sum(axis=0)
    return bool(np.isfinite(sums).all() and np.abs(sums - 1).max() < 1e-3)


def _installation() -> dict[str, str]:
    import platform

    import torch

    import deeplab
    import densecrf

    return {
        "deeplab, densecrf": f"{deeplab.__version__}, {densecrf.__version__}",
        "Python, torch": f"{platform.python_version()}, {torch.__version__}",
    }


def _hardware(model: Model) -> dict[str, str]:
    import torch

    import densecrf
    from densecrf import _native, memory

    dtype = str(model.predictor.dtype).removeprefix("torch.")
    free = memory.available()
    return {
        "network": f"{model.predictor.device}, {dtype}, {torch.get_num_threads()} threads",
        "CRF": f"{_native.simd_level()}, {densecrf.threads.thread_count(None)} threads",
        "free memory": f"{free / 1e9:.1f} GB" if free else "unknown",
    }


def _extras() -> dict[str, str]:
    from deeplab.optional import EXTRAS, is_installed

    installed = [name for name in EXTRAS if is_installed(name)]
    missing = [f"pip install 'deeplab-crf[{name}]'" for name in EXTRAS if name not in installed]
    return {
        "extras": ", ".join(installed) or "none",
        "not installed": ", ".join(missing) or "nothing",
    }


def _weights(model: Model) -> dict[str, str]:
    provenance = model.card.provenance
    good, poor = _classes_by_iou(provenance)
    return {
        "weights": f"{model.card.variant}, {len(model.class_names)} classes",
        "trained on": str(provenance.get("data", "unknown")),
        "good at": good,
        "poor at": poor,
    }


def _classes_by_iou(provenance: dict[str, Any]) -> list[str]:
    """The classes with an IoU of ``GOOD_IOU`` or more, and the others, both with their IoU."""
    iou = provenance.get(CLASS_IOU)
    if not isinstance(iou, dict) or not iou:
        return ["unknown", "unknown"]
    names = sorted(iou, key=lambda name: -iou[name])
    good = [f"{name} {iou[name]:.0f}" for name in names if iou[name] >= GOOD_IOU]
    poor = [f"{name} {iou[name]:.0f}" for name in names if iou[name] < GOOD_IOU]
    return [f"IoU in %: {', '.join(group)}" if group else "nothing" for group in (good, poor)]
