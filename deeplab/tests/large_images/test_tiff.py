import math
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image

from deeplab import PhotoError
from deeplab.classes import palette
from deeplab.large_images import label_tiff, tiff
from deeplab.large_images.label_tiff import lay_down, write_labels
from deeplab.large_images.tiff import LargeTiff, NotInWindows, geo_tags_of
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
    ("pixels", "how"),
    [
        (PHOTO, TILED | {"compression": "lzw", "predictor": True}),
        (PHOTO, TILED | {"compression": "zstd", "bigtiff": True, "byteorder": ">"}),
        (np.moveaxis(PHOTO, 2, 0), TILED | {"planarconfig": "separate", "compression": "zlib"}),
        (PHOTO, {"photometric": "rgb"}),  # one long strip, not compressed
        (PHOTO, {"photometric": "rgb", "compression": "zlib", "rowsperstrip": 7}),
        (np.moveaxis(PHOTO, 2, 0), {"photometric": "rgb", "planarconfig": "separate", "rowsperstrip": 9}),
        (with_fourth(7), TILED | {"extrasamples": ["unspecified"]}),  # near infrared
        (with_fourth(7), {"photometric": "minisblack", "planarconfig": "contig", "tile": (32, 48)}),
        (SIXTEEN, TILED | {"byteorder": ">"}),
        (SIXTEEN, {"photometric": "rgb", "byteorder": ">"}),
        (SIXTEEN, {"photometric": "rgb", "compression": "zlib", "predictor": True, "rowsperstrip": 7}),
    ],
)
def test_windows_are_as_the_picture(tmp_path, pixels, how):
    tifffile.imwrite(tmp_path / "m.tif", pixels, **how)
    with LargeTiff(tmp_path / "m.tif") as found:
        assert found.size == (H, W)
        assert not found.may_be_empty
        for rows, columns in WINDOWS:
            photo, empty = found.window(rows, columns)
            assert np.array_equal(photo, PHOTO[rows, columns])
            assert not empty.any()


def test_grey_and_jpeg(tmp_path):
    tifffile.imwrite(tmp_path / "grey.tif", PHOTO[:, :, 0], tile=(32, 48))
    with LargeTiff(tmp_path / "grey.tif") as found:
        assert np.array_equal(found.window(*WINDOWS[1])[0], np.repeat(PHOTO[:, :, :1], 3, axis=2)[WINDOWS[1]])
    smooth = np.mgrid[:H, :W].sum(0).astype(np.uint8)[:, :, None].repeat(3, 2)
    tifffile.imwrite(tmp_path / "jpeg.tif", smooth, tile=(32, 48), photometric="rgb", compression="jpeg")
    with LargeTiff(tmp_path / "jpeg.tif") as found:
        photo, _ = found.window(*WINDOWS[1])
        assert np.abs(photo.astype(int) - smooth[WINDOWS[1]])[:, :].mean() < 3


def test_sixteen_bits_are_scaled_by_the_bits_in_use(tmp_path):
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, TWELVE, **TILED)
    with LargeTiff(path) as found:
        assert np.array_equal(
            found.window(*WINDOWS[1])[0], np.rint(TWELVE[WINDOWS[1]] / 4095 * 255).astype(np.uint8)
        )
    with LargeTiff(path, levels=(1000, 3000)) as found:
        wanted = np.clip((TWELVE[WINDOWS[1]] - 1000.0) / 2000, 0, 1) * 255
        assert np.array_equal(found.window(*WINDOWS[1])[0], np.rint(wanted).astype(np.uint8))
    for levels in ((5, 5), (9, 2), (-1, 9), (0, math.inf)):
        with pytest.raises(ValueError, match="got levels"):
            LargeTiff(path, levels=levels)


def test_where_there_is_no_picture(tmp_path):
    hole = np.s_[10:40, 20:60]
    alpha = np.full((H, W, 1), 255)
    alpha[hole], alpha[60:] = 0, 100
    tifffile.imwrite(tmp_path / "alpha.tif", with_fourth(alpha), extrasamples=["unassalpha"], **TILED)
    Image.fromarray(with_fourth(alpha)).save(tmp_path / "alpha.png")
    black = PHOTO.copy()
    black[hole] = 0
    tifffile.imwrite(tmp_path / "nodata.tif", black, extratags=[(42113, 2, 0, "0", True)], **TILED)
    with tifffile.TiffWriter(tmp_path / "mask.tif") as file:
        file.write(PHOTO, **TILED)
        file.write(alpha[:, :, 0] > 0, subfiletype=4, photometric="minisblack", compression="zlib")
    wanted = np.zeros((H, W), bool)
    wanted[hole] = True
    for name in ("alpha.tif", "nodata.tif", "mask.tif"):
        with LargeTiff(tmp_path / name) as found:
            assert found.may_be_empty
            for rows, columns in WINDOWS:
                assert np.array_equal(found.window(rows, columns)[1], wanted[rows, columns]), name
    with LargeTiff(tmp_path / "alpha.tif") as found:  # on white, as photos
        assert (
            np.abs(found.window(*WINDOWS[0])[0].astype(int) - read_photo(tmp_path / "alpha.png")).max() <= 1
        )


def test_tiles_left_out_of_a_file_are_no_data(tmp_path):
    path = tmp_path / "m.tif"
    tiles = (None if place == 1 else np.full((32, 48, 3), 9, np.uint8) for place in range(9))
    tifffile.imwrite(
        path,
        tiles,
        shape=(H, W, 3),
        dtype=np.uint8,
        compression="zlib",
        extratags=[(42113, 2, 0, "0", True)],
        **TILED,
    )
    with LargeTiff(path) as found:
        _, empty = found.window(*WINDOWS[0])
    assert empty[:32, 48:96].all()
    assert empty.sum() == 32 * 48


MANY = 600
BANDS = np.concatenate([PHOTO, np.full((H, W, MANY - 3), 9, np.uint8)], axis=2)


@pytest.mark.parametrize(
    "how",
    [
        {"planarconfig": "contig"},  # not compressed
        {"planarconfig": "contig", "tile": (32, 48), "compression": "zlib"},
        {"planarconfig": "contig", "rowsperstrip": 7, "compression": "zlib"},
        {"planarconfig": "separate", "tile": (32, 48), "compression": "zlib"},
    ],
)
def test_only_three_of_many_bands_are_held(tmp_path, how, monkeypatch):
    monkeypatch.setattr(tiff, "MOST_RAW_BYTES", 10_000)
    pixels = np.moveaxis(BANDS, 2, 0) if how["planarconfig"] == "separate" else BANDS
    tifffile.imwrite(tmp_path / "m.tif", pixels, photometric="minisblack", **how)
    with LargeTiff(tmp_path / "m.tif") as found:
        for rows, columns in WINDOWS:
            assert np.array_equal(found.window(rows, columns)[0], PHOTO[rows, columns])
        tracemalloc.start()
        found.window(*WINDOWS[0])
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < pixels.nbytes / 2


def test_alpha_is_found_behind_many_bands(tmp_path):
    alpha = np.where(np.arange(W) < 40, 0, 255)[None, :, None]
    pixels = np.concatenate([with_fourth(7), np.broadcast_to(alpha, (H, W, 1)).astype(np.uint8)], axis=2)
    tifffile.imwrite(tmp_path / "m.tif", pixels, extrasamples=["unspecified", "unassalpha"], **TILED)
    with LargeTiff(tmp_path / "m.tif") as found:
        photo, empty = found.window(*WINDOWS[0])
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
    with LargeTiff(tmp_path / "m.tif") as found:
        photo, _ = found.window(slice(0, side), slice(0, side))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert photo.shape == (side, side, 3)
    assert most < 50_000_000  # all bands would take 4.2 GB


@pytest.mark.parametrize(
    ("pixels", "how"),
    [(PHOTO.astype(np.float32), TILED), (PHOTO, TILED | {"extratags": [(274, 3, 1, 6, True)]})],
)
def test_what_windows_cannot_read_is_said(tmp_path, pixels, how):
    tifffile.imwrite(tmp_path / "m.tif", pixels, **how)
    with pytest.raises(NotInWindows, match=r"m\.tif: (has samples of 32 bits|is a volume, or turned)"):
        LargeTiff(tmp_path / "m.tif")


def test_long_compressed_strips_are_not_read_in_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "MOST_SEGMENT_BYTES", 10_000)
    tifffile.imwrite(tmp_path / "m.tif", PHOTO, photometric="rgb", compression="zlib", rowsperstrip=H)
    with pytest.raises(NotInWindows, match="gdal_translate"):
        LargeTiff(tmp_path / "m.tif")
    tifffile.imwrite(tmp_path / "raw.tif", PHOTO, photometric="rgb")  # its rows can be read one by one
    with LargeTiff(tmp_path / "raw.tif") as found:
        assert np.array_equal(found.window(*WINDOWS[1])[0], PHOTO[WINDOWS[1]])


def test_damage_is_one_line(tmp_path):
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
        with pytest.raises(PhotoError, match=message) as raised, LargeTiff(tmp_path / name) as found:
            found.window(*WINDOWS[0])
        assert str(raised.value).startswith(str(tmp_path / name))
        assert "\n" not in str(raised.value)


def test_without_the_extra_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("deeplab.weights.exported.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"is not installed: pip install 'deeplab-crf\[mosaic\]'"):
        LargeTiff(tmp_path / "m.tif")


def cut(labels, tile):
    full = np.full([-(-n // tile) * tile for n in labels.shape], 255, np.uint8)
    full[: labels.shape[0], : labels.shape[1]] = labels
    for y in range(0, full.shape[0], tile):
        for x in range(0, full.shape[1], tile):
            yield full[y : y + tile, x : x + tile]


@pytest.mark.parametrize("big", [False, True])
def test_labels_with_palette_and_place(tmp_path, monkeypatch, big):
    if big:
        monkeypatch.setattr(label_tiff, "MOST_IN_CLASSIC", 10_000)
    tifffile.imwrite(tmp_path / "m.tif", PHOTO, extratags=GEO, **TILED)
    labels = PHOTO[:, :, 0] % 21
    names = ["Hintergrund", "Bäume"]
    for name in ("one.tif", "two.tif"):
        write_labels(
            tmp_path / name,
            (H, W),
            cut(labels, 32),
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
def test_what_pillow_reads_is_laid_down(tmp_path, mode):
    image = (
        Image.fromarray(SIXTEEN[:, :, 0])
        if mode == "I;16"
        else Image.fromarray(with_fourth(60)).convert(mode)
    )
    image.save(tmp_path / "p.tif")
    lay_down(tmp_path / "p.tif", tmp_path / "parts" / "photo.tif")
    with LargeTiff(tmp_path / "parts" / "photo.tif") as found:
        photo, _ = found.window(*WINDOWS[0])
    assert np.abs(photo.astype(int) - read_photo(tmp_path / "p.tif")).max() <= (mode == "RGBA")
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["photo.tif"]


def test_a_turned_photo_is_laid_down_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(PHOTO).save(tmp_path / "p.png", exif=exif)
    lay_down(tmp_path / "p.png", tmp_path / "photo.tif")
    with LargeTiff(tmp_path / "photo.tif") as found:
        assert found.size == (W, H)
        assert np.array_equal(found.window(slice(0, W), slice(0, H))[0], read_photo(tmp_path / "p.png"))


def test_nothing_is_left_of_a_photo_that_cannot_be_laid_down(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "p.png")
    content = (tmp_path / "p.png").read_bytes()
    (tmp_path / "p.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(PhotoError, match=r"p\.png: damaged"):
        lay_down(tmp_path / "p.png", tmp_path / "parts" / "photo.tif")
    assert not list((tmp_path / "parts").iterdir())
