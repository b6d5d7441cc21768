"""Paths below a folder, from names that untrusted files contain.

Annotations, lists and archives name files. Such a file may come from anyone, so a name in it is never joined
to a folder unchecked: an absolute path or one with ".." would read or write elsewhere. Symbolic links are
followed when files are read, since only someone with access to the folder can make one, and people link large
data into place. A result replaces a link of its name and is not written through it.
"""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath


def is_below(name: str) -> bool:
    """Whether a name stays below the folder that it is joined to, on every system.

    Args:
        name: Relative path, with slashes or backslashes.

    Returns:
        False for an empty name, an absolute path, and a path with a drive, "..", or a NUL character.
    """
    windows = PureWindowsPath(name)
    drive = windows.drive if os.name == "nt" else ""
    return bool(name) and "\0" not in name and not windows.root and not drive and ".." not in windows.parts


def path_below(folder: Path, name: str) -> Path:
    """Join a name from an untrusted file to a folder.

    Args:
        folder: Folder that the file must be in.
        name: Path of the file in the folder.

    Returns:
        The path of the file.

    Raises:
        ValueError: If the name leads out of the folder.
    """
    if not is_below(name):
        raise ValueError(
            f"got the name {name!r}, which leads out of {folder}; wanted a path in it, without '..'"
        )
    return folder / name
