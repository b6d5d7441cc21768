"""Time ``densecrf.torch`` and ``densecrf`` on one thread, with gradients and without, and write JSON.

The scene is that of ``refine.py``. The record also has a time of crfasrnn_pytorch, measured before on a
similar processor: 2.7 processor seconds for 10 iterations forward at 321×321 with 21 labels. The CRF of MONAI
has no gradients. ``deeplab/benchmarks/gpu.py`` measures times on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measurement import environment, measure, memory_of
from refine import SETTINGS, make_scene

import densecrf
from densecrf.crf import CONVERGENCE_TOLERANCE, MERGE_THRESHOLD
from densecrf.torch import DenseCRF

OTHER = "crfasrnn_pytorch, 10 iterations forward (measured before)"
OTHER_SECONDS = 2.7
WIDTHS: tuple[tuple[float, float] | float, ...] = (
    (200, 400),
    (50, 60),
    (50, 20),
    3,
    (50, 10),
    (121, 5),
    (50, 3),
)
"""Widths of the kernels whose precision is measured: (pixels, levels), or pixels for a smoothness kernel."""


def tensors(height: int, width: int, labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image (1, 3, H, W) and logits (1, K, H, W).

    Args:
        height: H in pixels.
        width: W in pixels.
        labels: number of labels K.
    """
    photo, probabilities = make_scene(height, width, labels)
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].contiguous()
    return image, torch.from_numpy(np.log(np.maximum(probabilities, 1e-10)))[None]


def forward(crf: DenseCRF, image: torch.Tensor, logits: torch.Tensor) -> None:
    """Run one inference without gradients.

    Args:
        crf: the module.
        image: (1, 3, H, W).
        logits: (1, K, H, W).
    """
    with torch.no_grad():
        crf(image, logits)


def step(crf: DenseCRF, image: torch.Tensor, logits: torch.Tensor) -> None:
    """Run forward and backward to logits and parameters.

    Args:
        crf: the module.
        image: (1, 3, H, W).
        logits: (1, K, H, W).
    """
    scores = logits.clone().requires_grad_()
    crf(image, scores).logsumexp(1).mean().backward()


def numpy_crf(
    image: torch.Tensor,
    logits: torch.Tensor,
    params: densecrf.Params,
    merge_threshold: float,
    convergence_tolerance: float,
) -> None:
    """Run ``densecrf.DenseCRF`` on the same scene with one thread.

    Args:
        image: (1, 3, H, W).
        logits: (1, K, H, W).
        params: weights and widths.
        merge_threshold: see ``densecrf.DenseCRF``.
        convergence_tolerance: see ``densecrf.DenseCRF``.
    """
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


def methods_for(setting: str, image: torch.Tensor, logits: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The runs to time on the CPU, each with one thread.

    Args:
        setting: "A" or "B".
        image: (1, 3, H, W).
        logits: (1, K, H, W).
    """
    params, labels = SETTINGS[setting], logits.shape[1]
    methods: dict[str, Callable[[], object]] = {
        "NumPy face, 10 iterations": partial(
            numpy_crf, image, logits, params, MERGE_THRESHOLD, CONVERGENCE_TOLERANCE
        ),
        "NumPy face, nothing spared, 10 iterations": partial(numpy_crf, image, logits, params, 0, 0),
    }
    approximate = DenseCRF(
        params,
        threads=1,
        merge_threshold=MERGE_THRESHOLD,
        convergence_tolerance=CONVERGENCE_TOLERANCE,
        marginals=True,
    )
    methods["native, savings, 10 iterations"] = partial(forward, approximate, image, logits)
    for backend in ("native", "torch"):
        for iterations, run, title in (
            (10, forward, "10 iterations"),
            (5, step, "forward and back, 5 iterations"),
        ):
            crf = DenseCRF(params, backend=backend, iterations=iterations, threads=1)
            methods[f"{backend}, {title}"] = partial(run, crf, image, logits)
    matrix = DenseCRF(params, iterations=5, threads=1, compatibility=1 - torch.eye(labels))
    methods["native, K × K, forward and back, 5 iterations"] = partial(step, matrix, image, logits)
    return methods


def memory_in_process(backend: str) -> int:
    """MB of forward and backward at 321×321 with 21 labels and 5 iterations, in a process of its own."""
    command = [sys.executable, __file__, "--out", os.devnull, "--memory", backend]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory(backend: str) -> None:
    """Print what ``memory_in_process`` returns."""
    image, logits = tensors(321, 321, 21)
    crf = DenseCRF(SETTINGS["A"], backend=backend, iterations=5, threads=1, compatibility=1 - torch.eye(21))
    step(crf, image[..., :9, :8], logits[..., :9, :8])  # loads what is loaded on first use
    print(memory_of(lambda: step(crf, image, logits)) // 1024 // 1000)


def precision() -> dict[str, dict[str, float]]:
    """Largest error of a normalised filter of probabilities, by widths and by the type of the features."""
    photo, probabilities = make_scene(96, 128, 21)
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
        expected = (features @ features.t() - halves.t()).softmax(1) @ values
        row = {"largest |f|": round(float(halves.max() * 2) ** 0.5, 1)}
        for kind in (torch.float32, torch.float16, torch.bfloat16):
            rounded, offsets = features.to(kind), halves.to(kind)
            if kind == torch.float32:  # the arithmetic has this type, too
                result = ((rounded @ rounded.t() - offsets.t()).softmax(1) @ values.float()).double()
            else:
                result = (rounded.double() @ rounded.double().t() - offsets.double().t()).softmax(1) @ values
            row[str(kind).removeprefix("torch.")] = float(f"{float((result - expected).abs().max()):.1e}")
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
        times[title] = measure(methods_for(name, *tensors(321, 321, 21)), options.rounds, 1, 2)
        for method, figures in times[title].items():
            print(f"{title} {method:48s} {figures['least processor s']:7.3f} processor s", flush=True)
    memory = {backend: memory_in_process(backend) for backend in ("native", "torch")}
    print(f"peak MB above the inputs, forward and back: {memory}")
    record = environment(torch=torch.__version__) | {
        "seconds, one thread": times,
        OTHER: {"processor s": OTHER_SECONDS},
        "peak MB above the inputs, 321x321, 21 labels, 5 iterations, K x K": memory,
        "worst error of an attention's mean by type of its features, 128x96": precision(),
    }
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
