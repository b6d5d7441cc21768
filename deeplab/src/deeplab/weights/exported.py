"""Exported networks at work: ONNX Runtime (.onnx) and OpenVINO (.xml) in place of torch, on the processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deeplab.network.architecture import PLAIN_OFFSET, PLAIN_TRUNK, VARIANTS, Variant, upsample
from deeplab.network.bfloat16 import PRECISIONS
from deeplab.optional import import_quietly
from deeplab.weights.store import Card
from densecrf.threads import thread_count

FORMATS = {"onnx": ".onnx", "openvino": ".xml"}

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Exported:
    """A network from an exported file; it stands in for ``network.DeepLab`` where photos are labelled."""

    path: Path
    variant: Variant
    classes: int
    dtype: torch.dtype
    """What it computes in, but for layers that the file itself keeps in int8."""
    run: Run
    """From a prepared batch (B, 3, H, W) float32 of legal size to the file's scores, float32."""

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """What the file gives: class scores (B, K, h, w) at stride 8; of the multi-scale variants (B, K, H,
        W)."""
        return torch.from_numpy(self.run(np.ascontiguousarray(batch.numpy(force=True))))

    def full_scores(self, batch: torch.Tensor) -> torch.Tensor:
        """Class scores (B, K, H, W) at every pixel of a batch of legal size, as ``DeepLab.full_scores``."""
        scores = self(batch)
        if self.variant.multi_scale:
            return scores
        height, width = batch.shape[-2:]
        start = PLAIN_OFFSET if self.variant.trunk == PLAIN_TRUNK else 0
        return upsample(scores)[..., start : start + height, start : start + width]


def open_exported(path: str | Path, card: Card, *, device: str = "auto", precision: str = "auto") -> Exported:
    """A file that ``deeplab export`` wrote, ready to run on all processors that this process may use.

    Args:
        path: ending in .onnx or .xml.
        card: that belongs to it.
        device: "auto" or "cpu".
        precision: "auto" (bfloat16 in OpenVINO where the processor has it in hardware, fp32 elsewhere and in
            ONNX Runtime), "fp32", or "bf16". Layers that are int8 in the file stay so.

    Raises:
        FileNotFoundError: if a file is missing.
        ModuleNotFoundError: if the program that runs such files is not installed.
        ValueError: for a damaged file, one that does not fit its card, or a device or precision that cannot
            be had.
    """
    path = Path(path)
    if device not in ("auto", "cpu"):
        raise ValueError(
            f"got device {device!r}; {path} runs on 'cpu', the weights it was made from on a GPU, too"
        )
    if precision not in PRECISIONS:
        raise ValueError(f"got precision {precision!r}, wanted one of: {', '.join(PRECISIONS)}")
    if card.variant not in VARIANTS:
        raise ValueError(
            f"{path}: its card names variant {card.variant!r}, wanted one of: {', '.join(VARIANTS)}"
        )
    for file in (path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])):
        if not file.is_file():
            raise FileNotFoundError(f"no file {file}; deeplab export writes it")
    dtype = _dtype(path, precision)
    run, shapes = _onnx_runtime(path) if path.suffix == ".onnx" else _openvino(path, dtype)
    wanted = (3, len(card.class_names))
    if shapes != wanted:
        raise ValueError(f"{path}: got channels in and out {shapes}, wanted {wanted} by its card")
    return Exported(path, VARIANTS[card.variant], len(card.class_names), dtype, run)


def _dtype(path: Path, precision: str) -> torch.dtype:
    """What a file is computed in; ValueError for bfloat16 where it cannot be had, which OpenVINO would not
    say."""
    if path.suffix == ".onnx":
        if precision == "bf16":
            raise ValueError(
                f"{path}: ONNX Runtime computes in fp32, got precision 'bf16'; export --to openvino has it"
            )
        return torch.float32
    able = openvino_numbers()
    if precision == "bf16" and "BF16" not in able:
        raise ValueError(
            f"{path}: got precision 'bf16', which OpenVINO has on processors with AVX-512 BF16 or AMX; this one has "
            f"{', '.join(able)}; 'auto' takes the best of them"
        )
    return torch.bfloat16 if precision != "fp32" and "BF16" in able else torch.float32


def openvino_numbers() -> list[str]:
    """Number formats that OpenVINO computes in on this processor: of FP32, BF16, FP16, INT8."""
    found = import_quietly("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [name for name in ("FP32", "BF16", "FP16", "INT8") if name in found]


def _onnx_runtime(path: Path) -> tuple[Run, tuple[Any, Any]]:
    runtime = import_quietly("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = thread_count(None)
    options.log_severity_level = 3  # errors
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (given,), (got,) = session.get_inputs(), session.get_outputs()
        shapes = given.shape[1], got.shape[1]
    except Exception as error:  # the runtime's own kinds, all of them for files it cannot use
        raise _unreadable(path, error) from None
    return lambda batch: session.run(None, {given.name: batch})[0], shapes


def _openvino(path: Path, dtype: torch.dtype) -> tuple[Run, tuple[Any, Any]]:
    openvino = import_quietly("openvino")
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": thread_count(None),
        "ENABLE_CPU_PINNING": False,  # two processes would be pinned to the same cores
    }
    try:
        compiled = openvino.Core().compile_model(path, "CPU", hints)
        (given,), (got,) = compiled.inputs, compiled.outputs
        shapes = tuple(side.partial_shape[1].get_length() for side in (given, got))
    except Exception as error:
        raise _unreadable(path, error) from None
    # A request of its own for every batch, so that several threads may ask at once.
    return lambda batch: compiled.create_infer_request().infer({0: batch}, share_inputs=True)[0], shapes


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = (" ".join(str(error).split()) or type(error).__name__)[:160]
    return ValueError(f"{path}: not an exported network that can be run ({reason}); export it again")
