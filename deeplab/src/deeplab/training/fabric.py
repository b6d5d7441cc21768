"""Lightning Fabric: devices, precision and processes of a training run."""

from __future__ import annotations

import os
from typing import Any

import torch

from deeplab.network.bfloat16 import has_bf16
from deeplab.optional import require

PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def make_fabric(device: str, precision: str) -> Any:
    """Set up and launch Fabric for this process, alone or with the other processes that torchrun started.

    Args:
        device: "auto" (GPUs if there are any), "cpu" or "cuda".
        precision: "auto", "fp32", "bf16" or "fp16".

    Returns:
        A launched ``lightning_fabric.Fabric``.

    Raises:
        ValueError: if a GPU is wanted and torch sees none.
        ModuleNotFoundError: if Lightning Fabric is not installed.
    """
    require("lightning_fabric", "training")
    from lightning_fabric import Fabric

    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    use_gpu = torch.cuda.is_available() and device != "cpu"
    if device == "cuda" and not use_gpu:
        raise ValueError("got device = 'cuda', but torch sees no GPU here; 'cpu' always works")
    if precision == "auto":
        has_bfloat16 = has_bf16(torch.device("cuda" if use_gpu else "cpu"))
        precision = "bf16" if has_bfloat16 else "fp16" if use_gpu else "fp32"
    fabric = Fabric(
        accelerator="cuda" if use_gpu else "cpu",
        devices=local_processes,
        num_nodes=processes // local_processes,
        strategy="ddp" if processes > 1 else "auto",
        precision=PRECISIONS[precision],
    )
    fabric.launch()
    return fabric


def any_process(fabric: Any, flag: bool) -> bool:
    """Whether the flag is set in any of the processes.

    Args:
        fabric: Fabric of this process.
        flag: the flag of this process.

    Returns:
        The same value in all processes.
    """
    if fabric.world_size == 1:
        return flag
    return bool(fabric.all_reduce(torch.tensor(float(flag), device=fabric.device), reduce_op="sum") > 0)
