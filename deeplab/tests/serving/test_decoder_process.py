"""Untrusted pictures: how many scans they may have, and decoder processes that can be killed."""

import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab.jpeg_scans import scans_of
from deeplab.photos import MAX_SCANS, PhotoError, read_photo
from deeplab.serving import decoder_process as decoder_module
from deeplab.serving.decoder_process import DecoderPool
from deeplab.serving.limits import HTTPError, Limits


def encoded(photo, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, kind, **options)
    return buffer.getvalue()


def segments(content):
    """A progressive JPEG in two parts: what is before the first scan, and all scans with their tables."""
    parts, position = [], 2
    while content[position : position + 2] != b"\xff\xd9":
        size = int.from_bytes(content[position + 2 : position + 4], "big") + 2
        end = position + size
        if content[position + 1] == 0xDA:
            while content[end] != 0xFF or content[end + 1] == 0 or 0xD0 <= content[end + 1] <= 0xD7:
                end += 1
        parts.append((content[position + 1], content[position:end]))
        position = end
    first = next(number for number, (kind, _) in enumerate(parts) if kind in (0xC4, 0xDA))
    head = b"".join(part for _, part in parts[:first])
    return content[:2] + head, b"".join(part for _, part in parts[first:])


def repeated(photo, times):
    """A progressive JPEG whose scans are repeated."""
    head, scans = segments(encoded(photo, "JPEG", progressive=True, quality=20))
    return head + scans * times + b"\xff\xd9"


@pytest.fixture
def flat():
    """(37, 61, 3) uint8, of few bytes as a JPEG."""
    return np.full((37, 61, 3), (200, 90, 30), np.uint8)


@pytest.fixture(scope="module")
def decoder():
    with DecoderPool() as started:
        yield started


@pytest.mark.parametrize(
    ("options", "expected"), [({}, 1), ({"progressive": True}, 10), ({"restart_marker_rows": 1}, 1)]
)
def test_scans_are_counted(photo, options, expected):
    noise = np.random.default_rng(0).integers(
        0, 256, (211, 307, 3), np.uint8
    )  # many bytes FF in its coded data
    for picture in (photo, noise):
        file = io.BytesIO(encoded(picture, "JPEG", quality=95, **options))
        file.seek(5)
        assert scans_of(file, 100) == expected
        assert file.tell() == 5
    assert scans_of(io.BytesIO(encoded(photo, "JPEG", progressive=True)), 3) == 4


def test_scans_of_a_preview_are_not_counted(photo):
    preview, exif = encoded(photo, "JPEG", progressive=True), Image.Exif()
    exif[0x010E] = preview.decode("latin-1")
    content = encoded(photo, "JPEG", exif=exif)
    assert content.count(b"\xff\xda") > 1 or len(content) > len(preview)
    assert scans_of(io.BytesIO(content), 100) == 1


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xda", b"\xff" * 50, bytes(99)]
)
def test_other_files_than_jpeg_have_few_scans(content):
    assert scans_of(io.BytesIO(content), 100) <= 1


def test_a_small_file_of_many_scans_is_refused_before_it_is_decoded(flat, tmp_path, decoder):
    content = repeated(flat, 2000)
    assert scans_of(io.BytesIO(content), 50_000) == 20_000
    with pytest.raises(HTTPError, match=f"more than {MAX_SCANS} scans") as caught:
        decoder.photo(content, Limits())
    assert caught.value.status == 422
    path = tmp_path / "scans.jpg"
    path.write_bytes(content)
    with pytest.raises(PhotoError, match=f"scans.jpg: .* more than {MAX_SCANS} scans"):
        read_photo(path)
    path.write_bytes(repeated(flat, 9))  # unusual, but not too many
    assert np.abs(read_photo(path).astype(int) - flat).max() < 12


def test_photos_come_as_they_are_and_shrunk(photo, decoder):
    decoded, size = decoder.photo(encoded(photo), Limits())
    assert np.array_equal(decoded, photo)
    assert size == (45, 70)
    assert decoded.flags.writeable
    small, size = decoder.photo(encoded(photo), Limits(), 1000)
    assert small.shape == (25, 39, 3)
    assert size == (45, 70)
    assert abs(float(small.mean()) - float(photo.mean())) < 3


@pytest.mark.parametrize(
    ("content", "limits", "status", "words"),
    [
        (b"", Limits(), 422, "not a picture"),
        (b"text", Limits(), 422, "not a picture"),
        (encoded(np.zeros((45, 70, 3), np.uint8))[:60], Limits(), 422, "damaged"),
        (
            encoded(np.zeros((45, 70, 3), np.uint8)),
            Limits(decoded_pixels=3149),
            413,
            "70×45 pixels, wanted at most 3149",
        ),
    ],
)
def test_errors_are_passed_on(decoder, content, limits, status, words):
    with pytest.raises(HTTPError, match=words) as caught:
        decoder.photo(content, limits)
    assert caught.value.status == status
    assert decoder.photo(encoded(np.ones((2, 3, 3), np.uint8)), Limits())[0].shape == (2, 3, 3)


PROGRAM = """
import os, sys, time
source, sink = os.fdopen(0, "rb"), os.fdopen(1, "wb")
from deeplab.serving.decode import REQUEST
sink.write(b"!"); sink.flush()
size, *_ = REQUEST.unpack(source.read(REQUEST.size))
content = source.read(size)
if content == b"hang": time.sleep(100)
if content == b"crash": os.abort()
sink.write(b"R" + (418).to_bytes(4, "big") + (5).to_bytes(4, "big") + b"a\\nbcd"); sink.flush()
time.sleep(100)
"""


@pytest.fixture
def fake_pool(monkeypatch):
    """A pool whose processes hang, crash or answer, as the picture says."""
    monkeypatch.setattr(decoder_module, "PROGRAM", "import sys; sys.path[:] = sys.argv[1:]\n" + PROGRAM)
    with DecoderPool(seconds=3) as started:
        yield started


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"hang", "slow-decode", "not decoded within 3 seconds"),
        (b"crash", "damaged", "crashes its decoder"),
    ],
)
def test_a_decoder_that_hangs_or_crashes_is_replaced(fake_pool, content, kind, words):
    (first,) = fake_pool.processes
    with pytest.raises(HTTPError, match=words) as caught:
        fake_pool.photo(content, Limits())
    assert (caught.value.status, caught.value.kind) == (422, kind)
    assert first.poll() is not None
    with pytest.raises(HTTPError, match="bcd") as caught:
        fake_pool.photo(b"fine", Limits())
    assert (caught.value.status, caught.value.kind) == (418, "a")


def test_a_decoder_that_was_killed_is_replaced(photo):
    with DecoderPool() as pool:
        pool.photo(encoded(photo), Limits())
        (process,) = pool.processes
        process.kill()
        process.wait()
        assert np.array_equal(pool.photo(encoded(photo), Limits())[0], photo)


def test_a_decoder_ends_after_a_large_picture(photo, monkeypatch):
    monkeypatch.setattr(decoder_module, "LARGE_PIXELS", 45 * 70 - 1)
    with DecoderPool() as pool:
        (process,) = pool.processes
        assert np.array_equal(pool.photo(encoded(photo), Limits())[0], photo)
        assert process.poll() is not None
        assert not pool.processes


def test_each_thread_has_its_own_decoder(photo):
    equal = []
    with DecoderPool() as pool:
        pictures = [np.roll(photo, shift, axis=0) for shift in range(6)]

        def work(picture):
            equal.append(np.array_equal(pool.photo(encoded(picture), Limits())[0], picture))

        threads = [threading.Thread(target=work, args=(picture,)) for picture in pictures]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        processes = pool.processes
    assert equal == [True] * 6
    assert all(process.poll() is not None for process in processes)  # none outlives the block


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_decoder_cannot_write_files(decoder, photo):
    decoder.photo(encoded(photo), Limits())
    process = next(iter(decoder.processes))
    try:
        limits = Path(f"/proc/{process.pid}/limits").read_text()
    except OSError:
        pytest.skip("needs /proc")
    line = next(line for line in limits.splitlines() if line.startswith("Max file size"))
    assert line.split()[3:5] == ["0", "0"]
