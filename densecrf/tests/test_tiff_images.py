import io

import numpy as np
import pytest

from densecrf.cli import main
from densecrf.images import read_image
from densecrf.tiff import read_directory, read_tiff
from scenes import scene

tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")

RNG = np.random.default_rng(0)
CUBE = RNG.integers(0, 4000, size=(37, 53, 6), dtype=np.uint16)


def write(path, array, **options):
    tifffile.imwrite(path, array, metadata=None, **options)
    return read_image(path)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize(
    "layout", [{}, {"rowsperstrip": 5}, {"tile": (16, 32)}, {"planarconfig": "separate"}]
)
def test_layouts_and_compressions(tmp_path, compression, layout):
    if compression not in (None, "zlib"):
        pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
    array = np.moveaxis(CUBE, -1, 0) if "planarconfig" in layout else CUBE
    options = {"photometric": "minisblack", "planarconfig": "contig", "compression": compression} | layout
    assert np.array_equal(write(tmp_path / "a.tif", array, **options), CUBE)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">u2", "i2", "u4", "i4", ">f4", "f4", "f8"])
@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_types_and_numbers_of_bands(tmp_path, dtype, bands):
    array = (CUBE[:, :, :bands] % 100).astype(dtype)
    options = {"photometric": "rgb" if bands == 3 else "minisblack"}
    options |= {"planarconfig": "contig"} if bands > 1 else {}
    order = ">" if dtype.startswith(">") else "<"
    ours = write(tmp_path / "a.tif", array if bands > 1 else array[:, :, 0], byteorder=order, **options)
    if dtype == "u1" and bands == 1:  # Pillow reads it, as RGB
        array = array.repeat(3, axis=2)
    assert np.array_equal(ours, array if ours.ndim == 3 else array[:, :, 0])


@pytest.mark.parametrize(("dtype", "predictor"), [("u2", 2), ("i4", 2), ("f4", 3), ("f8", 3)])
@pytest.mark.parametrize("compression", ["zlib", "lzw"])
def test_predictors(tmp_path, dtype, predictor, compression):
    pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
    array = CUBE.astype(dtype)
    options = {"photometric": "minisblack", "planarconfig": "contig", "tile": (16, 16)}
    ours = write(tmp_path / "a.tif", array, predictor=predictor, compression=compression, **options)
    assert np.array_equal(ours, array)


def test_bigtiff_and_alpha(tmp_path):
    assert np.array_equal(
        write(tmp_path / "a.tif", CUBE, bigtiff=True, photometric="minisblack", planarconfig="contig"), CUBE
    )
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"], "planarconfig": "contig"}
    assert np.array_equal(write(tmp_path / "b.tif", CUBE[:, :, :4], **options), CUBE[:, :, :3])


def test_damaged_files_get_one_line(tmp_path):
    file = io.BytesIO()
    tifffile.imwrite(file, CUBE, photometric="minisblack", planarconfig="contig", metadata=None)
    whole = file.getvalue()
    path = tmp_path / "a.tif"
    for size in (3, 9, 200, len(whole) // 2, len(whole) - 1):
        with pytest.raises(ValueError, match=r"a\.tif: .*; wanted a complete TIFF"):
            read_tiff(path, whole[:size])
    rng, messages = np.random.default_rng(1), []
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, 400, size=3):
            damaged[place] = rng.integers(256)
        try:
            read_tiff(path, bytes(damaged))
        except (ValueError, MemoryError) as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)
    assert not read_directory(whole).is_ordinary


def test_refine_reads_multiband_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photo, probabilities, areas = scene()
    bands = np.concatenate([photo, photo[:, :, ::-1], photo], axis=2)
    tifffile.imwrite("bands.tif", bands, photometric="minisblack", planarconfig="contig")
    np.save("bands.npy", bands)
    np.save("p.npy", probabilities)
    results = []
    for image in ("bands.tif", "bands.npy"):
        widths = ",".join(["9"] * 9)
        words = ["refine", image, "p.npy", "-o", "q.npy", "--appearance-rgb-std", widths]
        assert main(words) == 0
        results.append(np.load("q.npy"))
    assert capsys.readouterr().err == ""
    assert np.array_equal(*results)
    assert (results[0].argmax(0) == areas).mean() > 0.97
