import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from deeplab.datasets.mask_files import read_ids

IDS = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 0, 2]], np.uint8)


def grey_png(ids, depth):
    """A grey PNG file of 1, 2, 4 or 8 bits a pixel; the rows fill whole bytes."""
    height, width = ids.shape
    bits = np.unpackbits(ids[:, :, None], axis=2)[:, :, 8 - depth :].reshape(height, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_grey_masks_of_few_bits_hold_ids(tmp_path, depth):
    (tmp_path / "mask.png").write_bytes(grey_png(IDS, depth))
    assert np.array_equal(read_ids(tmp_path / "mask.png"), IDS)


def test_grey_masks_of_one_bit_and_fifteen_ids(tmp_path):
    (tmp_path / "one.png").write_bytes(grey_png(np.tile(IDS % 2, (1, 2)), 1))
    assert np.array_equal(read_ids(tmp_path / "one.png"), np.tile(IDS % 2, (1, 2)))
    many = np.arange(16, dtype=np.uint8).reshape(2, 8)
    (tmp_path / "many.png").write_bytes(grey_png(many, 4))
    assert np.array_equal(read_ids(tmp_path / "many.png"), many)


def test_masks_of_two_pages_are_refused(tmp_path):
    pages = [Image.fromarray(IDS), Image.fromarray(IDS * 0)]
    pages[0].save(tmp_path / "mask.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"mask.tif: has 2 pages; save one page with the ids of all classes"):
        read_ids(tmp_path / "mask.tif")
    pages[0].save(tmp_path / "mask.tif")
    assert np.array_equal(read_ids(tmp_path / "mask.tif"), IDS)


def test_masks_are_turned_as_photos_are(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(IDS).save(tmp_path / "mask.png", exif=exif)
    assert np.array_equal(read_ids(tmp_path / "mask.png"), np.rot90(IDS, -1))
