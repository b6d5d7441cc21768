"""Files of weights from elsewhere: their arrays by name, with shapes known before anything large is read.

The kind of a file is told from its first bytes. Pickles (.pth, .pt) are never opened; the message says how to
convert.
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

PICKLE_CURE = (
    "a pickle can run code and is not opened; where you trust it, convert it once: python -c "
    "\"import torch, safetensors.torch as s; s.save_file({k: v.contiguous() for k, v in torch.load('FILE', "
    "weights_only=True).items()}, 'OUT.safetensors')\""
)
HDF5_CURE = (
    'HDF5 is not read; convert it where Keras is: python -c "import keras, numpy; m = keras.applications.VGG16(); '
    "numpy.savez('vgg16.npz', **{w.path: w.numpy() for w in m.weights})\""
)


@dataclass(frozen=True)
class Array:
    """One array of a file, not yet read."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    """Reads it; wanted only once the shape is known to be right."""


@dataclass(frozen=True)
class Checkpoint:
    """The arrays of a file, and the program whose form it has: "caffe", "safetensors" or "numpy"."""

    path: Path
    form: str
    arrays: dict[str, Array]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Look into a file of weights: .safetensors, .npz or .caffemodel, whatever its name.

    Caffe's arrays are named after layer and place, as in ``conv1_1.0`` (weights) and ``conv1_1.1`` (biases).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, a pickle, or of another kind; one line that says what would work.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; wanted weights: .safetensors, .npz or .caffemodel")
    with open(path, "rb") as file:
        head = file.read(16)
    if head[:2] == b"PK":
        return Checkpoint(path, "numpy", _zipped(path))
    if head[:4] == b"\x89HDF":
        raise ValueError(f"{path}: {HDF5_CURE}")
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise ValueError(f"{path}: {PICKLE_CURE}")
    if head[8:9] == b"{":
        return Checkpoint(path, "safetensors", _tensors(path))
    layers = read_caffemodel(path)
    flat = {f"{layer}.{place}": blob for layer, blobs in layers.items() for place, blob in enumerate(blobs)}
    return Checkpoint(
        path, "caffe", {name: Array(blob.shape, partial(_itself, blob)) for name, blob in flat.items()}
    )


def _itself(blob: np.ndarray) -> np.ndarray:
    return blob


def _tensors(path: Path) -> dict[str, Array]:
    """The tensors of a safetensors file; its reader checks that their extents lie within the file."""
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a readable safetensors file ({error}); fetch or copy it again"
        ) from None
    return {name: Array(shape, partial(_tensor, path, name)) for name, shape in shapes.items()}


def _tensor(path: Path, name: str) -> np.ndarray:
    with safe_open(path, "pt") as file:
        array: np.ndarray = file.get_tensor(name).float().numpy()  # torch reads bf16, too
        return array


def _zipped(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file, from the headers of its members."""
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.endswith("data.pkl"):
                    raise ValueError(PICKLE_CURE)
                if not member.filename.endswith(".npy"):
                    continue
                with archive.open(member) as stream:
                    shape, dtype = _header(stream)
                name = member.filename.removesuffix(".npy")
                if dtype.kind != "f" or dtype.itemsize > 8:
                    raise ValueError(f"{name} has dtype {dtype}, wanted floats")
                arrays[name] = Array(shape, partial(_member, path, member.filename))
    except _ZIP_FAULTS as error:
        raise ValueError(f"{path}: {_reason(error)}; wanted an .npz file, whole") from None
    except ValueError as error:
        raise ValueError(f"{path}: {_reason(error)}") from None
    return arrays


# What zipfile and the readers beneath it raise on damaged files.
_ZIP_FAULTS = (
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


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a .npy stream; the reader bounds the header's length."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def _member(path: Path, name: str) -> np.ndarray:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
            array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
            return array
    except (*_ZIP_FAULTS, ValueError) as error:
        raise ValueError(
            f"{path}: {name.removesuffix('.npy')}: {_reason(error)}; fetch or copy it again"
        ) from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
