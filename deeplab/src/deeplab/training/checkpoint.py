"""The state of a training run on disk: safetensors with a few numbers in its header, written whole or not at
all."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from deeplab.files import write_whole
from deeplab.training.optimizer import RunningMean

FILE = "checkpoint.safetensors"


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """Steps that are done."""
    seconds: float = 0.0
    best: float = -1.0
    best_step: int = 0
    worse: int = 0
    """Validations since the best."""


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    mean: RunningMean | None,
    progress: Progress,
) -> None:
    """Write parameters, the optimizer's memory, running mean and progress; random numbers come from the
    step."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    for parameter, memory in optimizer.state.items():
        for kind, value in memory.items():
            if value is not None:
                tensors[f"optimizer.{kind}.{names[id(parameter)]}"] = torch.as_tensor(value)
    if mean is not None:
        tensors |= {f"mean.{name}": value for name, value in mean.tensors.items()}
    flat = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_whole(folder / FILE, save(flat, {"progress": json.dumps(asdict(progress))}))


def load_checkpoint(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, mean: RunningMean | None
) -> Progress | None:
    """Read a snapshot into a network, its optimizer and its running mean.

    Returns:
        The progress, or None where there is no snapshot.

    Raises:
        ValueError: if the file is damaged or of another network.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            progress = Progress(**json.loads((file.metadata() or {})["progress"]))
            own = {name: file.get_tensor(f"network.{name}") for name in network.state_dict()}
            network.load_state_dict(own)
            if mean is not None:
                mean.tensors = {n: file.get_tensor(f"mean.{n}").to(v.device) for n, v in mean.tensors.items()}
            parameters = dict(network.named_parameters())
            for name in file.keys():  # noqa: SIM118
                if name.startswith("optimizer."):
                    _, kind, of = name.split(".", 2)
                    value = file.get_tensor(name)
                    # AdamW keeps its step as a tensor on the CPU, all else where the parameter is.
                    optimizer.state[parameters[of]][kind] = (
                        value if value.ndim == 0 else value.to(parameters[of].device)
                    )
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: not a checkpoint of this run ({reason}); remove it to begin anew"
        ) from None
    return progress
