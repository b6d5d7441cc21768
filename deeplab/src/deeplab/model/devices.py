"""Devices that networks run on, and how much of their memory may be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from densecrf import memory

# Parts of the messages of torch's out-of-memory errors: on the CPU (Linux, Windows), on a GPU, in the
# libraries that it uses there, and in oneDNN.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "_ALLOC_FAILED",
    "could not create a primitive",
)
MAX_PRIMITIVES = 192
"""Primitives that oneDNN may cache. Multi-scale networks use 35 for a prediction, 84 for a training step."""


def device_from(name: str) -> torch.device:
    """Get a torch device by name.

    Args:
        name: "auto" for a GPU if torch sees one and else the CPU, or a name of torch's: "cpu", "cuda",
            "cuda:1".

    Returns:
        The device.

    Raises:
        ValueError: If torch does not know the name, or the device is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"got device {name!r}, which cannot be used here ({reason}); 'cpu' always works"
        ) from None
    return device


def bound_primitive_cache() -> None:
    """Limit oneDNN's cache of primitives, unless the environment sets a limit already.

    On the CPU, torch creates convolutions anew for every size of photo and keeps the last 1,024 of them, at
    half a megabyte each: 500 MB after 45 sizes. The limit leaves room for two training steps of the largest
    network. oneDNN reads it at the first convolution of a process.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(MAX_PRIMITIVES))


def free_memory(device: torch.device) -> int | None:
    """Free memory of a device in bytes; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory.available() if device.type == "cpu" and os.name == "posix" else None


@contextmanager
def torch_memory(what: str) -> Iterator[None]:
    """Turn torch's out-of-memory errors, some of which are plain ``RuntimeError``, into ``MemoryError``.

    Args:
        what: What needs the memory, as the beginning of the error's message.

    Raises:
        MemoryError: If torch runs out of memory in the ``with`` block.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise MemoryError(f"{what} does not fit into memory; use a smaller image, or smaller tiles") from None
