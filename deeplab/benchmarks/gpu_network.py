"""Used by gpu.py: the sections about the network, which has random weights here."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from gpu_record import Record
from gpu_scene import SETTINGS, scenes

from deeplab.network.architecture import VARIANTS, Convolution, DeepLab
from deeplab.network.bfloat16 import to_bfloat16
from deeplab.network.preprocessing import Preparation, pad_to_legal
from densecrf.torch import DenseCRF

LABELS = 21


def network_for(record: Record, precision: str) -> DeepLab:
    """DeepLab-LargeFOV on the record's device, with the same weights each time.

    Args:
        record: device, and whether the network is a small one.
        precision: "fp32" or "bf16".
    """
    torch.manual_seed(0)
    variant = VARIANTS["deeplab-largefov"]
    if record.small:
        layers = (
            replace(layer, channels=8) if isinstance(layer, Convolution) else layer for layer in variant.trunk
        )
        variant = replace(variant, trunk=tuple(layers), head=replace(variant.head, channels=16))
    network = DeepLab(variant, LABELS).eval()
    network = to_bfloat16(network) if precision == "bf16" else network
    return network.to(record.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def batch_of(record: Record, count: int, side: int) -> torch.Tensor:
    """Noise with the range of prepared photos.

    Args:
        record: device.
        count: number of photos.
        side: height and width in pixels.

    Returns:
        (count, 3, side, side) float32.
    """
    rng = torch.Generator().manual_seed(count)
    batch = 50 * torch.randn(count, 3, side, side, generator=rng)
    return batch.to(record.device).contiguous(memory_format=torch.channels_last)


@contextmanager
def tf32_convolutions(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in convolutions during the block."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def parity(record: Record) -> None:
    """Compare scores and probabilities with fp32 on the CPU: fp32 with and without TF32, and bf16."""
    side = 65 if record.small else 161
    for precision, tf32 in (("fp32", False), ("fp32", True), ("bf16", True)):
        suffix = ", TF32 convolutions" if precision == "fp32" and tf32 else ""
        title = f"network, {precision}{suffix}, {side}×{side}"
        work = partial(_compare, record, batch_of(record, 2, side), precision, tf32)
        record.attempt("parity with the CPU", title, work)


def _compare(record: Record, batch: torch.Tensor, precision: str, tf32: bool) -> dict[str, float]:
    cpu = Record(record.path, torch.device("cpu"), small=record.small)
    with tf32_convolutions(tf32), torch.no_grad():
        expected = network_for(cpu, "fp32")(batch.cpu())
        scores = network_for(record, precision)(batch).float().cpu()
    difference = (scores - expected).abs().max()
    return {
        "largest difference of scores, of their largest": float(difference / expected.abs().max()),
        "largest difference of probabilities": float((scores.softmax(1) - expected.softmax(1)).abs().max()),
    }


def network(record: Record) -> None:
    """Time scores at stride 8: fp32 and bf16, several sizes and batches."""
    sides = (65,) if record.small else (321, 513)
    batches = (1, 2) if record.small else (1, 4, 16, 32)
    for precision in ("bf16", "fp32"):
        title = f"{precision}{', TF32 convolutions' if precision == 'fp32' else ''}"
        with torch.inference_mode():
            model = network_for(record, precision)
            for side in sides:
                for count in batches:
                    _time(record, model, count, side, title)
    if record.small:
        return
    with tf32_convolutions(False), torch.inference_mode():
        model = network_for(record, "fp32")
        for side in sides:
            _time(record, model, 4, side, "fp32")


def compiled(record: Record) -> None:
    """Time the network in bf16 with ``torch.compile``, and as a CUDA graph."""
    model = network_for(record, "bf16")
    if record.device.type == "cuda":
        for side in (321, 513):
            title = f"bf16, CUDA graph, {side}×{side}, batch 1"
            record.attempt("network", title, partial(_graph, record, model, side))
    options: dict[str, Any] = {"backend": "eager"} if record.small else {}
    for side, count in ((65, 1),) if record.small else ((321, 1), (513, 16), (321, 16)):
        torch._dynamo.reset()
        with torch.inference_mode():
            run = torch.compile(model, dynamic=False, **options)
            _time(record, run, count, side, "bf16, compiled")


def _time(record: Record, network: Any, count: int, side: int, title: str) -> None:
    batch = batch_of(record, count, side)
    record.time("network", f"{title}, {side}×{side}, batch {count}", lambda: network(batch), photos=count)


@torch.no_grad()
def _graph(record: Record, network: DeepLab, side: int) -> dict[str, Any]:
    batch = batch_of(record, 1, side)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            network(batch)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        network(batch)
    times = record.milliseconds(graph.replay)
    return {"median ms": round(statistics.median(times), 3), "best ms": round(min(times), 3), "photos": 1}


def photo_to_labels(record: Record) -> None:
    """Time photos to labels, both in main memory: network in bf16 and ten CRF steps on the device."""
    height, width = (33, 45) if record.small else (375, 500)
    section = "photo to labels"
    scores = _full_scores(record, network_for(record, "bf16"))
    for backend in ("torch", "exact"):
        crf = DenseCRF(SETTINGS["A"], backend=backend).to(record.device)
        batches = (1, 16) if backend == "torch" else (1,)
        for count in (1, 2) if record.small else batches:
            photos = scenes(count, height, width, 2, torch.device("cpu"))[0]
            title = f"{width}×{height}, batch {count}"
            with torch.inference_mode():
                work: Callable[[], object] = partial(_labels, record.device, scores, crf, photos)
                record.time(section, f"{title}, CRF {backend}", work, photos=count)
                if backend == "torch":
                    work = partial(_scores_on, record.device, scores, photos)
                    record.time(section, f"{title}, network alone", work, photos=count)


def _full_scores(record: Record, network: DeepLab) -> Callable[[torch.Tensor], torch.Tensor]:
    """Function from photos (B, 3, H, W) uint8, R, G, B, on the device to scores (B, K, H, W)."""
    mean = torch.tensor(Preparation().mean, device=record.device)[:, None, None]

    def scores(photos: torch.Tensor) -> torch.Tensor:
        height, width = photos.shape[-2:]
        batch = pad_to_legal(photos.flip(1).float() - mean, network.variant)
        full = network.full_scores(batch.contiguous(memory_format=torch.channels_last))
        return full[..., :height, :width]

    return scores


def _labels(
    device: torch.device,
    scores: Callable[[torch.Tensor], torch.Tensor],
    crf: DenseCRF,
    photos: torch.Tensor,
) -> torch.Tensor:
    photos = photos.to(device)
    return crf(photos, scores(photos)).argmax(1).to(torch.uint8).cpu()


def _scores_on(
    device: torch.device, scores: Callable[[torch.Tensor], torch.Tensor], photos: torch.Tensor
) -> torch.Tensor:
    return scores(photos.to(device))
