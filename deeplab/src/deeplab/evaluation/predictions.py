"""Label maps predicted by another program: a folder with one PNG file for each photo of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deeplab.paths import path_below

MAX_NAMED = 3
"""How many missing files an error names."""


def prediction_files(folder: str | Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Find the PNG file of each photo.

    Args:
        folder: folder of the files; other files in it are ignored.
        names: names of the photos; the file of each is NAME.png.

    Returns:
        The files, in the order of the names.

    Raises:
        FileNotFoundError: if there is no such folder, or files are missing; the message says how many, and
            names the first few.
        ValueError: for a name that leads out of the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; wanted one with a PNG file of class ids for each photo")
    files = tuple(path_below(folder, f"{name}.png") for name in names)
    missing = [file for file in files if not file.is_file()]
    if missing:
        first = ", ".join(file.relative_to(folder).as_posix() for file in missing[:MAX_NAMED])
        more = " …" if len(missing) > MAX_NAMED else ""
        other = next((file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*.png"))), None)
        hint = f"; there is, for example, {other}" if other and len(missing) == len(files) else ""
        raise FileNotFoundError(
            f"{folder}: {len(missing)} of {len(files)} predictions are missing: {first}{more}{hint}"
        )
    return files
