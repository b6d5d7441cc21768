"""The network's sections of ``gpu.py``, with random weights: parity, times, compiled, and photo to labels."""

from __future__ import annotations

import statistics
from collections.abc import Callable
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
    """DeepLab-LargeFOV on the device, the same weights each time."""
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
    """Noise of a prepared photo's range, (B, 3, side, side)."""
    rng = torch.Generator().manual_seed(count)
    batch = 50 * torch.randn(count, 3, side, side, generator=rng)
    return batch.to(record.device).contiguous(memory_format=torch.channels_last)


def parity(record: Record) -> None:
    """Probabilities against fp32 on the CPU: fp32 with and without TF32, and bf16."""
    side = 65 if record.small else 161
    batch = batch_of(record, 2, side)

    def compare(precision: str, tf32: bool) -> dict[str, Any]:
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = tf32
        try:
            with torch.no_grad():
                wanted = network_for(Record(record.path, torch.device("cpu"), small=record.small), "fp32")(
                    batch.cpu()
                )
                found = network_for(record, precision)(batch).float().cpu()
        finally:
            torch.backends.cudnn.allow_tf32 = before
        off = (found - wanted).abs().max()
        return {
            "largest difference of scores, of their largest": float(off / wanted.abs().max()),
            "largest difference of probabilities": float((found.softmax(1) - wanted.softmax(1)).abs().max()),
        }

    for precision, tf32 in (("fp32", False), ("fp32", True), ("bf16", True)):
        title = f"network, {precision}{', TF32 convolutions' if precision == 'fp32' and tf32 else ''}, {side}×{side}"
        record.attempt("parity with the CPU", title, partial(compare, precision, tf32))


def network(record: Record) -> None:
    """Scores at stride 8: fp32 and bf16, sizes and batches."""
    sides = (65,) if record.small else (321, 513)
    batches = (1, 2) if record.small else (1, 4, 16, 32)
    for precision in ("bf16", "fp32"):
        with torch.inference_mode():
            mine = network_for(record, precision)
            for side in sides:
                for count in batches:
                    _time(
                        record,
                        mine,
                        count,
                        side,
                        f"{precision}{', TF32 convolutions' if precision == 'fp32' else ''}",
                    )
    if record.small:
        return
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.inference_mode():
            mine = network_for(record, "fp32")
            for side in sides:
                _time(record, mine, 4, side, "fp32")
    finally:
        torch.backends.cudnn.allow_tf32 = True


def compiled(record: Record) -> None:
    """The same in bf16 by ``torch.compile``, and as a CUDA graph."""
    mine = network_for(record, "bf16")
    if record.device.type == "cuda":
        for side in (321, 513):
            record.attempt(
                "network", f"bf16, CUDA graph, {side}×{side}, batch 1", partial(_graph, record, mine, side)
            )
    options: dict[str, Any] = {"backend": "eager"} if record.small else {}
    for side, count in ((65, 1),) if record.small else ((321, 1), (513, 16), (321, 16)):
        torch._dynamo.reset()
        with torch.inference_mode():
            run = torch.compile(mine, dynamic=False, **options)
            _time(record, run, count, side, "bf16, compiled")


def _time(record: Record, network: Any, count: int, side: int, title: str) -> None:
    batch = batch_of(record, count, side)
    record.time("network", f"{title}, {side}×{side}, batch {count}", lambda: network(batch), photos=count)


@torch.no_grad()
def _graph(record: Record, network: DeepLab, side: int) -> dict[str, Any]:
    batch = batch_of(record, 1, side)
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            network(batch)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        network(batch)
    times = record.milliseconds(graph.replay)
    return {"median ms": round(statistics.median(times), 3), "best ms": round(min(times), 3), "photos": 1}


def photo_to_labels(record: Record) -> None:
    """Photos in main memory to labels in main memory, all between on the device: network in bf16 and ten CRF
    steps."""
    height, width = (33, 45) if record.small else (375, 500)
    mean = torch.tensor(Preparation().mean, device=record.device)[:, None, None]
    mine = network_for(record, "bf16")
    for backend in ("torch", "exact"):
        crf = DenseCRF(SETTINGS["A"], backend=backend).to(record.device)
        for count in (1, 2) if record.small else (1, 16) if backend == "torch" else (1,):
            photos = scenes(count, height, width, 2, torch.device("cpu"))[0]

            def scores(photos: torch.Tensor) -> torch.Tensor:
                batch = pad_to_legal(photos.flip(1).float() - mean, mine.variant)
                full = mine.full_scores(batch.contiguous(memory_format=torch.channels_last))
                return full[..., :height, :width]

            def on_device(work: Callable[[torch.Tensor], torch.Tensor], photos: torch.Tensor) -> torch.Tensor:
                return work(photos.to(record.device))

            def labels(photos: torch.Tensor = photos, crf: DenseCRF = crf) -> torch.Tensor:
                here = photos.to(record.device)
                return crf(here, scores(here)).argmax(1).to(torch.uint8).cpu()

            title = f"{width}×{height}, batch {count}"
            with torch.inference_mode():
                record.time("photo to labels", f"{title}, CRF {backend}", labels, photos=count)
                if backend == "torch":
                    record.time(
                        "photo to labels", f"{title}, network alone", partial(on_device, scores, photos)
                    )
