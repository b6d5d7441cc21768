"""Files written whole or not at all, the lock that keeps other processes out, and the settings a folder was
made with."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

MAX_NAME_BYTES = 200
"""Longest file name that is kept in a temporary name, which adds a few bytes; file systems allow 255."""
MAX_SHOWN = 60


def temporary_path(path: Path) -> Path:
    """Path of the hidden file that this process writes before renaming it to ``path``."""
    name = os.fsencode(path.name)
    short = path.name if len(name) <= MAX_NAME_BYTES else hashlib.blake2b(name, digest_size=8).hexdigest()
    return path.with_name(f".{short}.{os.getpid()}.part")


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a temporary file and rename it, so that no reader ever sees half of it.

    Args:
        path: the file; missing parent folders are made.
        content: bytes, or text that is written as UTF-8. File names that are not UTF-8 are escaped as in
            JSON.
    """
    content = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def lock_file(file: IO[Any], message: str) -> None:
    """Lock an open file until it is closed or the process ends. On Windows nothing is locked.

    Args:
        file: open for writing; processes that must not run at the same time lock the same path.
        message: text of the error.

    Raises:
        BlockingIOError: with this message, if another process has locked the file.
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


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings that a folder's results depend on, or check that they are the ones written before.

    Args:
        path: the JSON file in the folder.
        settings: values by name: numbers, strings and lists of them.

    Raises:
        ValueError: if the file holds other settings (the first difference is named) or cannot be read.
    """
    wanted = json.loads(json.dumps(settings))  # as it will be read: lists for tuples
    if not path.is_file():
        write_whole(path, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); remove the folder or choose another") from None
    for name in [*wanted, *sorted(set(found) - set(wanted))]:
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{path.parent}: was made with {name} = {_shortened(found.get(name))}, but {name} is now "
                f"{_shortened(wanted.get(name))}; remove the folder or choose another"
            )


def _shortened(value: Any) -> str:
    text = f"{len(value)} values: {', '.join(map(str, value))}" if isinstance(value, list) else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"
