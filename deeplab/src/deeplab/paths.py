"""Names that come from files, as paths that stay below a folder.

Annotations, lists and archives name files. Such a name may come from a stranger, so it is never joined to a
folder
unchecked: an absolute path or one with ".." would read or write elsewhere. Symbolic links are another matter:
    whoever
can make one in a folder has access to it, and people link large data into place, so links are followed when
files are read. A result takes the place of a link of its name and is not written through it.
"""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath


def is_below(name: str) -> bool:
    """Whether a name from a file stays below the folder it is joined to, on Windows as elsewhere.

    Args:
        name: a relative path in either notation.

    Returns:
        False for an empty name, an absolute path, one with a drive, "..", or a NUL character.
    """
    windows = PureWindowsPath(name)
    drive = windows.drive if os.name == "nt" else ""
    return bool(name) and "\0" not in name and not windows.root and not drive and ".." not in windows.parts


def path_below(folder: Path, name: str) -> Path:
    """A file below a folder, by a name that came from a file.

    Args:
        folder: where the file must be.
        name: its path in the folder.

    Raises:
        ValueError: if the name leads out of the folder.
    """
    if not is_below(name):
        raise ValueError(
            f"got the name {name!r}, which leads out of {folder}; wanted a path in it, without '..'"
        )
    return folder / name
