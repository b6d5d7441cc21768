"""Writes .caffemodel files in the wire format of protocol buffers, as Caffe of every age has written them."""

import numpy as np


def varint(number):
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number, value):
    """A field: of bytes or text with their length, of a whole number as a varint."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else bytes(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(array, *, age="layer", double=False):
    """A BlobProto; before 2015 its shape was num, channels, height, width, padded with ones in front."""
    array = np.asarray(array)
    if age == "layer":
        shape = field(7, field(1, b"".join(varint(size) for size in array.shape)))
    else:
        sizes = (1,) * (4 - array.ndim) + array.shape
        shape = b"".join(field(number, int(size)) for number, size in enumerate(sizes, 1))
    data = array.astype("<f8" if double else "<f4").tobytes()
    return shape + field(8 if double else 5, data)


def model(layers, *, age="layer", double=False):
    """A NetParameter; ``layers`` maps names to arrays. ``age``: "layer" (2015 on), "layers" (2014), "v0"
    (2013)."""
    out = field(1, "a net")
    for name, arrays in layers.items():
        blobs = [blob(array, age=age, double=double) for array in arrays]
        if age == "layer":
            out += field(100, field(1, name) + field(2, "Convolution") + b"".join(field(7, b) for b in blobs))
        elif age == "layers":
            out += field(2, field(4, name) + field(5, 4) + b"".join(field(6, b) for b in blobs))
        else:
            inner = field(1, name) + field(2, "conv") + b"".join(field(50, b) for b in blobs)
            out += field(2, field(1, inner))
    return out
