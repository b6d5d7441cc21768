"""The page's folder of uploads: what is stored, what is deleted, and the requests that upload files."""

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
from deeplab.serving.upload_store import MIN_AGE_SECONDS, UploadStore, safe_name
from deeplab.weights.store import Card
from served_page import ServedPage

LIMITS = Limits(bytes=1000, stored_bytes=3000, stored_files=5, stored_seconds=1800, seconds=5)


@pytest.fixture
def store(tmp_path):
    example = tmp_path / "example" / "cat.jpg"
    example.parent.mkdir()
    example.write_bytes(bytes(9000))
    return UploadStore(tmp_path, LIMITS)


def put(store, name, size, age=0.0):
    """Store a file of a size that was uploaded so many seconds ago."""
    with store.reserve(size) as reservation:
        path = reservation.add(name)
        path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def names(store):
    return sorted(path.name for path in store.folder.rglob("*") if path.is_file())


def test_old_files_are_deleted_with_their_folders(store):
    old, young = put(store, "old.png", 10, age=1801), put(store, "young.png", 10, age=1700)
    store.sweep()
    assert names(store) == ["cat.jpg", "young.png"]
    assert not old.parent.exists()
    assert store.read(str(young)) == bytes(10)


def test_the_examples_are_permanent_and_not_counted(store, tmp_path):
    os.utime(tmp_path / "example/cat.jpg", (0, 0))
    with store.reserve(3000):
        pass
    store.sweep()
    assert names(store) == ["cat.jpg"]


def test_the_oldest_are_deleted_by_size_and_by_number(store):
    for number in range(4):
        put(store, f"{number}.png", 700, age=1000 - number)
    with store.reserve(1200):
        assert names(store) == ["2.png", "3.png", "cat.jpg"]
    for number in range(4, 7):
        put(store, f"{number}.png", 1)
    assert names(store) == ["2.png", "3.png", "4.png", "5.png", "6.png", "cat.jpg"]
    put(store, "7.png", 1)
    assert "2.png" not in names(store)


def test_young_and_protected_files_are_not_deleted(store):
    put(store, "new.png", 2500, age=MIN_AGE_SECONDS - 60)
    with (
        pytest.raises(HTTPError, match="1 photos of 2500 bytes are stored already") as caught,
        store.reserve(600),
    ):
        pass
    assert (caught.value.status, caught.value.kind) == (503, "full")
    assert caught.value.retry_after
    old = put(store, "held.png", 400, age=5000)
    with store.protect([old]), pytest.raises(HTTPError), store.reserve(400):
        pass
    assert "held.png" in names(store)
    with store.reserve(400):
        assert "held.png" not in names(store)


def test_unfinished_uploads_are_counted(store):
    with store.reserve(2000), pytest.raises(HTTPError, match="stored already"), store.reserve(1500):
        pass
    with pytest.raises(HTTPError, match="got 3001 bytes, wanted at most 3000"), store.reserve(3001):
        pass
    with store.reserve(3000):
        pass


def test_no_uploads_when_the_disk_is_nearly_full(store, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000_500))
    with store.reserve(400):
        pass
    with pytest.raises(HTTPError) as caught, store.reserve(600):
        pass
    assert caught.value.status == 507


def test_a_file_that_is_too_large_is_not_read(store):
    path = put(store, "grown.png", 1001)
    with pytest.raises(HTTPError) as caught:
        store.read(str(path))
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("name", "expected"),
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
def test_file_names_are_made_safe(name, expected):
    assert safe_name(name) == expected


@pytest.fixture
def served(narrow, tmp_path, monkeypatch):
    model = Model(narrow("deeplab-largefov"), Card("deeplab-largefov", ("background", "cat", "dog")))
    return ServedPage(model, LIMITS, tmp_path / "uploads", monkeypatch)


def files_of(served):
    permanent = served.uploads.permanent
    return [path for path in served.uploads.folder.rglob("*") if path.is_file() and path not in permanent]


def upload(*files, **more):
    return ("POST", "/page/gradio_api/upload", {"files": [("files", file) for file in files], **more})


def test_uploads_are_limited_in_size_and_number(served):
    one, large, much = served.ask(
        upload(("a.png", b"abc"), ("b.png", b"")),
        upload(("c.png", bytes(1001))),
        upload(*((f"{number}.png", bytes(900)) for number in range(4))),
    )
    assert [Path(path).read_bytes() for path in one.json()] == [b"abc", b""]
    assert (large.status_code, large.text) == (413, "got a file of more than 1000 bytes")
    assert much.status_code == 413
    assert re.fullmatch(r"got 4\d+ bytes, wanted at most 3000 in one upload", much.text)
    assert len(files_of(served)) == 2  # nothing is left of those that were refused half way
    (many,) = served.ask(upload(*((f"{number}.png", b"") for number in range(4))))
    assert many.status_code == 503
    assert many.text.startswith("5 photos of 3 bytes are stored already")
    assert len(files_of(served)) == 2


def test_an_upload_is_not_counted_twice_while_it_is_written(served):
    (answer,) = served.ask(upload(*((f"{number}.png", bytes(600)) for number in range(4))))
    assert answer.status_code == 200  # 2400 of 3000 bytes
    assert len(files_of(served)) == 4


def test_the_files_of_one_upload_are_limited(served, monkeypatch):
    monkeypatch.setattr(page_upload, "MAX_UPLOAD_FILES", 2)
    (answer,) = served.ask(upload(*((f"{number}.png", b"") for number in range(3))))
    assert (answer.status_code, answer.text) == (413, "got more than 2 files in one upload, wanted no more")
    assert files_of(served) == []


def test_simultaneous_uploads_are_limited(served, monkeypatch):
    monkeypatch.setattr(route_filter, "MAX_UPLOADS", 0)
    (answer,) = served.ask(upload(("a.png", b"")))
    assert answer.status_code == 503


def test_malformed_uploads_are_refused(served, monkeypatch):
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
    answers = served.ask(*(("POST", url, request) for request, _ in cases))
    assert [answer.status_code for answer in answers] == [status for _, status in cases]
    assert files_of(served) == []
    (field,) = served.ask(("POST", url, {"files": {"note": (None, "text")}}))
    assert (field.status_code, field.json()) == (200, [])


def test_an_upload_that_pauses_is_refused(served, monkeypatch):
    monkeypatch.setattr(page_upload, "PAUSE_SECONDS", 0.05)

    async def slow():
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc'
        await asyncio.sleep(20)
        yield b"\r\n--x--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x", "content-length": "500"}
    (answer,) = served.ask(("POST", "/page/gradio_api/upload", {"content": slow(), "headers": headers}))
    assert (answer.status_code, answer.text) == (408, "the body came too slowly")
    assert files_of(served) == []
