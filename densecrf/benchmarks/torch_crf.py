"""Time ``densecrf.torch`` beside the NumPy face, with gradients and without, and write JSON.

The work is that of ``refine.py``. Beside it stands a rival's time as measured before on a like processor:
crfasrnn_pytorch took 2.7 processor seconds for 10 iterations forward at 321×321 with 21 labels. MONAI's CRF
has no backward. Times on a GPU: ``deeplab/benchmarks/gpu.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch
from refine import SETTINGS, measure, processor_name, work

import densecrf
from densecrf import _native
from densecrf.crf import CONVERGENCE_TOLERANCE, MERGE_THRESHOLD
from densecrf.torch import DenseCRF

RIVAL = "crfasrnn_pytorch, 10 iterations forward (measured before)"
RIVAL_SECONDS = 2.7
WIDTHS: tuple[tuple[float, float] | float, ...] = (
    (200, 400),
    (50, 60),
    (50, 20),
    3,
    (50, 10),
    (121, 5),
    (50, 3),
)
"""Of kernels whose precision is studied: (pixels, levels), or pixels for the smoothness kernel."""


def tensors(height: int, width: int, labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image (1, 3, H, W) and logits (1, K, H, W)."""
    photo, probabilities = work(height, width, labels)
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].contiguous()
    return image, torch.from_numpy(np.log(np.maximum(probabilities, 1e-10)))[None]


def forward(crf: DenseCRF, image: torch.Tensor, logits: torch.Tensor) -> None:
    """One inference without gradients."""
    with torch.no_grad():
        crf(image, logits)


def step(crf: DenseCRF, image: torch.Tensor, logits: torch.Tensor) -> None:
    """Forward and backward to logits and parameters."""
    scores = logits.clone().requires_grad_()
    crf(image, scores).logsumexp(1).mean().backward()


def face(
    image: torch.Tensor,
    logits: torch.Tensor,
    params: densecrf.Params,
    merge_threshold: float,
    convergence_tolerance: float,
) -> None:
    """The NumPy face on the same work, one thread."""
    photo = image[0].permute(1, 2, 0).numpy()
    size = (photo.shape[0], photo.shape[1])
    kernels: list[densecrf.Gaussian | densecrf.Bilateral | densecrf.Features] = [
        densecrf.Gaussian(size, params.smoothness_xy_std, params.smoothness_weight),
        densecrf.Bilateral(
            photo, params.appearance_xy_std, params.appearance_rgb_std, params.appearance_weight
        ),
    ]
    densecrf.DenseCRF(
        kernels, merge_threshold=merge_threshold, convergence_tolerance=convergence_tolerance, threads=1
    ).infer(-logits[0].numpy())


def contestants(name: str, image: torch.Tensor, logits: torch.Tensor) -> dict[str, Callable[[], object]]:
    """What is timed on the CPU, one thread each."""
    params, labels = SETTINGS[name], logits.shape[1]
    found: dict[str, Callable[[], object]] = {
        "NumPy face, 10 iterations": partial(
            face, image, logits, params, MERGE_THRESHOLD, CONVERGENCE_TOLERANCE
        ),
        "NumPy face, nothing spared, 10 iterations": partial(face, image, logits, params, 0, 0),
    }
    saving = DenseCRF(
        params,
        threads=1,
        merge_threshold=MERGE_THRESHOLD,
        convergence_tolerance=CONVERGENCE_TOLERANCE,
        marginals=True,
    )
    found["native, savings, 10 iterations"] = partial(forward, saving, image, logits)
    for backend in ("native", "torch"):
        for iterations, run, title in (
            (10, forward, "10 iterations"),
            (5, step, "forward and back, 5 iterations"),
        ):
            crf = DenseCRF(params, backend=backend, iterations=iterations, threads=1)
            found[f"{backend}, {title}"] = partial(run, crf, image, logits)
    matrix = DenseCRF(params, iterations=5, threads=1, compatibility=1 - torch.eye(labels))
    found["native, K × K, forward and back, 5 iterations"] = partial(step, matrix, image, logits)
    return found


def peak_memory(backend: str) -> int:
    """MB that a forward and backward of 5 iterations at 321×321 with 21 labels takes, in a process of its
    own."""
    command = [sys.executable, __file__, "--out", os.devnull, "--memory", backend]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory(backend: str) -> None:
    """What ``peak_memory`` asks of its process."""
    image, logits = tensors(321, 321, 21)
    crf = DenseCRF(SETTINGS["A"], backend=backend, iterations=5, threads=1, compatibility=1 - torch.eye(21))
    step(crf, image[..., :9, :8], logits[..., :9, :8])  # loads what is loaded late
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    before = _peak()
    step(crf, image, logits)
    print((_peak() - before) // 1000)


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def precision() -> dict[str, dict[str, float]]:
    """Worst error of a filter that is normalised after, of probabilities, when features are rounded to a
    type."""
    photo, probabilities = work(96, 128, 21)
    values = torch.from_numpy(probabilities.reshape(21, -1)).t().double()
    table = {}
    for widths in WIDTHS:
        if isinstance(widths, tuple):
            kernel: densecrf.Bilateral | densecrf.Gaussian = densecrf.Bilateral(photo, *widths)
        else:
            kernel = densecrf.Gaussian((96, 128), widths)
        features = torch.from_numpy(kernel.features()).double()
        features = features - features.mean(0)
        halves = features.square().sum(1, keepdim=True) / 2
        wanted = (features @ features.t() - halves.t()).softmax(1) @ values
        row = {"largest |f|": round(float(halves.max() * 2) ** 0.5, 1)}
        for kind in (torch.float32, torch.float16, torch.bfloat16):
            rounded, offsets = features.to(kind), halves.to(kind)
            if kind == torch.float32:  # its arithmetic, too
                found = ((rounded @ rounded.t() - offsets.t()).softmax(1) @ values.float()).double()
            else:
                found = (rounded.double() @ rounded.double().t() - offsets.double().t()).softmax(1) @ values
            row[str(kind).removeprefix("torch.")] = float(f"{float((found - wanted).abs().max()):.1e}")
        table[str(widths)] = row
    return table


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print_memory(options.memory)
        return
    times = {}
    for name in SETTINGS:
        title = f"321x321, 21 labels, {name}"
        times[title] = measure(contestants(name, *tensors(321, 321, 21)), options.rounds, 1, 2)
        for contestant, figures in times[title].items():
            print(f"{title} {contestant:48s} {figures['least processor s']:7.3f} processor s", flush=True)
    memory = {backend: peak_memory(backend) for backend in ("native", "torch")}
    print(f"peak MB above the inputs, forward and back: {memory}")
    record = {
        "date": date.today().isoformat(),
        "processor": processor_name(),
        "instruction set": _native.simd_level(),
        "versions": {
            "densecrf": densecrf.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "seconds, one thread": times,
        RIVAL: {"processor s": RIVAL_SECONDS},
        "peak MB above the inputs, 321x321, 21 labels, 5 iterations, K x K": memory,
        "worst error of an attention's mean by type of its features, 128x96": precision(),
    }
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
