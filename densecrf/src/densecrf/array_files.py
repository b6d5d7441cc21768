"""Arrays in .npy and .npz files."""

from __future__ import annotations

import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SUFFIXES = (".npy", ".npz")
_ERRORS = (
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy and zipfile raise for damaged files, and for pickled objects."""


def read_array(path: Path, names: Sequence[str]) -> tuple[np.ndarray, str]:
    """Read the array of a .npy file, or one of a .npz file.

    Args:
        path: the file.
        names: names of which a .npz file with several arrays has one.

    Returns:
        array: real numbers of any shape.
        name: its name in a .npz file, else "".

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged, holds something else, or several arrays of which none is named so.
    """
    array, name = _load(path, names)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{path}: got an array of {array.dtype}, wanted numbers")
    return array, name


def _load(path: Path, names: Sequence[str]) -> tuple[np.ndarray, str]:
    try:
        # The file is opened here because NumPy leaves the files of damaged archives open.
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns of some damaged headers before it refuses them
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded, ""
            present = list(loaded)
            chosen = present if len(present) == 1 else [name for name in names if name in present]
            if len(chosen) == 1:
                return loaded[chosen[0]], chosen[0]
    except _ERRORS as error:
        raise ValueError(
            f"{path}: not an array that can be read ({error}); wanted a complete .npy or .npz file"
        ) from None
    raise ValueError(f"{path}: got arrays {present}, wanted one, or one named {', '.join(names)}")
