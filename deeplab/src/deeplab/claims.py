"""A folder belongs to one job: what it was made with lies in it, another job is refused, and a second process too."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from deeplab.weights import write_whole

MOST_SHOWN = 60


def claim(path: Path, facts: Mapping[str, Any]) -> None:
    """Write down what a folder's results depend on, or make sure that it is what was written down before.

    Args:
        path: the JSON file in the folder.
        facts: what the results depend on, by name; numbers, texts and lists of them.

    Raises:
        ValueError: if the file holds other facts, with the first that differs, or cannot be read.
    """
    wanted = json.loads(json.dumps(facts))  # as it will be read: lists for tuples
    if not path.is_file():
        write_whole(path, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); remove the folder or name another") from None
    for name in [*wanted, *sorted(set(found) - set(wanted))]:
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{path.parent}: was made with {name} = {_shown(found.get(name))}, now wanted with "
                f"{_shown(wanted.get(name))}; remove the folder or name another"
            )


def lock(file: IO[Any], message: str) -> None:
    """Keep other processes out until a file is closed, also by a kill; on Windows nothing is kept out.

    Args:
        file: open for writing; every process that is to be kept out locks a file of this path.
        message: of the error.

    Raises:
        BlockingIOError: with this message, if another process has locked it.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise BlockingIOError(message) from None


def _shown(value: Any) -> str:
    text = f"{len(value)} of them: {', '.join(map(str, value))}" if isinstance(value, list) else repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"
