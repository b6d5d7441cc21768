"""Whether the Triton kernels serve a device: they are tried there against plain PyTorch once, and left out if
wrong."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch

MOST_NUMBERS = 2**31
"""Of a tensor: the kernels count in 32 bits."""
_switched_off = False


def kernels_for(tensor: torch.Tensor, numbers: int = 0) -> ModuleType | None:
    """``triton_kernels`` where it can be used for a tensor and others of so many numbers, else None.

    That is on a GPU for float32, where Triton is installed and gives what plain PyTorch gives; with
    ``TRITON_INTERPRET=1`` in the environment on the CPU too, slowly, for tests.
    """
    kind = tensor.device.type
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if _switched_off or tensor.dtype != torch.float32 or max(numbers, tensor.numel()) >= MOST_NUMBERS:
        return None
    if kind != ("cpu" if interpreted else "cuda"):
        return None
    if (
        kind == "cuda" and tensor.device.index != torch.cuda.current_device()
    ):  # Triton launches on the current one
        return None
    return _checked(tensor.device)


@contextmanager
def plain() -> Iterator[None]:
    """Plain PyTorch in here, to compare with."""
    global _switched_off
    before, _switched_off = _switched_off, True
    try:
        yield
    finally:
        _switched_off = before


@cache
def _checked(device: torch.device) -> ModuleType | None:
    if find_spec("triton") is None:
        return None
    try:
        from densecrf.torch import triton_kernels

        with torch.inference_mode(False), torch.no_grad():
            wrong = triton_kernels.wrong(device)
    except Exception as error:  # of Triton, its compiler or the driver: there is no list of what can fail
        reason = f"failed ({' '.join(str(error).split())[:200] or type(error).__name__})"
    else:
        if not wrong:
            return triton_kernels
        reason = f"gave other numbers than plain PyTorch ({', '.join(wrong)})"
    warnings.warn(
        f"Triton kernels {reason} on {device}; plain PyTorch takes their place, slower", stacklevel=2
    )
    return None
