"""Run exported networks on the CPU with ONNX Runtime (.onnx) or OpenVINO (.xml) in place of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deeplab.network.architecture import VARIANTS, Variant
from deeplab.network.bfloat16 import PRECISIONS
from deeplab.network.upsampling import upsample
from deeplab.optional import import_quietly
from deeplab.weights.store import Card
from densecrf.threads import thread_count

FORMATS = {"onnx": ".onnx", "openvino": ".xml"}
"""File ending of each export format."""

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Exported:
    """A network from an exported file, which can replace a ``network.DeepLab`` for inference."""

    path: Path
    """The exported file."""
    variant: Variant
    """Variant of the network."""
    classes: int
    """K, background included."""
    dtype: torch.dtype
    """Number format of the computation, except for layers that are int8 in the file."""
    run: Run
    """Function from a prepared batch (B, 3, H, W) float32 of legal size to the file's scores, float32."""

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Compute class scores: (B, K, h, w) at stride 8, or (B, K, H, W) for multi-scale variants."""
        return torch.from_numpy(self.run(np.ascontiguousarray(batch.numpy(force=True))))

    def full_scores(self, batch: torch.Tensor) -> torch.Tensor:
        """Compute class scores (B, K, H, W) at every pixel, as ``DeepLab.full_scores`` does."""
        scores = self(batch)
        if self.variant.multi_scale:
            return scores
        height, width = batch.shape[-2:]
        start = self.variant.score_offset
        return upsample(scores)[..., start : start + height, start : start + width]


def open_exported(path: str | Path, card: Card, *, device: str = "auto", precision: str = "auto") -> Exported:
    """Open a file that ``deeplab export`` wrote, to run on all cores that this process may use.

    Args:
        path: File ending in .onnx or .xml.
        card: Card of the network.
        device: "auto" or "cpu".
        precision: "auto" (bfloat16 in OpenVINO where the processor has it in hardware, fp32 elsewhere and in
            ONNX Runtime), "fp32", or "bf16". Layers that are int8 in the file stay so.

    Returns:
        The network, ready to run.

    Raises:
        FileNotFoundError: If a file is missing.
        ModuleNotFoundError: If the program that runs such files is not installed.
        ValueError: If the file is damaged or does not fit its card, or the device or precision is not
            available.
    """
    path = Path(path)
    if device not in ("auto", "cpu"):
        raise ValueError(
            f"got device {device!r}; {path} runs on 'cpu' only; the weights it was made from run on a GPU"
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
    run, channels = _onnx_runtime(path) if path.suffix == ".onnx" else _openvino(path, dtype)
    expected = (3, len(card.class_names))
    if channels != expected:
        raise ValueError(f"{path}: got channels in and out {channels}, wanted {expected} by its card")
    return Exported(path, VARIANTS[card.variant], len(card.class_names), dtype, run)


def _dtype(path: Path, precision: str) -> torch.dtype:
    """The number format that a file is computed in; ``ValueError`` for bfloat16 where it is not available."""
    if path.suffix == ".onnx":
        if precision == "bf16":
            raise ValueError(
                f"{path}: ONNX Runtime computes in fp32, got precision 'bf16'; OpenVINO can (--to openvino)"
            )
        return torch.float32
    available = openvino_precisions()
    if precision == "bf16" and "BF16" not in available:  # OpenVINO would compute in fp32 without a word
        raise ValueError(
            f"{path}: got precision 'bf16', which OpenVINO has on processors with AVX-512 BF16 or AMX; "
            f"this one has {', '.join(available)}; 'auto' takes the best of them"
        )
    return torch.bfloat16 if precision != "fp32" and "BF16" in available else torch.float32


def openvino_precisions() -> list[str]:
    """Those of FP32, BF16, FP16 and INT8 that OpenVINO computes in on this processor."""
    available = import_quietly("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [name for name in ("FP32", "BF16", "FP16", "INT8") if name in available]


def _onnx_runtime(path: Path) -> tuple[Run, tuple[Any, Any]]:
    """A function that runs an .onnx file, and the file's channels in and out."""
    runtime = import_quietly("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = thread_count(None)
    options.log_severity_level = 3  # errors
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (batch_input,) = session.get_inputs()
        (scores_output,) = session.get_outputs()
        channels = batch_input.shape[1], scores_output.shape[1]
    except Exception as error:  # ONNX Runtime's own errors for files it cannot use
        raise _unreadable(path, error) from None
    return lambda batch: session.run(None, {batch_input.name: batch})[0], channels


def _openvino(path: Path, dtype: torch.dtype) -> tuple[Run, tuple[Any, Any]]:
    """A function that runs an .xml file, and the file's channels in and out."""
    openvino = import_quietly("openvino")
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": thread_count(None),
        "ENABLE_CPU_PINNING": False,  # it would pin two processes to the same cores
    }
    try:
        compiled = openvino.Core().compile_model(path, "CPU", hints)
        (batch_input,) = compiled.inputs
        (scores_output,) = compiled.outputs
        channels = tuple(port.partial_shape[1].get_length() for port in (batch_input, scores_output))
    except Exception as error:  # OpenVINO's own errors for files it cannot use
        raise _unreadable(path, error) from None
    # Each batch has a request of its own, so that several threads can run the network at once.
    return lambda batch: compiled.create_infer_request().infer({0: batch}, share_inputs=True)[0], channels


def _unreadable(path: Path, error: Exception) -> ValueError:
    """The error for a file that cannot be run."""
    reason = (" ".join(str(error).split()) or type(error).__name__)[:160]
    return ValueError(f"{path}: not an exported network that can be run ({reason}); export it again")
