import math
import sys
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image

from deeplab import PhotoError
from deeplab.classes import palette
from deeplab.large_images import label_tiff, tiff, tiff_reader
from deeplab.large_images.geo_tags import geo_tags_of
from deeplab.large_images.label_tiff import copy_as_tiff, write_labels
from deeplab.large_images.tiff import LargeTiff, UnsupportedTiffError
from deeplab.photos import read_photo

H, W = 83, 131
PHOTO = np.random.default_rng(0).integers(0, 255, (H, W, 3), dtype=np.uint8)
WINDOWS = [(slice(0, H), slice(0, W)), (slice(20, 70), slice(31, W)), (slice(82, 83), slice(1, 2))]
SIXTEEN = PHOTO.astype(np.uint16) * 257
TWELVE = PHOTO.astype(np.uint16) * 16 + 15
GEO = [
    (33550, 12, 3, (0.5, 0.5, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 4e5, 5e6, 0.0), True),
    (34735, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True),
    (34737, 2, 0, "WGS 84 / UTM 33N|", True),
]
TILED = {"tile": (32, 48), "photometric": "rgb"}


def with_fourth(band):
    return np.concatenate([PHOTO, np.broadcast_to(band, (H, W, 1)).astype(np.uint8)], axis=2)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (PHOTO, TILED | {"compression": "lzw", "predictor": True}),
        (PHOTO, TILED | {"compression": "zstd", "bigtiff": True, "byteorder": ">"}),
        (np.moveaxis(PHOTO, 2, 0), TILED | {"planarconfig": "separate", "compression": "zlib"}),
        (PHOTO, {"photometric": "rgb"}),  # one strip, not compressed
        (PHOTO, {"photometric": "rgb", "compression": "zlib", "rowsperstrip": 7}),
        (np.moveaxis(PHOTO, 2, 0), {"photometric": "rgb", "planarconfig": "separate", "rowsperstrip": 9}),
        (with_fourth(7), TILED | {"extrasamples": ["unspecified"]}),  # near infrared
        (with_fourth(7), {"photometric": "minisblack", "planarconfig": "contig", "tile": (32, 48)}),
        (SIXTEEN, TILED | {"byteorder": ">"}),
        (SIXTEEN, {"photometric": "rgb", "byteorder": ">"}),
        (SIXTEEN, {"photometric": "rgb", "compression": "zlib", "predictor": True, "rowsperstrip": 7}),
    ],
)
def test_windows_equal_parts_of_the_image(tmp_path, pixels, options):
    tifffile.imwrite(tmp_path / "m.tif", pixels, **options)
    with LargeTiff(tmp_path / "m.tif") as image:
        assert image.size == (H, W)
        for rows, columns in WINDOWS:
            photo, empty = image.window(rows, columns)
            assert np.array_equal(photo, PHOTO[rows, columns])
            assert not empty.any()


def test_grey_and_jpeg(tmp_path):
    tifffile.imwrite(tmp_path / "grey.tif", PHOTO[:, :, 0], tile=(32, 48))
    with LargeTiff(tmp_path / "grey.tif") as image:
        assert np.array_equal(image.window(*WINDOWS[1])[0], np.repeat(PHOTO[:, :, :1], 3, axis=2)[WINDOWS[1]])
    smooth = np.mgrid[:H, :W].sum(0).astype(np.uint8)[:, :, None].repeat(3, 2)
    tifffile.imwrite(tmp_path / "jpeg.tif", smooth, tile=(32, 48), photometric="rgb", compression="jpeg")
    with LargeTiff(tmp_path / "jpeg.tif") as image:
        photo, _ = image.window(*WINDOWS[1])
        assert np.abs(photo.astype(int) - smooth[WINDOWS[1]])[:, :].mean() < 3


def test_levels_are_scaled_by_the_bits_in_use(tmp_path):
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, TWELVE, **TILED)
    with LargeTiff(path) as image:
        assert np.array_equal(
            image.window(*WINDOWS[1])[0], np.rint(TWELVE[WINDOWS[1]] / 4095 * 255).astype(np.uint8)
        )
    with LargeTiff(path, levels=(1000, 3000)) as image:
        expected = np.clip((TWELVE[WINDOWS[1]] - 1000.0) / 2000, 0, 1) * 255
        assert np.array_equal(image.window(*WINDOWS[1])[0], np.rint(expected).astype(np.uint8))
    for levels in ((5, 5), (9, 2), (-1, 9), (0, math.inf)):
        with pytest.raises(ValueError, match="got levels"):
            LargeTiff(path, levels=levels)


def test_pixels_without_data(tmp_path):
    gap = np.s_[10:40, 20:60]
    alpha = np.full((H, W, 1), 255)
    alpha[gap], alpha[60:] = 0, 100
    tifffile.imwrite(tmp_path / "alpha.tif", with_fourth(alpha), extrasamples=["unassalpha"], **TILED)
    Image.fromarray(with_fourth(alpha)).save(tmp_path / "alpha.png")
    black = PHOTO.copy()
    black[gap] = 0
    tifffile.imwrite(tmp_path / "nodata.tif", black, extratags=[(42113, 2, 0, "0", True)], **TILED)
    with tifffile.TiffWriter(tmp_path / "mask.tif") as file:
        file.write(PHOTO, **TILED)
        file.write(alpha[:, :, 0] > 0, subfiletype=4, photometric="minisblack", compression="zlib")
    expected = np.zeros((H, W), bool)
    expected[gap] = True
    for name in ("alpha.tif", "nodata.tif", "mask.tif"):
        with LargeTiff(tmp_path / name) as image:
            for rows, columns in WINDOWS:
                assert np.array_equal(image.window(rows, columns)[1], expected[rows, columns]), name
    with LargeTiff(tmp_path / "alpha.tif") as image:  # composited on white, as in photos
        assert (
            np.abs(image.window(*WINDOWS[0])[0].astype(int) - read_photo(tmp_path / "alpha.png")).max() <= 1
        )


def test_tiles_missing_in_a_file_have_no_data(tmp_path):
    path = tmp_path / "m.tif"
    tiles = (None if number == 1 else np.full((32, 48, 3), 9, np.uint8) for number in range(9))
    tifffile.imwrite(
        path,
        tiles,
        shape=(H, W, 3),
        dtype=np.uint8,
        compression="zlib",
        extratags=[(42113, 2, 0, "0", True)],
        **TILED,
    )
    with LargeTiff(path) as image:
        _, empty = image.window(*WINDOWS[0])
    assert empty[:32, 48:96].all()
    assert empty.sum() == 32 * 48


MANY = 600
BANDS = np.concatenate([PHOTO, np.full((H, W, MANY - 3), 9, np.uint8)], axis=2)


@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "contig"},  # not compressed
        {"planarconfig": "contig", "tile": (32, 48), "compression": "zlib"},
        {"planarconfig": "contig", "rowsperstrip": 7, "compression": "zlib"},
        {"planarconfig": "separate", "tile": (32, 48), "compression": "zlib"},
    ],
)
def test_only_three_of_many_bands_are_kept_in_memory(tmp_path, options, monkeypatch):
    monkeypatch.setattr(tiff_reader, "MAX_READ_BYTES", 10_000)
    pixels = np.moveaxis(BANDS, 2, 0) if options["planarconfig"] == "separate" else BANDS
    tifffile.imwrite(tmp_path / "m.tif", pixels, photometric="minisblack", **options)
    with LargeTiff(tmp_path / "m.tif") as image:
        for rows, columns in WINDOWS:
            assert np.array_equal(image.window(rows, columns)[0], PHOTO[rows, columns])
        tracemalloc.start()
        image.window(*WINDOWS[0])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < pixels.nbytes / 2


def test_alpha_is_found_behind_many_bands(tmp_path):
    alpha = np.where(np.arange(W) < 40, 0, 255)[None, :, None]
    pixels = np.concatenate([with_fourth(7), np.broadcast_to(alpha, (H, W, 1)).astype(np.uint8)], axis=2)
    tifffile.imwrite(tmp_path / "m.tif", pixels, extrasamples=["unspecified", "unassalpha"], **TILED)
    with LargeTiff(tmp_path / "m.tif") as image:
        photo, empty = image.window(*WINDOWS[0])
    assert np.array_equal(empty, np.broadcast_to(np.arange(W) < 40, (H, W)))
    assert np.array_equal(photo, np.where(empty[:, :, None], np.uint8(255), PHOTO))


def test_a_small_file_of_many_empty_bands_takes_little_memory(tmp_path):
    side, bands = 1024, 4000
    tiles = iter([np.zeros((side, side), np.uint8), *[None] * (bands - 1)])
    tifffile.imwrite(
        tmp_path / "m.tif",
        tiles,
        shape=(bands, side, side),
        dtype=np.uint8,
        tile=(side, side),
        photometric="minisblack",
        planarconfig="separate",
        compression="zlib",
    )
    assert (tmp_path / "m.tif").stat().st_size < 100_000
    tracemalloc.start()
    with LargeTiff(tmp_path / "m.tif") as image:
        photo, _ = image.window(slice(0, side), slice(0, side))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert photo.shape == (side, side, 3)
    assert peak < 50_000_000  # all bands would take 4.2 GB


@pytest.mark.parametrize(
    ("pixels", "options"),
    [(PHOTO.astype(np.float32), TILED), (PHOTO, TILED | {"extratags": [(274, 3, 1, 6, True)]})],
)
def test_kinds_that_cannot_be_read_in_windows(tmp_path, pixels, options):
    tifffile.imwrite(tmp_path / "m.tif", pixels, **options)
    with pytest.raises(
        UnsupportedTiffError, match=r"m\.tif: (has samples of 32 bits|is a volume or is rotated)"
    ):
        LargeTiff(tmp_path / "m.tif")


def test_long_compressed_strips_are_not_read_in_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "MAX_SEGMENT_BYTES", 10_000)
    tifffile.imwrite(tmp_path / "m.tif", PHOTO, photometric="rgb", compression="zlib", rowsperstrip=H)
    with pytest.raises(UnsupportedTiffError, match="gdal_translate"):
        LargeTiff(tmp_path / "m.tif")
    tifffile.imwrite(
        tmp_path / "raw.tif", PHOTO, photometric="rgb"
    )  # not compressed, so its rows can be read one by one
    with LargeTiff(tmp_path / "raw.tif") as image:
        assert np.array_equal(image.window(*WINDOWS[1])[0], PHOTO[WINDOWS[1]])


def test_errors_of_damaged_files_are_one_line(tmp_path):
    tifffile.imwrite(tmp_path / "m.tif", PHOTO, compression="lzw", **TILED)
    whole = (tmp_path / "m.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "holes.tif").write_bytes(whole[:3000] + bytes(20000) + whole[23000:])
    (tmp_path / "junk.tif").write_bytes(b"II*\0junkjunk" * 20)
    (tmp_path / "text.tif").write_text("no picture")
    for name, message in {
        "cut.tif": "damaged: ends after",
        "holes.tif": "damaged",
        "junk.tif": "damaged",
        "text.tif": "damaged",
        "none.tif": "no such file",
        ".": "a folder",
    }.items():
        with pytest.raises(PhotoError, match=message) as raised, LargeTiff(tmp_path / name) as image:
            image.window(*WINDOWS[0])
        assert str(raised.value).startswith(str(tmp_path / name))
        assert "\n" not in str(raised.value)


def test_the_error_names_the_missing_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ModuleNotFoundError, match=r"is not installed: pip install 'deeplab-crf\[mosaic\]'"):
        LargeTiff(tmp_path / "m.tif")


def tiles_of(labels, tile):
    full = np.full([-(-n // tile) * tile for n in labels.shape], 255, np.uint8)
    full[: labels.shape[0], : labels.shape[1]] = labels
    for y in range(0, full.shape[0], tile):
        for x in range(0, full.shape[1], tile):
            yield full[y : y + tile, x : x + tile]


@pytest.mark.parametrize("big", [False, True])
def test_labels_have_palette_and_geo_tags(tmp_path, monkeypatch, big):
    if big:
        monkeypatch.setattr(label_tiff, "MAX_CLASSIC_BYTES", 10_000)
    tifffile.imwrite(tmp_path / "m.tif", PHOTO, extratags=GEO, **TILED)
    labels = PHOTO[:, :, 0] % 21
    names = ["Hintergrund", "Bäume"]
    for name in ("one.tif", "two.tif"):
        write_labels(
            tmp_path / name,
            (H, W),
            tiles_of(labels, 32),
            tile=32,
            class_names=names,
            geo_tags=geo_tags_of(tmp_path / "m.tif"),
        )
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "two.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "one.tif") as file:
        page = file.pages[0]
        assert file.is_bigtiff == big
        assert (page.is_tiled, page.compression.name, page.photometric.name) == (
            True,
            "ADOBE_DEFLATE",
            "PALETTE",
        )
        assert np.array_equal(page.asarray(), labels)
        assert {code: page.tags[code].value for code, *_ in GEO} == {
            code: value for code, _, _, value, _ in GEO
        }
        assert page.tags[42113].value == "255"
        assert "B\\u00e4ume" in page.description
    with Image.open(tmp_path / "one.tif") as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), palette()[labels])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "CMYK", "I;16"])
def test_photos_of_all_modes_are_copied(tmp_path, mode):
    image = (
        Image.fromarray(SIXTEEN[:, :, 0])
        if mode == "I;16"
        else Image.fromarray(with_fourth(60)).convert(mode)
    )
    image.save(tmp_path / "p.tif")
    copy_as_tiff(tmp_path / "p.tif", tmp_path / "parts" / "photo.tif")
    with LargeTiff(tmp_path / "parts" / "photo.tif") as image:
        photo, _ = image.window(*WINDOWS[0])
    assert np.abs(photo.astype(int) - read_photo(tmp_path / "p.tif")).max() <= (mode == "RGBA")
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["photo.tif"]


def test_a_rotated_photo_is_copied_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(PHOTO).save(tmp_path / "p.png", exif=exif)
    copy_as_tiff(tmp_path / "p.png", tmp_path / "photo.tif")
    with LargeTiff(tmp_path / "photo.tif") as image:
        assert image.size == (W, H)
        assert np.array_equal(image.window(slice(0, W), slice(0, H))[0], read_photo(tmp_path / "p.png"))


def test_no_file_is_left_of_a_damaged_photo(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "p.png")
    content = (tmp_path / "p.png").read_bytes()
    (tmp_path / "p.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(PhotoError, match=r"p\.png: damaged"):
        copy_as_tiff(tmp_path / "p.png", tmp_path / "parts" / "photo.tif")
    assert not list((tmp_path / "parts").iterdir())
