import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from deeplab.datasets.mask_files import read_ids
from deeplab.photos import PhotoError, photo_from_any, photo_from_image, read_photo, resize_photo


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "CMYK", "RGBA", "LA", "I;16", "I", "F", "1", "YCbCr"])
def test_every_colour_mode_gives_the_same_levels(mode):
    grey = np.array([[0, 255, 0], [255, 255, 0]], np.uint8)  # H ≠ W; black and white survive in every mode
    if mode in ("I;16", "I"):
        image = Image.fromarray(grey.astype(np.uint16 if mode == "I;16" else np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray(grey.astype(np.float32) / 255)
    else:
        image = Image.fromarray(grey).convert(mode)
    assert image.mode == mode
    found = photo_from_image(image)
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.repeat(grey[:, :, None], 3, axis=2))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    levels = np.array([[0, 257 * 100, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    assert read_photo(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 100, 255]


def test_transparent_pixels_become_white(tmp_path):
    Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], np.uint8)).save(tmp_path / "clear.png")
    assert read_photo(tmp_path / "clear.png").tolist() == [[[255, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation, tmp_path, photo):
    rotations = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo).save(tmp_path / "turned.png", exif=exif)
    found = read_photo(tmp_path / "turned.png")
    assert found.shape == ((70, 45, 3) if orientation >= 5 else (45, 70, 3))
    if orientation in rotations:
        assert np.array_equal(found, np.asarray(Image.fromarray(photo).transpose(rotations[orientation])))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (7, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert read_photo(tmp_path / "two.gif")[0, 0].tolist() == [255, 0, 0]


def png_header(width, height):
    """A PNG file of the given size without pixel data."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


def test_errors_of_unusable_files_are_one_line(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    files = {
        "text.jpg": (b"hello", "not an image"),
        "empty.jpg": (b"", "not an image"),
        "half.jpg": (content[: len(content) // 2], "damaged"),
        "bomb.png": (png_header(60_000, 60_000), "too large, wanted at most 178 megapixels"),
        "nothing.png": (png_header(5, 7), "damaged"),
    }
    for name, (content, reason) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PhotoError, match=reason) as caught:
            read_photo(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(PhotoError, match="no such file"):
        read_photo(tmp_path / "missing.jpg")
    with pytest.raises(PhotoError, match="a folder"):
        read_photo(tmp_path)


@pytest.mark.parametrize(("pillow_limit", "allowed"), [(None, 300), (150_000_000, 300), (100_000_000, 200)])
def test_the_size_limit_in_the_message_is_the_one_that_holds(tmp_path, monkeypatch, pillow_limit, allowed):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    path = tmp_path / "large.png"
    for width, reason in (
        (1_000 * allowed, "damaged"),
        (1_000 * allowed + 1, f"wanted at most {allowed} meg"),
    ):
        path.write_bytes(png_header(width, 1_000))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with pytest.raises(PhotoError, match=reason):
                read_photo(path)


def test_every_truncation_is_an_error_or_a_photo(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    for length in range(0, len(content), 7):
        (tmp_path / "part.png").write_bytes(content[:length])
        try:
            assert read_photo(tmp_path / "part.png").shape == photo.shape
        except PhotoError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_invalid_levels_are_refused():
    for level, reason in ((np.nan, "NaN"), (-1.0, "wanted 0–65535"), (1e9, "wanted 0–65535")):
        with pytest.raises(PhotoError, match=reason):
            photo_from_image(Image.fromarray(np.full((2, 3), level, np.float32)))


def test_arrays(photo):
    assert np.array_equal(photo_from_any(photo), photo)
    assert photo_from_any(photo[:, :, 0]).shape == photo.shape
    for bad in (photo.astype(float), photo[:, :, :2], photo[:0], np.zeros((2, 3, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"wanted \(H, W, 3\) uint8"):
            photo_from_any(bad)


def test_resized_photos(photo):
    assert resize_photo(photo, (45, 70)) is photo
    wanted = np.asarray(Image.fromarray(photo).resize((90, 20), Image.Resampling.BILINEAR))
    assert np.array_equal(resize_photo(photo, (20, 90)), wanted)


@pytest.mark.parametrize("name", ["photo.jpg", "photo.eps", "mask.png"])
def test_files_that_need_another_program_are_not_opened(tmp_path, monkeypatch, name):
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 30\n%%EndComments\nshowpage\n"
    (tmp_path / name).write_bytes(script)
    monkeypatch.setattr("subprocess.check_call", lambda *command, **options: pytest.fail(f"ran {command}"))
    with pytest.raises(ValueError, match=r"not an image that can be read|cannot be decoded"):
        (read_ids if name.startswith("mask") else read_photo)(tmp_path / name)


@pytest.mark.parametrize(("bits", "high"), [(10, 1023), (12, 4095), (16, 65535), (8, 255)])
def test_bits_in_use_of_sixteen_are_scaled(tmp_path, bits, high):
    levels = np.array([[0, high // 2, high], [0, 0, high]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.tif")
    assert read_photo(tmp_path / "deep.tif")[:, :, 0].tolist() == [[0, 127, 255], [0, 0, 255]]


def deep_png(levels):
    """A PNG file of 16 bits a colour, of levels (H, W, 3)."""
    height, width, _ = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
    ]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in [*parts, (b"IEND", b"")]
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_colours_of_twelve_bits_in_sixteen_are_told(tmp_path):
    levels = np.array([[[0, 4095, 100], [257, 7, 4000]]])
    (tmp_path / "dark.png").write_bytes(deep_png(levels))
    with pytest.raises(PhotoError, match=r"dark.png: has colours of 16 bits that use 12 bits or fewer"):
        read_photo(tmp_path / "dark.png")
    (tmp_path / "full.png").write_bytes(deep_png(levels * 16))
    assert read_photo(tmp_path / "full.png").tolist() == [[[0, 255, 6], [16, 0, 250]]]


def test_infrared_that_claims_to_be_opacity_is_left_out(tmp_path):
    pixels = np.full((4, 6, 4), 90, np.uint8)
    pixels[..., 3] = np.arange(24).reshape(4, 6) + 100
    Image.fromarray(pixels).save(tmp_path / "nir.tif")
    assert (read_photo(tmp_path / "nir.tif") == 90).all()
    pixels[..., 3] = 255
    pixels[0, 0, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "clear.tif")
    assert read_photo(tmp_path / "clear.tif")[0, :2].tolist() == [[255] * 3, [90] * 3]
