"""The page's folder of uploads: how much of them is kept, and how they come there."""

import asyncio
import os
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="needs pip install 'deeplab-crf[app]'")
pytest.importorskip("httpx", reason="needs pip install 'deeplab-crf[app]'")

from deeplab.model.segmentation import Model
from deeplab.serving import page_upload, route_filter
from deeplab.serving.limits import HTTPError, Limits
from deeplab.serving.upload_store import SPARED_SECONDS, UploadStore, safe_name
from deeplab.weights.store import Card
from served_page import ServedPage

LIMITS = Limits(bytes=1000, stored_bytes=3000, stored_files=5, stored_seconds=1800, seconds=5)


@pytest.fixture
def stored(tmp_path):
    example = tmp_path / "example" / "cat.jpg"
    example.parent.mkdir()
    example.write_bytes(bytes(9000))
    return UploadStore(tmp_path, LIMITS)


def put(stored, name, size, age=0.0):
    """A file of a size that was uploaded so many seconds ago."""
    with stored.room(size) as room:
        path = room.add(name)
        path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def names(stored):
    return sorted(path.name for path in stored.folder.rglob("*") if path.is_file())


def test_old_files_go_and_their_folders_with_them(stored):
    old, young = put(stored, "old.png", 10, age=1801), put(stored, "young.png", 10, age=1700)
    stored.sweep()
    assert names(stored) == ["cat.jpg", "young.png"]
    assert not old.parent.exists()
    assert stored.read(str(young)) == bytes(10)


def test_the_examples_stay_and_do_not_count(stored, tmp_path):
    os.utime(tmp_path / "example/cat.jpg", (0, 0))
    with stored.room(3000):
        pass
    stored.sweep()
    assert names(stored) == ["cat.jpg"]


def test_the_oldest_make_room_by_bytes_and_by_number(stored):
    for number in range(4):
        put(stored, f"{number}.png", 700, age=1000 - number)
    with stored.room(1200):
        assert names(stored) == ["2.png", "3.png", "cat.jpg"]
    for number in range(4, 7):
        put(stored, f"{number}.png", 1)
    assert names(stored) == ["2.png", "3.png", "4.png", "5.png", "6.png", "cat.jpg"]
    put(stored, "7.png", 1)
    assert "2.png" not in names(stored)


def test_files_that_may_still_be_worked_on_make_no_room(stored):
    put(stored, "new.png", 2500, age=SPARED_SECONDS - 60)
    with (
        pytest.raises(HTTPError, match="1 photos of 2500 bytes are stored already") as caught,
        stored.room(600),
    ):
        pass
    assert (caught.value.status, caught.value.kind) == (503, "full")
    assert caught.value.retry_after
    old = put(stored, "held.png", 400, age=5000)
    with stored.held([old]), pytest.raises(HTTPError), stored.room(400):
        pass
    assert "held.png" in names(stored)
    with stored.room(400):
        assert "held.png" not in names(stored)


def test_uploads_that_are_under_way_count(stored):
    with stored.room(2000), pytest.raises(HTTPError, match="stored already"), stored.room(1500):
        pass
    with pytest.raises(HTTPError, match="got 3001 bytes, wanted at most 3000"), stored.room(3001):
        pass
    with stored.room(3000):
        pass


def test_a_disk_that_is_nearly_full_takes_no_uploads(stored, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000_500))
    with stored.room(400):
        pass
    with pytest.raises(HTTPError) as caught, stored.room(600):
        pass
    assert caught.value.status == 507


def test_a_file_that_has_grown_is_not_read_whole(stored):
    path = put(stored, "grown.png", 1001)
    with pytest.raises(HTTPError) as caught:
        stored.read(str(path))
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("cat.jpg", "cat.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\cat.png", "cat.png"),
        ("", "photo"),
        ("..", "photo"),
        (".hidden", "hidden"),
        ("Käse ß 1.JPG", "Käse ß 1.JPG"),
        ("a\0b\n.png", "a_b_.png"),
        ("x" * 300 + ".jpeg", "x" * 50 + ".jpeg"),
        ("名" * 99 + ".png", "名" * 50 + ".png"),
        ("<b>&'\".png", "_b____.png"),
        ("a/", "photo"),
    ],
)
def test_names_do_no_harm(given, wanted):
    assert safe_name(given) == wanted


@pytest.fixture
def served(narrow, tmp_path, monkeypatch):
    model = Model(narrow("deeplab-largefov"), Card("deeplab-largefov", ("background", "cat", "dog")))
    return ServedPage(model, LIMITS, tmp_path / "uploads", monkeypatch)


def files_of(served):
    kept = served.stored._kept
    return [path for path in served.stored.folder.rglob("*") if path.is_file() and path not in kept]


def upload(*files, **more):
    return ("POST", "/page/gradio_api/upload", {"files": [("files", file) for file in files], **more})


def test_uploads_are_bounded_in_bytes_and_number(served):
    one, large, much = served.ask(
        upload(("a.png", b"abc"), ("b.png", b"")),
        upload(("c.png", bytes(1001))),
        upload(*((f"{number}.png", bytes(900)) for number in range(4))),
    )
    assert [Path(path).read_bytes() for path in one.json()] == [b"abc", b""]
    assert (large.status_code, large.text) == (413, "got a file of more than 1000 bytes")
    assert much.status_code == 413
    assert re.fullmatch(r"got 4\d+ bytes, wanted at most 3000 in one upload", much.text)
    assert len(files_of(served)) == 2  # of what was refused half way, nothing is left
    (many,) = served.ask(upload(*((f"{number}.png", b"") for number in range(4))))
    assert many.status_code == 503
    assert many.text.startswith("5 photos of 3 bytes are stored already")
    assert len(files_of(served)) == 2


def test_an_upload_is_not_counted_twice_while_it_is_written(served):
    (answer,) = served.ask(upload(*((f"{number}.png", bytes(600)) for number in range(4))))
    assert answer.status_code == 200  # 2400 of 3000 bytes
    assert len(files_of(served)) == 4


def test_files_of_one_upload_are_counted(served, monkeypatch):
    monkeypatch.setattr(page_upload, "UPLOAD_FILES", 2)
    (answer,) = served.ask(upload(*((f"{number}.png", b"") for number in range(3))))
    assert (answer.status_code, answer.text) == (413, "got more than 2 files in one upload, wanted no more")
    assert files_of(served) == []


def test_uploads_at_a_time_are_bounded(served, monkeypatch):
    monkeypatch.setattr(route_filter, "UPLOADS", 0)
    (answer,) = served.ask(upload(("a.png", b"")))
    assert answer.status_code == 503


def test_bodies_that_are_no_upload(served, monkeypatch):
    monkeypatch.setattr(page_upload, "HEADER_BYTES", 200)
    form, url = {"content-type": "multipart/form-data; boundary=x"}, "/page/gradio_api/upload"
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n'
    cases = [
        ({"content": b"junk", "headers": form}, 400),
        ({"content": b"", "headers": form}, 400),
        ({"content": head + b"\r\nabc", "headers": form}, 400),  # cut off
        ({"content": head + b"X: " + b"y" * 300 + b"\r\n\r\nabc\r\n--x--\r\n", "headers": form}, 400),
        ({"content": b"abc", "headers": {"content-type": "multipart/form-data"}}, 415),
        ({"content": b"abc", "headers": {"content-type": "image/png"}}, 415),
        ({"content": b"abc"}, 415),
    ]

    async def unannounced():
        yield head + b"\r\nabc\r\n--x--\r\n"

    cases.append(({"content": unannounced(), "headers": form}, 411))
    answers = served.ask(*(("POST", url, how) for how, _ in cases))
    assert [answer.status_code for answer in answers] == [status for _, status in cases]
    assert files_of(served) == []
    (field,) = served.ask(("POST", url, {"files": {"note": (None, "text")}}))
    assert (field.status_code, field.json()) == (200, [])


def test_an_upload_that_stops_coming_is_given_up(served, monkeypatch):
    monkeypatch.setattr(page_upload, "QUIET_SECONDS", 0.05)

    async def slow():
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc'
        await asyncio.sleep(20)
        yield b"\r\n--x--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x", "content-length": "500"}
    (answer,) = served.ask(("POST", "/page/gradio_api/upload", {"content": slow(), "headers": headers}))
    assert (answer.status_code, answer.text) == (408, "the body came too slowly")
    assert files_of(served) == []
