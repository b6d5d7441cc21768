"""What commands share: exit codes, one-line complaints, and the choice of a network."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from deeplab.model.segmentation import Model

OK, FAILED, INTERRUPTED = 0, 1, 130


@dataclass(frozen=True)
class ModelOptions:
    """Which network, and what it runs on."""

    weights: str | None = None
    """A .safetensors file with its card, hf-hub:owner/name, or a .caffemodel; by default those of the
    package."""
    variant: str | None = None
    """Name of the network, where the weights' file leaves it open."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 …"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bfloat16 where the processor has it in hardware; the same labels but for 0.1 % of the pixels."""
    compile: bool = False
    """Run the network through torch.compile: slow to start, for thousands of photos of few sizes."""


def complain(message: str) -> None:
    """One line on the error stream, above a progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(f"deeplab: error: {' '.join(message.split())}", file=sys.stderr)


def model_of(engine: ModelOptions) -> Model:
    """The model that options ask for; what its weights lack is said in one line."""
    import warnings

    from deeplab.model.loading import load

    with warnings.catch_warnings(record=True) as told:
        model = load(**asdict(engine))
    for warning in told:
        print(f"deeplab: note: {warning.message}", file=sys.stderr)
    return model
