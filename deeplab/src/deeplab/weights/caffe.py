"""Caffe's .caffemodel files: the arrays of every layer, read straight from protobuf's wire format.

Only the few messages that hold weights are known here; everything else is passed over unread. Nothing in a
file is
believed: a length must lie within the file, a shape must have exactly the numbers that are there, and arrays
    are views
of the file's own bytes, so that no forged number can take memory.

Source: caffe.proto (NetParameter, LayerParameter, V1LayerParameter, V0LayerParameter, BlobProto, BlobShape)
    and the
encoding of protocol buffers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5  # wire types; 3 and 4, groups, are in no file of Caffe
MOST_AXES = 8

# Where a layer's name and its blobs are, for each of the three ages of layer messages.
_LAYER = {"name": 1, "blobs": 7}
_V1_LAYER = {"name": 4, "blobs": 6}
_V0_LAYER = {"name": 1, "blobs": 50}
_NET_LAYERS, _NET_V1_LAYERS, _V1_V0_LAYER = 100, 2, 1
_BLOB_SIZES, _BLOB_DATA, _BLOB_SHAPE, _BLOB_DOUBLES = (1, 2, 3, 4), 5, 7, 8


class _Damaged(Exception):
    """The bytes are not the message they should be."""


def read_caffemodel(path: str | Path) -> dict[str, list[np.ndarray]]:
    """The weights in a .caffemodel file, of any age of Caffe.

    Args:
        path: the file. Layers may be ``layer`` (2015 and later) or ``layers`` (as in DeepLab's release).

    Returns:
        For each layer with weights, in the file's order, its arrays of float32 or float64 (first weights,
        then biases), read-only. Convolutions are (O, I, h, w); sizes of one in front, of the old four-axis
        form, are kept.

    Raises:
        ValueError: if the file is damaged or of another kind; one line that names the layer.
        OSError: if it cannot be read.
    """
    path = Path(path)
    content = memoryview(path.read_bytes())
    layers: dict[str, list[np.ndarray]] = {}
    try:
        for number, _, value in _fields(content):
            if number in (_NET_LAYERS, _NET_V1_LAYERS):
                name, blobs = _layer(_message(value), _LAYER if number == _NET_LAYERS else _V1_LAYER)
                if blobs:
                    layers[name] = blobs
    except _Damaged as error:
        where = f"after layer {list(layers)[-1]!r}: " if layers else ""
        raise ValueError(f"{path}: {where}{error}; wanted a .caffemodel file, whole") from None
    if not layers:
        raise ValueError(
            f"{path}: has no layers with weights; wanted a .caffemodel file (a .prototxt has none)"
        )
    return layers


def _layer(message: memoryview, places: dict[str, int]) -> tuple[str, list[np.ndarray]]:
    """A layer's name and arrays."""
    name, found = "", []
    for number, _, value in _fields(message):
        if number == places["name"]:
            name = bytes(_message(value)).decode(errors="replace")
        elif number == places["blobs"]:
            found.append(_message(value))
        elif number == _V1_V0_LAYER and places is _V1_LAYER:
            return _layer(_message(value), _V0_LAYER)
    try:
        return name, [_blob(blob) for blob in found]
    except _Damaged as error:
        raise _Damaged(f"layer {name!r}: {error}") from None


def _blob(message: memoryview) -> np.ndarray:
    """An array with its shape."""
    sizes, shape = dict.fromkeys(_BLOB_SIZES, 0), None
    numbers: dict[int, memoryview | bytearray] = {}
    for number, _, value in _fields(message):
        if number in sizes and isinstance(value, int):
            sizes[number] = value
        elif number == _BLOB_SHAPE:
            shape = _dimensions(_message(value))
        elif number in (_BLOB_DATA, _BLOB_DOUBLES):
            if number in numbers:  # in several parts, or not packed: joined, never longer than the file
                before = numbers[number]
                numbers[number] = joined = before if isinstance(before, bytearray) else bytearray(before)
                joined += _message(value)
            else:
                numbers[number] = _message(value)
    dtype = np.dtype("<f4" if _BLOB_DATA in numbers else "<f8")
    data = numbers.get(_BLOB_DATA, numbers.get(_BLOB_DOUBLES, b""))
    if len(data) % dtype.itemsize:
        raise _Damaged(f"{len(data)} bytes of numbers, wanted a multiple of {dtype.itemsize}")
    shape = tuple(sizes.values()) if shape is None else shape
    if not data:
        shape = (0,)
    if math.prod(shape) != len(data) // dtype.itemsize:
        raise _Damaged(f"{len(data) // dtype.itemsize} numbers for the shape {shape}")
    return np.frombuffer(data, dtype).reshape(shape)


def _dimensions(message: memoryview) -> tuple[int, ...]:
    """The sizes in a BlobShape, packed or one by one."""
    sizes: list[int] = []
    for number, _, value in _fields(message):
        if number != 1:
            continue
        if isinstance(value, int):
            sizes.append(value)
        else:
            place = 0
            while place < len(value) and len(sizes) <= MOST_AXES:
                size, place = _varint(value, place)
                sizes.append(size)
        if len(sizes) > MOST_AXES:
            raise _Damaged(f"an array of more than {MOST_AXES} axes")
    return tuple(sizes)


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _Damaged("a number where a message should be")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Number, wire type and value of each field; lengths are checked against what is left of the message."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, place = _varint(message, place)
            yield number, wire, value
            continue
        if wire == BYTES:
            length, place = _varint(message, place)
        elif wire in (FOUR_BYTES, EIGHT_BYTES):
            length = 4 if wire == FOUR_BYTES else 8
        else:
            raise _Damaged(f"wire type {wire}, which no file of Caffe has")
        if number == 0 or length > len(message) - place:
            raise _Damaged(f"a field of {length} bytes where {len(message) - place} are left")
        yield number, wire, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A whole number of up to 64 bits, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise _Damaged("the file ends within a number")
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise _Damaged("a number of more than 64 bits")
