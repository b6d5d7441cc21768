"""Writer of .caffemodel files in the wire format of protocol buffers, for each generation of Caffe."""

import numpy as np


def varint(number):
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number, value):
    """A field: bytes and text with their length, whole numbers as varints."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else bytes(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(array, *, age="layer", double=False):
    """A BlobProto; before 2015, all shapes had four sizes, with ones in front."""
    array = np.asarray(array)
    if age == "layer":
        shape = field(7, field(1, b"".join(varint(size) for size in array.shape)))
    else:
        sizes = (1,) * (4 - array.ndim) + array.shape
        shape = b"".join(field(number, int(size)) for number, size in enumerate(sizes, 1))
    data = array.astype("<f8" if double else "<f4").tobytes()
    return shape + field(8 if double else 5, data)


def model(layers, *, age="layer", double=False):
    """A NetParameter of arrays by layer; ``age`` is "layer" (from 2015), "layers" (2014) or "v0"."""
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
