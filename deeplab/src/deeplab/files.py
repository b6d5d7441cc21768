"""Files written completely or not at all, file locks, and the recorded settings of a folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

MAX_NAME_BYTES = 200
"""Longest file name that is kept in a temporary name. That is a few bytes longer; file systems allow 255."""
MAX_VALUE_LENGTH = 60
"""Characters of a setting's value that an error message shows."""


def temporary_path(path: Path) -> Path:
    """Path of the hidden file that this process writes before it is renamed to ``path``."""
    name = os.fsencode(path.name)
    short = path.name if len(name) <= MAX_NAME_BYTES else hashlib.blake2b(name, digest_size=8).hexdigest()
    return path.with_name(f".{short}.{os.getpid()}.part")


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file through a temporary one, so that no reader ever sees an incomplete file.

    Args:
        path: File to write. Missing parent folders are made.
        content: Bytes, or text that is written as UTF-8. Bytes of file names that are not UTF-8 are written
            as escapes, as in JSON.
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
        file: File open for writing. Processes that must not run at the same time lock the same path.
        message: Text of the error.

    Raises:
        BlockingIOError: If another process has locked the file.
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
    """Check that a folder was made with these settings, or record them if nothing is recorded yet.

    Args:
        path: JSON file in the folder.
        settings: Settings that the folder's results depend on, by name: numbers, strings and lists of them.

    Raises:
        ValueError: If the file cannot be read or holds other settings; names the first difference.
    """
    current = json.loads(json.dumps(settings))  # tuples become lists, as in what is read
    if not path.is_file():
        write_whole(path, json.dumps(current, indent=2, ensure_ascii=False) + "\n")
        return
    try:
        recorded = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); remove the folder or choose another") from None
    for name in [*current, *sorted(set(recorded) - set(current))]:
        if recorded.get(name) != current.get(name):
            raise ValueError(
                f"{path.parent}: was made with {name} = {_shortened(recorded.get(name))}, but {name} is now "
                f"{_shortened(current.get(name))}; remove the folder or choose another"
            )


def _shortened(value: Any) -> str:
    """A value as text of at most ``MAX_VALUE_LENGTH`` characters."""
    text = f"{len(value)} values: {', '.join(map(str, value))}" if isinstance(value, list) else repr(value)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 1]}…"
