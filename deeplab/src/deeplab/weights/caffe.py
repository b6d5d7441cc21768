"""Reader of Caffe's .caffemodel files, straight from protobuf's wire format.

Only the messages that hold weights are read; everything else is skipped. Files are not trusted: a length must
lie within the file, a shape must have as many numbers as there are, and arrays are views of the file's own
bytes, so that a forged number cannot make this module allocate memory.

Source: caffe.proto (NetParameter, LayerParameter, V1LayerParameter, V0LayerParameter, BlobProto, BlobShape)
and the encoding of protocol buffers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5  # wire types; Caffe uses no groups, which are 3 and 4
MAX_AXES = 8

# Field numbers of a layer's name and blobs, for each of the three generations of layer messages.
_LAYER = {"name": 1, "blobs": 7}
_V1_LAYER = {"name": 4, "blobs": 6}
_V0_LAYER = {"name": 1, "blobs": 50}
_NET_LAYERS, _NET_V1_LAYERS, _V1_V0_LAYER = 100, 2, 1
_BLOB_SIZES, _BLOB_DATA, _BLOB_SHAPE, _BLOB_DOUBLES = (1, 2, 3, 4), 5, 7, 8


class _Damaged(Exception):
    """The bytes are not the message that was expected."""


def read_caffemodel(path: str | Path) -> dict[str, list[np.ndarray]]:
    """Read the weights in a .caffemodel file of any generation of Caffe.

    Args:
        path: File with layers as ``layer`` (2015 and later) or ``layers`` (as in DeepLab's release).

    Returns:
        The arrays of each layer that has weights, in the file's order: first weights, then biases, float32 or
        float64, read-only. Convolutions are (O, I, h, w). Old files give all arrays four axes, with sizes of
        one in front.

    Raises:
        ValueError: If the file is damaged or of another kind; one line that names the layer.
        OSError: If it cannot be read.
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


def _layer(message: memoryview, numbers: dict[str, int]) -> tuple[str, list[np.ndarray]]:
    """A layer's name and arrays, from a message with these field numbers."""
    name = ""
    blobs = []
    for number, _, value in _fields(message):
        if number == numbers["name"]:
            name = bytes(_message(value)).decode(errors="replace")
        elif number == numbers["blobs"]:
            blobs.append(_message(value))
        elif number == _V1_V0_LAYER and numbers is _V1_LAYER:
            return _layer(_message(value), _V0_LAYER)
    try:
        return name, [_blob(blob) for blob in blobs]
    except _Damaged as error:
        raise _Damaged(f"layer {name!r}: {error}") from None


def _blob(message: memoryview) -> np.ndarray:
    """An array with its shape."""
    sizes = dict.fromkeys(_BLOB_SIZES, 0)
    shape = None
    numbers: dict[int, memoryview | bytearray] = {}
    for number, _, value in _fields(message):
        if number in sizes and isinstance(value, int):
            sizes[number] = value
        elif number == _BLOB_SHAPE:
            shape = _dimensions(_message(value))
        elif number in (_BLOB_DATA, _BLOB_DOUBLES):
            if number in numbers:  # several parts, or not packed; together they are not longer than the file
                previous = numbers[number]
                joined = previous if isinstance(previous, bytearray) else bytearray(previous)
                numbers[number] = joined
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
            position = 0
            while position < len(value) and len(sizes) <= MAX_AXES:
                size, position = _varint(value, position)
                sizes.append(size)
        if len(sizes) > MAX_AXES:
            raise _Damaged(f"an array of more than {MAX_AXES} axes")
    return tuple(sizes)


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _Damaged("a number where a message should be")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Number, wire type and value of each field; lengths are checked against the rest of the message."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, position = _varint(message, position)
            yield number, wire, value
            continue
        if wire == BYTES:
            length, position = _varint(message, position)
        elif wire in (FOUR_BYTES, EIGHT_BYTES):
            length = 4 if wire == FOUR_BYTES else 8
        else:
            raise _Damaged(f"wire type {wire}, which no file of Caffe has")
        if number == 0 or length > len(message) - position:
            raise _Damaged(f"a field of {length} bytes where {len(message) - position} are left")
        yield number, wire, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A whole number of up to 64 bits, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise _Damaged("the file ends within a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _Damaged("a number of more than 64 bits")
