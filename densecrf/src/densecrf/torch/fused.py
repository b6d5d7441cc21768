"""Choice between the Triton kernels and plain PyTorch for a device.

The kernels are compared with plain PyTorch once on each device, and not used there if they fail or differ.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch

MAX_ELEMENTS = 2**31
"""Limit on the elements of a tensor: the kernels count in 32 bits."""
_disabled = False


def kernels_for(tensor: torch.Tensor, elements: int = 0) -> ModuleType | None:
    """The module ``triton_kernels`` if its kernels can be used for a tensor, else None.

    They can be used for float32 on a GPU if Triton is installed and gives the same numbers as plain PyTorch.
    With ``TRITON_INTERPRET=1`` in the environment they are also used on the CPU, slowly, for tests.

    Args:
        tensor: a tensor that the kernels would read.
        elements: number of elements of the largest other tensor.
    """
    device_type = tensor.device.type
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if _disabled or tensor.dtype != torch.float32 or max(elements, tensor.numel()) >= MAX_ELEMENTS:
        return None
    if device_type != ("cpu" if interpreted else "cuda"):
        return None
    # Triton launches kernels on the current GPU.
    if device_type == "cuda" and tensor.device.index != torch.cuda.current_device():
        return None
    return checked_kernels(tensor.device)


@contextmanager
def plain_pytorch() -> Iterator[None]:
    """Use plain PyTorch within the context, for comparison."""
    global _disabled
    before, _disabled = _disabled, True
    try:
        yield
    finally:
        _disabled = before


@cache
def checked_kernels(device: torch.device) -> ModuleType | None:
    """The module ``triton_kernels`` if it passes its checks on a device, else None after a warning."""
    if find_spec("triton") is None:
        return None
    try:
        from densecrf.torch import triton_checks, triton_kernels

        with torch.inference_mode(False), torch.no_grad():
            failed = triton_checks.failed_checks(device)
    except Exception as error:  # Triton, its compiler and the driver raise many types
        reason = f"failed ({' '.join(str(error).split())[:200] or type(error).__name__})"
    else:
        if not failed:
            return triton_kernels
        reason = f"gave other numbers than plain PyTorch ({', '.join(failed)})"
    warnings.warn(f"Triton kernels {reason} on {device}; plain PyTorch is used, more slowly", stacklevel=2)
    return None
