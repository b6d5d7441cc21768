"""Weights files of other programs: arrays by name, whose shapes are known before anything large is read.

The kind of a file is told from its first bytes. Pickles (.pth, .pt) are never opened; the error says how to
convert them.
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from safetensors import SafetensorError, safe_open

from deeplab.weights.caffe import read_caffemodel

PICKLE_FIX = (
    "a pickle can run code and is not opened; if you trust it, convert it once: python -c "
    "\"import torch, safetensors.torch as s; s.save_file({k: v.contiguous() for k, v in torch.load('FILE', "
    "weights_only=True).items()}, 'OUT.safetensors')\""
)
HDF5_FIX = (
    "HDF5 is not read; convert it where Keras is installed: python -c "
    '"import keras, numpy; m = keras.applications.VGG16(); '
    "numpy.savez('vgg16.npz', **{w.path: w.numpy() for w in m.weights})\""
)


@dataclass(frozen=True)
class Array:
    """An array of a file that is read on request."""

    shape: tuple[int, ...]
    """Shape according to the file's header."""
    read: Callable[[], np.ndarray]
    """Function that reads the array. It is called once the shape has been checked."""


@dataclass(frozen=True)
class Checkpoint:
    """The arrays of a weights file."""

    path: Path
    """The file."""
    form: str
    """Format of the file: "caffe", "safetensors" or "numpy"."""
    arrays: dict[str, Array]
    """The arrays by their names in the file."""


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a weights file: .safetensors, .npz or .caffemodel, whatever its ending.

    Args:
        path: The file.

    Returns:
        Its arrays. Those of Caffe are named after layer and index: ``conv1_1.0`` has weights and
        ``conv1_1.1`` biases.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, a pickle, or of another kind; one line that says what would work.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; wanted weights: .safetensors, .npz or .caffemodel")
    with open(path, "rb") as file:
        head = file.read(16)
    if head[:2] == b"PK":
        return Checkpoint(path, "numpy", _npz_arrays(path))
    if head[:4] == b"\x89HDF":
        raise ValueError(f"{path}: {HDF5_FIX}")
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise ValueError(f"{path}: {PICKLE_FIX}")
    if head[8:9] == b"{":
        return Checkpoint(path, "safetensors", _safetensors_arrays(path))
    return Checkpoint(path, "caffe", _caffe_arrays(path))


def _caffe_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a .caffemodel file, which are views of its bytes."""
    arrays = {}
    for layer, blobs in read_caffemodel(path).items():
        for index, blob in enumerate(blobs):
            arrays[f"{layer}.{index}"] = Array(blob.shape, partial(np.asarray, blob))
    return arrays


def _safetensors_arrays(path: Path) -> dict[str, Array]:
    """The tensors of a safetensors file. Its reader checks that their extents lie within the file."""
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a readable safetensors file ({error}); fetch or copy it again"
        ) from None
    return {name: Array(shape, partial(_read_tensor, path, name)) for name, shape in shapes.items()}


def _read_tensor(path: Path, name: str) -> np.ndarray:
    with safe_open(path, "pt") as file:
        array: np.ndarray = file.get_tensor(name).float().numpy()  # through torch, because NumPy has no bf16
        return array


def _npz_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file, by the headers of its members."""
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.endswith("data.pkl"):
                    raise ValueError(PICKLE_FIX)
                if not member.filename.endswith(".npy"):
                    continue
                with archive.open(member) as stream:
                    shape, dtype = _read_header(stream)
                name = member.filename.removesuffix(".npy")
                if dtype.kind != "f" or dtype.itemsize > 8:
                    raise ValueError(f"{name} has dtype {dtype}, wanted floats")
                arrays[name] = Array(shape, partial(_read_member, path, member.filename))
    except _ZIP_ERRORS as error:
        raise ValueError(f"{path}: {_reason(error)}; wanted an .npz file, whole") from None
    except ValueError as error:
        raise ValueError(f"{path}: {_reason(error)}") from None
    return arrays


# Errors that zipfile and the readers beneath it raise for damaged files.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    KeyError,
    IndexError,
    OSError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    SyntaxError,
    MemoryError,
)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a .npy stream. NumPy's reader bounds the header's length."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def _read_member(path: Path, name: str) -> np.ndarray:
    """One array of an .npz file."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
            array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
            return array
    except (*_ZIP_ERRORS, ValueError) as error:
        raise ValueError(
            f"{path}: {name.removesuffix('.npy')}: {_reason(error)}; fetch or copy it again"
        ) from None


def _reason(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
