"""Shared by all commands: exit codes, error messages in one line, and the options that choose a network."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from deeplab.model.segmentation import Model

OK = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130


@dataclass(frozen=True)
class ModelOptions:
    """Options of the network and the device that it runs on."""

    weights: str | None = None
    """A .safetensors, .caffemodel, .onnx or .xml file, or hf-hub:owner/name;
    by default the included weights."""
    variant: str | None = None
    """Name of the network, if the weights file does not state it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 …"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bfloat16 on processors that support it, which changes the labels of 0.1 % of the pixels."""
    compile: bool = False
    """Use torch.compile, which starts slowly; useful for thousands of photos of few sizes."""


def log_error(message: str) -> None:
    """Print an error as one line on the error stream, above a progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(f"deeplab: error: {' '.join(message.split())}", file=sys.stderr)


def error_text(error: BaseException) -> str:
    """Describe an error in a sentence; for an error of the operating system: the file, then the reason."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        files = [str(name) for name in (error.filename, error.filename2) if name is not None]
        reason = error.strerror[:1].lower() + error.strerror[1:]
        return f"{' -> '.join(files)}: {reason}" if files else reason
    return str(error) or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)


def load_model(options: ModelOptions) -> Model:
    """Load the model that the options choose; print each warning about its weights in one line."""
    import warnings

    from deeplab.model.loading import load

    with warnings.catch_warnings(record=True) as caught:
        model = load(**asdict(options))
    for warning in caught:
        print(f"deeplab: note: {warning.message}", file=sys.stderr)
    return model
