"""TIFFs that Pillow cannot read or would round to 8 bits: many bands, 16 bits and more, floating point."""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densecrf import memory

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_FILL_ORDER, _STRIPS, _ORIENTATION, _SAMPLES = 266, 273, 274, 277
_STRIP_ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR = 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _EXTRA, _FORMAT = 322, 323, 324, 325, 338, 339
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
"""Characters of ``struct`` for the types of numbers that the tags above have."""
_LIBTIFF = {5: "LZW", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard"}
"""Compressions that are left to Pillow's libtiff."""
SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class Directory:
    """The first image of a TIFF: its byte order and the numbers of its tags."""

    order: str
    tags: dict[int, tuple[int, ...]]

    def one(self, tag: int, default: int = 0) -> int:
        """The first number of a tag."""
        return self.tags.get(tag, (default,))[0]

    @property
    def is_ordinary(self) -> bool:
        """Whether Pillow reads it without loss: unsigned, at most 8 bits a sample, and 1, 3 or 4 samples."""
        is_small = max(self.tags.get(_BITS, (1,))) <= 8 and set(self.tags.get(_FORMAT, (1,))) == {1}
        return is_small and self.one(_SAMPLES, 1) in (1, 3, 4)


def read_directory(data: bytes) -> Directory:
    """Read the tags of a TIFF's or BigTIFF's first image.

    Args:
        data: the whole file.

    Raises:
        ValueError: if it is not a TIFF, or is damaged.
    """
    if data[:4] not in SIGNATURES:
        raise ValueError("not a TIFF")
    order, is_big = "<>"[data[:2] == b"MM"], data[2:4] in (b"+\0", b"\0+")
    word, count_code, entry_bytes = ("Q", "Q", 20) if is_big else ("I", "H", 12)
    tags: dict[int, tuple[int, ...]] = {}
    try:
        (start,) = struct.unpack_from(order + word, data, 8 if is_big else 4)
        (entries,) = struct.unpack_from(order + count_code, data, start)
        start += struct.calcsize(count_code)
        for place in range(start, start + min(entries, 4096) * entry_bytes, entry_bytes):
            tag, kind, count = struct.unpack_from(order + "HH" + word, data, place)
            if kind not in _NUMBERS:
                continue
            place += 4 + struct.calcsize(word)
            code = f"{order}{count}{_NUMBERS[kind]}"
            if struct.calcsize(code) > struct.calcsize(word):
                (place,) = struct.unpack_from(order + word, data, place)
            tags[tag] = struct.unpack_from(code, data, place)
    except (struct.error, MemoryError, OverflowError):
        raise ValueError("a damaged TIFF") from None
    return Directory(order, {tag: numbers for tag, numbers in tags.items() if numbers})


def read_tiff(path: Path, data: bytes) -> np.ndarray:
    """Read the first image of a TIFF, in the levels that it is stored with.

    Strips or tiles, bands together or apart, unsigned, signed or floating-point samples of 8 to 64 bits;
    uncompressed, deflate, or a compression of Pillow's libtiff. Alpha is left out.

    Args:
        path: name of the file, for messages.
        data: the whole file.

    Returns:
        (H, W) or (H, W, bands).

    Raises:
        ValueError: for damaged files, and for kinds of TIFF that are not read.
        MemoryError: if the image does not fit into memory.
    """
    try:
        directory = read_directory(data)
        image = _image(directory, data)
    except (ValueError, zlib.error, OverflowError) as error:
        raise ValueError(
            f"{path}: {error}; wanted a complete TIFF, uncompressed or with deflate, or the array as .npy"
        ) from None
    extra = directory.tags.get(_EXTRA, ())
    colours = image.shape[2] - len(extra)
    kept = [band for band in range(image.shape[2]) if band < colours or extra[band - colours] not in (1, 2)]
    image = image if len(kept) == image.shape[2] else image[:, :, kept]
    return image[:, :, 0] if image.shape[2] == 1 else image


def _image(directory: Directory, data: bytes) -> np.ndarray:
    dtype = _sample_type(directory)
    height, width, bands = directory.one(_HEIGHT), directory.one(_WIDTH), directory.one(_SAMPLES, 1)
    if not (height and width and bands):
        raise ValueError(f"a TIFF of {width}×{height} pixels and {bands} bands")
    memory.require(height * width * bands * dtype.itemsize, f"an image of {width}×{height} pixels")
    if _TILES in directory.tags:
        columns, rows = directory.one(_TILE_WIDTH), directory.one(_TILE_HEIGHT)
        places, sizes = directory.tags[_TILES], directory.tags.get(_TILE_BYTES, ())
    else:
        columns, rows = width, min(directory.one(_STRIP_ROWS, height), height)
        places, sizes = directory.tags.get(_STRIPS, ()), directory.tags.get(_STRIP_BYTES, ())
    planes = bands if directory.one(_PLANAR, 1) == 2 else 1
    if not (columns and rows):
        raise ValueError("a damaged TIFF")
    across, down = math.ceil(width / columns), math.ceil(height / rows)
    if not len(places) == len(sizes) == planes * across * down:
        raise ValueError("a damaged TIFF")
    out = np.zeros((height, width, bands), dtype.newbyteorder("="))
    for number, (place, size) in enumerate(zip(places, sizes, strict=True)):
        if not size:
            continue  # a part that was never written counts as zeros
        plane, number = divmod(number, across * down)
        top, left = number // across * rows, number % across * columns
        count = rows if _TILES in directory.tags else min(rows, height - top)
        shape = (count, columns, bands // planes)
        part = _part(directory, data[place : place + size], dtype, shape)
        band = slice(None) if planes == 1 else slice(plane, plane + 1)
        target = out[top : top + count, left : left + columns, band]
        target[...] = part[: target.shape[0], : target.shape[1]]
    return out


def _sample_type(directory: Directory) -> np.dtype[np.generic]:
    """The type of a sample, in the file's byte order; ValueError for images that are not read."""
    bits, formats = set(directory.tags.get(_BITS, (1,))), set(directory.tags.get(_FORMAT, (1,)))
    name = {1: "u", 2: "i", 3: "f"}.get(min(formats)) if len(formats) == len(bits) == 1 else None
    size = min(bits)
    if name is None or size not in (8, 16, 32, 64) or (name == "f" and size == 8):
        raise ValueError(f"a TIFF with samples of {sorted(bits)} bits and format {sorted(formats)}")
    for tag, what in ((_FILL_ORDER, "order of bits"), (_ORIENTATION, "orientation")):
        if directory.one(tag, 1) != 1:
            raise ValueError(f"a TIFF with {what} {directory.one(tag)}")
    if directory.one(_PHOTOMETRIC, 1) not in (1, 2):
        raise ValueError(f"a TIFF with photometric interpretation {directory.one(_PHOTOMETRIC)}")
    return np.dtype(f"{directory.order}{name}{size // 8}")


def _part(
    directory: Directory, data: bytes, dtype: np.dtype[np.generic], shape: tuple[int, int, int]
) -> np.ndarray:
    """One strip or tile (rows, columns, bands) in the machine's byte order."""
    needed = math.prod(shape) * dtype.itemsize
    raw = _decompressed(directory.one(_COMPRESSION, 1), data, needed, shape[0])
    if len(raw) < needed:
        raise ValueError("a TIFF that is cut off")
    rows, columns, bands = shape
    predictor = directory.one(_PREDICTOR, 1)
    if predictor == 3 and dtype.kind == "f":
        steps = np.frombuffer(raw, np.uint8, needed).reshape(rows, -1, bands)
        planes = steps.cumsum(axis=1, dtype=np.uint8).reshape(rows, dtype.itemsize, columns * bands)
        numbers = np.ascontiguousarray(planes.swapaxes(1, 2)).view(f">f{dtype.itemsize}")
        return numbers.reshape(shape).astype(dtype.newbyteorder("="))
    part = np.frombuffer(raw, dtype, math.prod(shape)).reshape(shape).astype(dtype.newbyteorder("="))
    if predictor == 2 and dtype.kind in "ui":
        return part.cumsum(axis=1, dtype=part.dtype)
    if predictor != 1:
        raise ValueError(f"a TIFF with predictor {predictor} for {dtype.name} samples")
    return part


def _decompressed(compression: int, data: bytes, needed: int, rows: int) -> bytes:
    if compression == 1:
        return data
    if compression in (8, 32946):
        return zlib.decompressobj().decompress(data, needed)
    if compression not in _LIBTIFF:
        raise ValueError(f"a TIFF with compression {compression}")
    from PIL import Image

    # The same bytes as the one strip of a TIFF of bytes, which Pillow reads whatever they mean.
    width = needed // rows
    tags = {_WIDTH: width, _HEIGHT: rows, _BITS: 8, _COMPRESSION: compression, _PHOTOMETRIC: 1}
    tags |= {_STRIPS: 8 + 2 + 9 * 12 + 4, _SAMPLES: 1, _STRIP_ROWS: rows, _STRIP_BYTES: len(data)}
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    header += b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in sorted(tags.items()))
    try:
        with Image.open(io.BytesIO(header + bytes(4) + data)) as image:
            return image.tobytes()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"a TIFF whose {_LIBTIFF[compression]} data Pillow cannot decode ({error})"
        ) from None
