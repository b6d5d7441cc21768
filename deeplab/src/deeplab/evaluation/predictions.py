"""Label maps that another program has predicted: a folder of PNG files, one for each photo of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deeplab.paths import path_below

NAMED = 3  # of many missing files, how many an error names


def prediction_files(folder: str | Path, names: Sequence[str]) -> tuple[Path, ...]:
    """The PNG file of each photo, in their order.

    Args:
        folder: where the files are; other files there do not matter.
        names: of the photos; NAME.png is wanted for each.

    Raises:
        FileNotFoundError: if there is no such folder, or a file is missing; says how many, and names the
            first few.
        ValueError: for a name that leads out of the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; wanted one with a PNG file of class ids for each photo")
    files = tuple(path_below(folder, f"{name}.png") for name in names)
    missing = [file for file in files if not file.is_file()]
    if missing:
        first = ", ".join(file.relative_to(folder).as_posix() for file in missing[:NAMED])
        more = " …" if len(missing) > NAMED else ""
        other = next((file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*.png"))), None)
        there = f"; there is, for example, {other}" if other and len(missing) == len(files) else ""
        raise FileNotFoundError(
            f"{folder}: {len(missing)} of {len(files)} predictions are missing: {first}{more}{there}"
        )
    return files
