"""Checkpoints of a training run: safetensors files with the progress in their header."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from deeplab.files import write_whole
from deeplab.training.optimizer import RunningMean

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass
class Progress:
    """State of a run besides its tensors."""

    step: int = 0
    """Steps that are done."""
    seconds: float = 0.0
    """Time spent on them."""
    best: float = -1.0
    """Best validation score so far, 0–1."""
    best_step: int = 0
    """Step of the best validation."""
    worse: int = 0
    """Validations since the best."""

    def record_score(self, score: float) -> None:
        """Take in the score of a validation after the current step."""
        if score > self.best:
            self.best = score
            self.best_step = self.step
            self.worse = 0
        else:
            self.worse += 1


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    running_mean: RunningMean | None,
    progress: Progress,
) -> None:
    """Write the state of a run; random numbers need no state, as seed and step decide them.

    Args:
        folder: folder of the run.
        network: the network that learns.
        optimizer: its optimizer.
        running_mean: running mean of its weights, if there is one.
        progress: steps done and scores.
    """
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    for parameter, state in optimizer.state.items():
        for kind, value in state.items():
            if value is not None:
                tensors[f"optimizer.{kind}.{names[id(parameter)]}"] = torch.as_tensor(value)
    if running_mean is not None:
        tensors |= {f"mean.{name}": value for name, value in running_mean.tensors.items()}
    flat = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_whole(folder / CHECKPOINT_FILE, save(flat, {"progress": json.dumps(asdict(progress))}))


def read_progress(folder: Path) -> Progress | None:
    """The progress in a run's checkpoint, without its tensors; None where there is no checkpoint.

    Raises:
        ValueError: if the file is damaged.
    """
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        return None
    with _checkpoint_errors(path), safe_open(path, "pt") as file:
        return _progress_of(file)


def load_checkpoint(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, running_mean: RunningMean | None
) -> Progress | None:
    """Read a run's checkpoint into its network, optimizer and running mean.

    Args:
        folder: folder of the run.
        network: receives the parameters.
        optimizer: receives its state.
        running_mean: receives the running mean of the weights, if there is one.

    Returns:
        The progress, or None where there is no checkpoint.

    Raises:
        ValueError: if the file is damaged or of another network.
    """
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        return None
    with _checkpoint_errors(path), safe_open(path, "pt") as file:
        progress = _progress_of(file)
        network.load_state_dict({name: file.get_tensor(f"network.{name}") for name in network.state_dict()})
        if running_mean is not None:
            running_mean.tensors = {
                name: file.get_tensor(f"mean.{name}").to(value.device)
                for name, value in running_mean.tensors.items()
            }
        parameters = dict(network.named_parameters())
        for key in file.keys():  # noqa: SIM118 - the file is no mapping
            if key.startswith("optimizer."):
                _, kind, name = key.split(".", 2)
                value = file.get_tensor(key)
                # AdamW keeps its step as a tensor on the CPU, everything else where the parameter is.
                on_device = value if value.ndim == 0 else value.to(parameters[name].device)
                optimizer.state[parameters[name]][kind] = on_device
    return progress


def _progress_of(file: Any) -> Progress:
    return Progress(**json.loads((file.metadata() or {})["progress"]))


@contextmanager
def _checkpoint_errors(path: Path) -> Generator[None, None, None]:
    """Turn the errors of an unusable checkpoint into one ValueError."""
    try:
        yield
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: not a checkpoint of this run ({reason}); remove it to begin anew"
        ) from None
