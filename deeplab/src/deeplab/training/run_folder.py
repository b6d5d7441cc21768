"""The folder of a training run: its recipe, where and with what it ran, its log, and a lock against a second
run."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from deeplab.files import lock_file, write_whole
from deeplab.optional import require
from deeplab.training.recipe import Recipe

FREE_TO_CHANGE = ("workers", "tensorboard", "checkpoint_every")  # these do not change what is learnt


class Run:
    """Keeps recipe.json, run.json and log.jsonl in a folder, and TensorBoard's events if the recipe asks for
    them.

    Raises:
        ValueError: if the folder holds a run of another recipe.
        BlockingIOError: if another process works in it.
        ModuleNotFoundError: if TensorBoard is asked for and missing.
    """

    def __init__(self, folder: Path, recipe: Recipe):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = _locked(folder)
        try:
            _require_same_recipe(folder, recipe)
            write_whole(folder / "run.json", json.dumps(facts(), indent=2) + "\n")
            self._events = _events(folder) if recipe.tensorboard else None
        except BaseException:
            self._lock.close()
            raise

    def go_on_from(self, step: int) -> None:
        """Drop what the log says of steps after ``step``: they will be done again."""
        path = self.folder / "log.jsonl"
        if path.is_file():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
            write_whole(path, "".join(f"{line}\n" for line in kept))

    def log(self, step: int, **figures: float) -> None:
        """Add a line of figures to log.jsonl, and to TensorBoard."""
        line = {"step": step} | {name: round(float(value), 6) for name, value in figures.items()}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(name.replace(" ", "_"), value, step)

    def show(self, step: int, name: str, picture: np.ndarray) -> None:
        """Give TensorBoard a picture (H, W, 3) uint8."""
        if self._events is not None:
            self._events.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Let go of the folder."""
        if self._events is not None:
            self._events.close()
        self._lock.close()


def facts() -> dict[str, Any]:
    """Where and with what a run happens: versions, machine, commit, command, time."""
    packages = ("deeplab-crf", "densecrf", "torch", "numpy", "pillow", "lightning-fabric", "safetensors")
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def memory_gigabytes() -> float:
    """What this process takes now: on the GPU at most so far if there is one, else in main memory; 0 if
    unknown."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e9
    except (OSError, ValueError):
        return 0.0


def _locked(folder: Path) -> IO[str]:
    file = open(folder / ".lock", "w", encoding="utf-8")  # noqa: SIM115 - held as long as the run lasts
    try:
        lock_file(file, f"{folder}: another run works in this folder; wait for it, or choose another")
    except BlockingIOError:
        file.close()
        raise
    return file


def _require_same_recipe(folder: Path, recipe: Recipe) -> None:
    path, now = folder / "recipe.json", json.loads(json.dumps(asdict(recipe)))
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        usual = asdict(Recipe(data=recipe.data))  # of keys that came after the run was begun
        changed = [
            key
            for key, value in now.items()
            if before.get(key, usual[key]) != value and key not in FREE_TO_CHANGE
        ]
        if changed:
            raise ValueError(
                f"{folder} holds a run with other {', '.join(changed)}; choose another folder or remove it"
            )
    write_whole(path, json.dumps(now, indent=2, ensure_ascii=False) + "\n")


def _events(folder: Path) -> Any:
    require("tensorboard", "tensorboard = true")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=None, filename_suffix=str(int(time.time())))


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize  # a line cut off by a kill


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
