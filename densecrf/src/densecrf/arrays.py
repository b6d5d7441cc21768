"""Arrays of PyTorch, JAX, CuPy and other libraries: as NumPy arrays, and results as the caller's kind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

_HOST_DEVICES = (1, 3, 11, 13)
"""Device types of DLPack whose memory the CPU reads: CPU, and host or managed memory of CUDA and ROCm."""
_DEVICE_NAMES = {2: "a CUDA device", 8: "a Metal device", 10: "a ROCm device", 14: "a oneAPI device"}


def as_numpy(name: str, value: Any) -> np.ndarray:
    """An array of any library as a NumPy array, without a copy where that is possible.

    Args:
        name: name of the argument, for messages.
        value: anything that ``np.asarray`` takes, or an array with ``__dlpack__`` in the CPU's memory.

    Raises:
        ValueError: for arrays on another device, or tensors that need a gradient.
    """
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
        return np.asarray(value)
    if getattr(value, "requires_grad", False):
        raise ValueError(
            f"got {name} that need a gradient, which NumPy code cannot give; wanted {name}.detach(), or "
            "densecrf.torch.DenseCRF for gradients"
        )
    device = int(value.__dlpack_device__()[0])
    if device not in _HOST_DEVICES:
        raise ValueError(
            f"got {name} on {_DEVICE_NAMES.get(device, 'another device')}, wanted an array in the CPU's "
            "memory (PyTorch: .cpu(); CuPy: .get(); JAX: jax.device_get), or densecrf.torch.DenseCRF on "
            "the device"
        )
    if str(getattr(value, "dtype", "")).endswith("bfloat16") and hasattr(value, "float"):
        value = value.float()  # NumPy has no bfloat16
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError):
        return np.asarray(value)


def kind_of(value: Any) -> Callable[[np.ndarray], Any]:
    """How to turn a result into the kind of array that the caller passed.

    Args:
        value: the caller's array.

    Returns:
        A function of a NumPy array. It returns a ``torch.Tensor`` for a tensor, an array of the same library
        for arrays with ``__array_namespace__``, and the NumPy array itself for everything else.
    """
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
        return _unchanged
    torch = sys.modules.get("torch")  # a tensor cannot exist without it
    if torch is not None and isinstance(value, torch.Tensor):
        return lambda result: torch.from_numpy(result)
    if hasattr(value, "__array_namespace__"):
        library = value.__array_namespace__()
        return lambda result: library.asarray(result)
    return _unchanged


def _unchanged(array: np.ndarray) -> np.ndarray:
    return array
