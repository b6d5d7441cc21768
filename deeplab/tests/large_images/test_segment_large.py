import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import deeplab.model.loading
from deeplab import PhotoError
from deeplab.cli import main
from deeplab.large_images import scores, segment
from deeplab.large_images.block_segmenter import BlockSegmenter
from deeplab.large_images.layout import Layout
from deeplab.large_images.segment import is_large, segment_mosaic
from deeplab.large_images.tiff import LargeTiff
from deeplab.model.predictor import Predictor
from deeplab.model.segmentation import Model
from deeplab.weights.store import Card
from densecrf import Params
from large_image_scene import LAYOUT, NARROW, H, W, picture, small_model

TILED = {"tile": (64, 48), "photometric": "rgb", "compression": "zlib"}
GEO = [(33550, 12, 3, (0.5, 0.5, 0.0), True), (34735, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True)]


@pytest.fixture(scope="module")
def small():
    return small_model()


@pytest.fixture(scope="module")
def plain(small):
    return small.segment(picture(), crf=False)


@pytest.fixture
def large_tiff(tmp_path):
    tifffile.imwrite(tmp_path / "m.tif", picture(), extratags=GEO, **TILED)
    return tmp_path / "m.tif"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_blocks_without_crf_equal_the_whole_image(large_tiff, small, plain, tmp_path):
    result = segment_mosaic(large_tiff, tmp_path / "out" / "m", small, crf=False, layout=LAYOUT)
    labels = tifffile.imread(result.labels)
    assert np.unique(labels).size == 3
    assert np.array_equal(labels, plain.labels)
    assert result.shares() == pytest.approx(plain.shares())
    assert names(tmp_path / "out") == ["m.tif", "m_overlay.png"]
    with tifffile.TiffFile(result.labels) as file:
        assert file.pages[0].tags[33550].value == GEO[0][3]
        assert file.pages[0].tags[34735].value == GEO[1][3]
    with Image.open(tmp_path / "out" / "m_overlay.png") as overlay:
        assert np.array_equal(np.asarray(overlay)[:H, :W], plain.overlay())  # a small image is not reduced


@pytest.mark.parametrize(("variant", "layout"), [("deeplab", LAYOUT), ("deeplab-7x7", Layout(96, 112, 0))])
def test_other_networks_show_no_seams(large_tiff, tmp_path, variant, layout):
    model = small_model(variant)
    result = segment_mosaic(large_tiff, tmp_path / "out", model, crf=False, layout=layout)
    assert np.array_equal(tifffile.imread(result.labels), model.segment(picture(), crf=False).labels)


def test_multi_scale_networks_show_no_seams(narrow, tmp_path):
    model = Model(
        narrow("deeplab-msc-largefov"), Card("deeplab-msc-largefov", ("a", "b", "c")), precision="fp32"
    )
    photo = picture(40, 72)
    tifffile.imwrite(tmp_path / "m.tif", photo, photometric="rgb")
    result = segment_mosaic(tmp_path / "m.tif", tmp_path / "out", model, crf=False, layout=Layout(64, 48, 0))
    assert np.array_equal(tifffile.imread(result.labels), model.segment(photo, crf=False).labels)


def test_blocks_with_crf_almost_equal_the_whole_image(large_tiff, small, plain, tmp_path):
    whole = small.refine(plain, params=NARROW, threads=1).labels
    assert (whole != plain.labels).mean() > 0.02
    result = segment_mosaic(large_tiff, tmp_path / "out", small, crf=NARROW, layout=LAYOUT, threads=1)
    assert (tifffile.imread(result.labels) != whole).mean() <= 0.001
    without = segment_mosaic(
        large_tiff, tmp_path / "out", small, crf=NARROW, layout=replace(LAYOUT, margin=0), threads=1
    )
    assert (tifffile.imread(without.labels) != whole).mean() > 0.001  # the margin is needed


CHILD = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from large_image_scene import LAYOUT, NARROW, small_model
from deeplab.large_images import scores
from deeplab.large_images.segment import segment_mosaic
remaining, write_whole = 9, scores.write_whole
def write(path, content):
    global remaining
    remaining -= 1
    if not remaining:
        os.kill(os.getpid(), signal.SIGKILL)
    write_whole(path, content)
scores.write_whole = write
segment_mosaic(sys.argv[2], sys.argv[3], small_model(), crf=NARROW, layout=LAYOUT, threads=1)
"""


def test_a_killed_run_resumes_and_ends_with_the_same_bytes(large_tiff, small, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parents[1]), str(large_tiff), str(out / "m")]
    assert subprocess.run(command, check=False).returncode == -9
    assert names(out) == ["m.parts"]
    finished = {path.relative_to(out) for path in (out / "m.parts").rglob("*.npy")}
    assert len(finished) == 6 + 2  # windows of scores and blocks of labels
    written = set()

    def record(path, content, real=scores.write_whole):
        written.add(Path(path).relative_to(out))
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(scores, "write_whole", record)
        result = segment_mosaic(large_tiff, out / "m", small, crf=NARROW, layout=LAYOUT, threads=1)
    assert len(written) == 4
    assert not written & finished
    assert names(out) == ["m.tif", "m_overlay.png"]
    undisturbed = segment_mosaic(
        large_tiff, tmp_path / "again" / "m", small, crf=NARROW, layout=LAYOUT, threads=1
    )
    assert result.labels.read_bytes() == undisturbed.labels.read_bytes()
    assert (out / "m_overlay.png").read_bytes() == (tmp_path / "again" / "m_overlay.png").read_bytes()
    assert np.array_equal(result.counts, undisturbed.counts)


@pytest.mark.parametrize("damage", ["empty", "cut off"])
def test_incomplete_parts_are_computed_again(large_tiff, small, tmp_path, damage):
    out = tmp_path / "out"
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parents[1]), str(large_tiff), str(out / "m")]
    assert subprocess.run(command, check=False).returncode == -9
    for kind in ("scores", "labels"):
        part = sorted((out / "m.parts" / kind).glob("*.npy"))[0]
        part.write_bytes(b"" if damage == "empty" else part.read_bytes()[:-9])
    result = segment_mosaic(large_tiff, out / "m", small, crf=NARROW, layout=LAYOUT, threads=1)
    undisturbed = segment_mosaic(
        large_tiff, tmp_path / "again" / "m", small, crf=NARROW, layout=LAYOUT, threads=1
    )
    assert result.labels.read_bytes() == undisturbed.labels.read_bytes()


def test_an_incomplete_copy_is_made_again(small, tmp_path, monkeypatch):
    photo, target = tmp_path / "p.png", tmp_path / "out" / "p"
    Image.fromarray(picture()).save(photo)
    with monkeypatch.context() as patch:
        patch.setattr(segment, "write_labels", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            segment_mosaic(photo, target, small, crf=False, layout=LAYOUT)
    (tmp_path / "out/p.parts/photo.tif").write_bytes(b"")
    result = segment_mosaic(photo, target, small, crf=False, layout=LAYOUT)
    expected = small.segment(picture(), crf=False).labels
    assert np.array_equal(tifffile.imread(result.labels), expected)


@pytest.mark.parametrize("moment", ["with_legend", "shutil.rmtree"])
def test_a_run_interrupted_near_the_end_resumes(large_tiff, small, plain, tmp_path, monkeypatch, moment):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"deeplab.large_images.segment.{moment}", stop)
        with pytest.raises(KeyboardInterrupt):
            segment_mosaic(large_tiff, tmp_path / "out", small, crf=False, layout=LAYOUT)
    monkeypatch.setattr(scores.ScoreGrid, "compute", stop)  # the network does not run again
    result = segment_mosaic(large_tiff, tmp_path / "out", small, crf=False, layout=LAYOUT)
    assert np.array_equal(tifffile.imread(result.labels), plain.labels)
    assert not (tmp_path / "out.parts").exists()


def test_parts_of_other_settings_are_refused(large_tiff, small, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(scores.ScoreGrid, "compute", stop)
    with pytest.raises(KeyboardInterrupt):
        segment_mosaic(large_tiff, tmp_path / "out", small, crf=False, layout=LAYOUT)
    with pytest.raises(
        ValueError, match=r"out\.parts: was made with crf = None, but crf is now {.*; remove the folder"
    ):
        segment_mosaic(large_tiff, tmp_path / "out", small, crf=NARROW, layout=LAYOUT, threads=1)
    tifffile.imwrite(large_tiff, picture()[:-8], **TILED)
    with pytest.raises(ValueError, match=r"out\.parts: was made with photo ="):
        segment_mosaic(large_tiff, tmp_path / "out", small, crf=False, layout=LAYOUT)
    assert (tmp_path / "out.parts" / "job.json").is_file()


@pytest.mark.parametrize("kind", ["strips", "16 bits", "png"])
def test_all_kinds_of_files_give_the_same_labels(small, plain, tmp_path, kind):
    path = tmp_path / ("p.png" if kind == "png" else "p.tif")
    if kind == "png":
        Image.fromarray(picture()).save(path)
    elif kind == "strips":
        tifffile.imwrite(path, picture(), photometric="rgb", compression="lzw", rowsperstrip=11)
    else:
        tifffile.imwrite(path, picture().astype(np.uint16) * 257, **TILED)
    result = segment_mosaic(path, tmp_path / "out", small, crf=False, layout=LAYOUT)
    assert np.array_equal(tifffile.imread(result.labels), plain.labels)
    assert names(tmp_path) == ["out.tif", "out_overlay.png", path.name]


def test_labels_are_void_where_there_is_no_data(small, tmp_path, monkeypatch):
    alpha = np.full((H, W, 1), 255, np.uint8)
    alpha[:110, :120] = 0  # covers one window and one block, and parts of others
    tifffile.imwrite(
        tmp_path / "m.tif", np.concatenate([picture(), alpha], 2), extrasamples=["unassalpha"], **TILED
    )
    calls = []
    monkeypatch.setattr(
        small.predictor, "scores", lambda photo, real=small.predictor.scores: calls.append(0) or real(photo)
    )
    result = segment_mosaic(tmp_path / "m.tif", tmp_path / "out", small, crf=NARROW, layout=LAYOUT, threads=1)
    labels = tifffile.imread(result.labels)
    assert np.array_equal(labels == 255, alpha[:, :, 0] == 0)
    assert len(calls) == 5
    assert sum(result.shares().values()) == pytest.approx(1)
    assert result.counts[255] == 110 * 120


def test_an_image_without_any_data(small, tmp_path):
    tifffile.imwrite(
        tmp_path / "m.tif", np.zeros((H, W, 3), np.uint8), extratags=[(42113, 2, 0, "0", True)], **TILED
    )
    result = segment_mosaic(tmp_path / "m.tif", tmp_path / "out", small, layout=LAYOUT)
    assert (tifffile.imread(result.labels) == 255).all()
    assert result.shares() == {}


def test_a_damaged_image_leaves_no_files(large_tiff, small, tmp_path):
    content = bytearray(large_tiff.read_bytes())
    with tifffile.TiffFile(large_tiff) as file:
        offset, length = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]
    content[offset : offset + length] = bytes(length)
    large_tiff.write_bytes(content)
    with pytest.raises(PhotoError, match=r"m\.tif: damaged"):
        segment_mosaic(large_tiff, tmp_path / "out", small, crf=False, layout=Layout(96, 80, 0))
    for name, message in {"text.tif": "not an image", "none.tif": "no such file"}.items():
        if name == "text.tif":
            (tmp_path / name).write_text("no picture")
        with pytest.raises(PhotoError, match=message):
            segment_mosaic(tmp_path / name, tmp_path / "out", small)
    assert names(tmp_path) == ["m.tif", "text.tif"]


def test_labels_never_replace_the_image(large_tiff, small):
    with pytest.raises(ValueError, match=r"m\.tif: the results would replace it"):
        segment_mosaic(large_tiff, large_tiff.with_suffix(""), small)


def test_memory_does_not_grow_with_the_image(small, tmp_path, monkeypatch):
    monkeypatch.setattr(segment, "OVERLAY_SIDE", 300)
    monkeypatch.setattr(Predictor, "margin", 64)
    monkeypatch.setattr(  # the network's own memory is not measured here
        small.predictor,
        "scores",
        lambda photo: (np.zeros((3, *(-(-n // 8) + 1 for n in photo.shape[:2])), "f4"), 8, 0),
    )
    side = 3000
    tifffile.imwrite(
        tmp_path / "m.tif", np.zeros((side, side, 3), np.uint8), tile=(256, 256), photometric="rgb"
    )
    tracemalloc.start()
    segment_mosaic(tmp_path / "m.tif", tmp_path / "out", small, crf=False, layout=Layout(512, 512, 0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < side**2 * 3 / 2  # half of the image; most of it are the windows of the overlay


def test_layouts_fit_into_the_memory(small):
    for limit in (1.5e9, 2e9, 8e9):
        layout = Layout.within(int(limit), small, Params())
        assert layout.margin == 104
        seen = layout.block + 2 * layout.margin
        assert 1200 * seen**2 <= limit - 600e6
        assert 560 * (layout.window + 2 * small.predictor.margin) ** 2 <= limit - 600e6
    with pytest.raises(MemoryError, match=r"got 0\.9 GB .* wanted 1\.0 GB or more"):
        Layout.within(900_000_000, small, Params(appearance_xy_std=80))
    for wrong in ((7, 80, 40), (104, 90, 40), (104, 80, -8), (0, 80, 0)):
        with pytest.raises(ValueError, match="wanted a multiple"):
            Layout(*wrong)


def test_which_photos_are_large(large_tiff, tmp_path, monkeypatch):
    four = np.concatenate([picture(), picture()[:, :, :1]], axis=2)  # a kind that Pillow cannot read
    tifffile.imwrite(tmp_path / "four.tif", four, photometric="minisblack", planarconfig="contig")
    Image.fromarray(picture()).save(tmp_path / "p.png")
    (tmp_path / "text.tif").write_text("no picture")
    files = [large_tiff, *(tmp_path / name for name in ("four.tif", "p.png", "text.tif", "none.tif"))]
    assert [is_large(file) for file in files] == [False, True, False, False, False]
    monkeypatch.setattr(segment, "LARGE_PIXELS", H * W)
    assert [is_large(file) for file in files] == [True, True, False, False, False]
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert not any(is_large(file) for file in files)


def test_the_thumbnail_is_made_of_means(large_tiff, small, tmp_path):
    with LargeTiff(large_tiff) as opened:
        thumbnail = BlockSegmenter(opened, small, None, LAYOUT, tmp_path).thumbnail(5)
    assert np.array_equal(thumbnail, np.asarray(Image.fromarray(picture()).reduce(5)))


@pytest.fixture
def command(small, monkeypatch, tmp_path):
    monkeypatch.setattr(deeplab.model.loading, "load", lambda **_: small)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(["segment", *map(str, arguments), "--out", "out", "--no-crf"])


def test_the_command_labels_large_and_small_images(command, large_tiff, plain, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(segment, "LARGE_PIXELS", H * W)
    Image.fromarray(picture(40, 60)).save(tmp_path / "p.png")
    (tmp_path / "four.tif").write_bytes(large_tiff.read_bytes()[:3000])
    assert command("m.tif", "p.png", "four.tif") == 1
    assert "four.tif: damaged" in capsys.readouterr().err
    assert names(tmp_path / "out") == [
        "classes.csv",
        "m.tif",
        "m_overlay.png",
        "manifest.jsonl",
        "p.png",
        "p_overlay.png",
    ]
    assert np.array_equal(tifffile.imread(tmp_path / "out" / "m.tif"), plain.labels)
    rows = (tmp_path / "out" / "classes.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == {"m.tif", "p.png"}
    monkeypatch.setattr(scores.ScoreGrid, "compute", lambda *_: pytest.fail("labelled again"))
    assert command("m.tif") == 0
    assert "1 of 1 photos already labelled" in capsys.readouterr().out


def test_the_command_segments_any_photo_in_blocks(command, plain, tmp_path, capsys):
    Image.fromarray(picture()).save(tmp_path / "p.png")
    assert command("p.png", "--blocks", "--tile", "100") == 0
    assert np.array_equal(tifffile.imread(tmp_path / "out" / "p.tif"), plain.labels)
    assert command("p.png", "--blocks", "--mirror", "--redo") == 1
    assert "p.png: in blocks the network sees an image once" in capsys.readouterr().err


def test_the_command_names_the_missing_extra(command, tmp_path, monkeypatch, capsys):
    Image.fromarray(picture(40, 60)).save(tmp_path / "p.tif")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert command("p.tif", "--blocks") == 1
    assert "pip install 'deeplab-crf[mosaic]'" in capsys.readouterr().err
