"""Folder of a training run: recipe, environment, log, and a lock against a second run in the same folder."""

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
from deeplab.training.checkpoint import CHECKPOINT_FILE
from deeplab.training.recipe import Recipe

RECIPE_FILE = "recipe.json"
LOG_FILE = "log.jsonl"
FREE_TO_CHANGE = ("workers", "tensorboard", "checkpoint_every")
"""Recipe keys that do not change what is learnt."""
MADE_FROM_RECIPE = ("class-counts.json", "cache-*/views.json")
"""Files that are computed from recipe and data before the first step."""


class RunFolder:
    """Keeps recipe.json, run.json, log.jsonl, and TensorBoard's events if the recipe asks for them.

    Args:
        folder: folder of the run; it is made if it is missing.
        recipe: the recipe of the run.

    Raises:
        ValueError: if the folder holds a run of another recipe that has done steps.
        BlockingIOError: if another process trains in the folder.
        ModuleNotFoundError: if the recipe asks for TensorBoard and it is not installed.
    """

    def __init__(self, folder: Path, recipe: Recipe):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = _locked(folder)
        try:
            _store_recipe(folder, recipe)
            write_whole(folder / "run.json", json.dumps(environment(), indent=2) + "\n")
            self._events = _event_writer(folder) if recipe.tensorboard else None
        except BaseException:
            self._lock.close()
            raise

    def drop_log_after(self, step: int) -> None:
        """Drop the log lines of steps after ``step``, which will be done again."""
        path = self.folder / LOG_FILE
        if path.is_file():
            lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
            write_whole(path, "".join(f"{line}\n" for line in lines))

    def log(self, step: int, **values: float) -> None:
        """Add a line to log.jsonl, and the values to TensorBoard.

        Args:
            step: steps done so far.
            values: numbers by name.
        """
        line = {"step": step} | {name: round(float(value), 6) for name, value in values.items()}
        with open(self.folder / LOG_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name.replace(" ", "_"), value, step)

    def add_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Add an image to TensorBoard, if the recipe asks for it.

        Args:
            step: steps done so far.
            name: title of the image.
            image: (H, W, 3) uint8.
        """
        if self._events is not None:
            self._events.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Release the lock."""
        if self._events is not None:
            self._events.close()
        self._lock.close()


def environment() -> dict[str, Any]:
    """Versions, machine, commit, command and time of a run."""
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
    """Memory of this process: its peak on the GPU if there is one, else main memory now; 0 if unknown."""
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


def _store_recipe(folder: Path, recipe: Recipe) -> None:
    """Write recipe.json; ValueError if steps were done by another recipe."""
    path = folder / RECIPE_FILE
    current = json.loads(json.dumps(asdict(recipe)))
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        defaults = asdict(Recipe(data=recipe.data))  # for keys that are newer than the run
        changed = [
            key
            for key, value in current.items()
            if stored.get(key, defaults[key]) != value and key not in FREE_TO_CHANGE
        ]
        if changed and _has_begun(folder):
            raise ValueError(
                f"{folder} holds a run with other {', '.join(changed)}; choose another folder or remove it"
            )
        if changed:
            for pattern in MADE_FROM_RECIPE:
                for file in folder.glob(pattern):
                    file.unlink()
    write_whole(path, json.dumps(current, indent=2, ensure_ascii=False) + "\n")


def _has_begun(folder: Path) -> bool:
    """Whether a run has left anything of its steps: a run that failed before the first leaves nothing."""
    return (folder / CHECKPOINT_FILE).is_file() or (folder / LOG_FILE).is_file()


def _event_writer(folder: Path) -> Any:
    require("tensorboard", "tensorboard = true")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=None, filename_suffix=str(int(time.time())))


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize  # a line that was cut off when the process was killed


def _commit() -> str | None:
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
