"""The page's tab for several photos, and the zip file that it offers."""

import asyncio
import csv
import io
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

gr = pytest.importorskip("gradio", reason="needs pip install 'deeplab-crf[app]'")
pytest.importorskip("httpx", reason="needs pip install 'deeplab-crf[app]'")

from deeplab.model.segmentation import Segmentation  # noqa: E402  (after the skips)
from deeplab.serving.batch_tab import BatchTab  # noqa: E402
from deeplab.serving.decode import shrink  # noqa: E402
from deeplab.serving.limits import Limits  # noqa: E402
from deeplab.serving.result_cache import Archive  # noqa: E402
from served_page import as_upload  # noqa: E402

NAMES = ("background", "cat", "<dog>")


@pytest.fixture
def batch_tab(services):
    return BatchTab(services)


def test_photos_of_a_folder(batch_tab, tmp_path):
    files = [tmp_path / name for name in ("2/b.JPG", "1/c.png", "1/notes.txt", "1/a.webp")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    photos = batch_tab.photos_in([as_upload(file) for file in files])
    assert photos == [str(tmp_path / name) for name in ("1/a.webp", "2/b.JPG", "1/c.png")]
    assert batch_tab.photos_in(None) == []


def test_several_photos(batch_tab, results, small, photo, tmp_path):
    for folder, name in (("a", "one.png"), ("b", "one.png"), ("a", "one_overlay.png"), ("a", "bad.png")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(photo[: 45 if folder == "a" else 30]).save(tmp_path / folder / name)
    (tmp_path / "a/bad.png").write_text("no photo")
    paths = [
        as_upload(tmp_path / name) for name in ("a/one.png", "a/bad.png", "b/one.png", "a/one_overlay.png")
    ]
    overlays, table, status, link = asyncio.run(batch_tab.label(paths, True))
    assert "3 of 4 photos labelled; bad.png: not a picture" in status
    assert [name for _, name in overlays] == ["one", "one-2", "one_overlay-2"]
    assert "background" in table
    content = results.get(re.search(r"results/([\w-]+)/labels.zip", link).group(1)).files["labels.zip"]()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == [
            "classes.csv",
            "one-2.png",
            "one-2_overlay.png",
            "one.png",
            "one_overlay-2.png",
            "one_overlay-2_overlay.png",
            "one_overlay.png",
        ]
        ids = np.asarray(Image.open(io.BytesIO(archive.read("one-2.png"))))
        assert np.array_equal(ids, small.segment(photo[:30]).labels)
        rows = list(csv.DictReader(io.StringIO(archive.read("classes.csv").decode())))
    for name in ("one", "one-2"):
        assert sum(float(row["share"]) for row in rows if row["photo"] == name) == pytest.approx(1, abs=1e-5)


def test_large_photos_of_a_batch_are_shrunk(services, small, results, photo, photo_file):
    batch_tab = BatchTab(replace(services, limits=Limits(seconds=30, pixels=1300)))
    _, _, status, link = asyncio.run(batch_tab.label([as_upload(photo_file)], True))
    assert "1 of 1 photos labelled; 1 shrunk to 0.0013 megapixels, as are their labels" in status
    files = results.get(re.search(r"results/([\w-]+)/labels.zip", link).group(1)).files["labels.zip"]()
    with zipfile.ZipFile(io.BytesIO(files)) as archive:
        ids = np.asarray(Image.open(io.BytesIO(archive.read("photo.png"))))
    assert np.array_equal(ids, small.segment(shrink(photo, 1300)).labels)


def test_too_few_and_too_many_photos(batch_tab, tmp_path):
    (tmp_path / "a.png").touch()
    for paths in ([], None, [as_upload(tmp_path / "a.png")] * 51):
        with pytest.raises(gr.Error, match=f"got {len(paths or [])} photos, wanted 1 to 50"):
            asyncio.run(batch_tab.label(paths, True))
    (tmp_path / "bad.png").write_text("no photo")
    overlays, table, status, link = asyncio.run(batch_tab.label([as_upload(tmp_path / "bad.png")], False))
    assert (overlays, table, link) == ([], "", "")
    assert "0 of 1 photos" in status


def test_names_in_an_archive_are_unique(photo):
    result = Segmentation(photo, np.ones((3, 45, 70), np.float32), NAMES)
    with Archive() as archive:
        assert [archive.add(name, result) for name in ("a", "a", "a", "a-2")] == ["a", "a-2", "a-3", "a-2-2"]
