"""The HTTP API: its answers, its errors, and its OpenAPI description."""

import asyncio
import base64
import io
import struct
import sys
import tempfile
import zlib

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs pip install 'deeplab-crf[app]'")
httpx = pytest.importorskip("httpx", reason="needs pip install 'deeplab-crf[app]'")

from deeplab.drawing import overlay  # noqa: E402
from deeplab.model.segmentation import Model  # noqa: E402
from deeplab.serving import http as http_module  # noqa: E402  (after the skip)
from deeplab.serving.decode import photo_from_bytes  # noqa: E402
from deeplab.serving.http import service  # noqa: E402
from deeplab.serving.limits import Limits  # noqa: E402
from deeplab.weights.store import Card  # noqa: E402
from served_api import ask, client_of, encoded, is_error  # noqa: E402
from stub_model import NAMES, StubModel  # noqa: E402


def segment(model, content, *, query=None, headers=None, **limits):
    """The answer to one photo."""
    headers = headers or {"content-type": "image/png"}
    request = {"content": content, "params": query or {}, "headers": headers}
    return ask(model, ("POST", "/v1/segment", request), **limits)


def ids_of(content):
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "P"
        return np.asarray(image)


def test_the_answer_has_the_result_of_the_model(narrow, photo):
    model = Model(narrow("deeplab-largefov"), Card("deeplab-largefov", NAMES), precision="fp32")
    for crf in (True, False):
        expected = model.segment(photo, crf=crf)
        answer = segment(model, encoded(photo), query={"crf": crf}).json()
        assert (answer["width"], answer["height"]) == (70, 45)
        assert np.array_equal(ids_of(base64.b64decode(answer["ids"])), expected.labels)
        assert {each["name"]: each["share"] for each in answer["classes"]} == pytest.approx(expected.shares())
        assert set(answer["seconds"]) == set(expected.seconds)


def test_shares_ids_and_colours_by_hand(tiny):
    answer = segment(StubModel(), tiny).json()
    assert answer["classes"] == [
        {"id": 0, "name": "background", "share": 0.5, "colour": [0, 0, 0]},
        {"id": 1, "name": "cat", "share": 0.5, "colour": [128, 0, 0]},
    ]
    expected = np.repeat([[0] * 5 + [1] * 5], 6, axis=0)
    assert np.array_equal(ids_of(base64.b64decode(answer["ids"])), expected)
    without = segment(StubModel(), tiny, query={"crf": "false"}).json()
    assert [each["name"] for each in without["classes"]] == ["background", "dog"]


@pytest.mark.parametrize("query", [{"output": "ids"}, {}])
def test_ids_as_png_by_option_or_by_accept(tiny, query):
    headers = {"content-type": "image/png", "accept": "application/json" if query else "image/png"}
    answer = segment(StubModel(), tiny, query=query, headers=headers)
    assert answer.headers["content-type"] == "image/png"
    assert ids_of(answer.content)[0].tolist() == [0] * 5 + [1] * 5


def test_overlay_as_png(tiny):
    photo = np.asarray(Image.open(io.BytesIO(tiny)))
    answer = segment(StubModel(), tiny, query={"output": "overlay"})
    shown = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert np.array_equal(shown, overlay(photo, np.repeat([[0] * 5 + [1] * 5], 6, axis=0).astype(np.uint8)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_multipart_and_raw_bodies_are_the_same(photo, kind):
    content = encoded(photo, kind)
    files = {"file": ("../../etc/passwd", content, "text/html")}  # both name and type are ignored
    raw, form = ask(
        StubModel(),
        (
            "POST",
            "/v1/segment",
            {"content": content, "headers": {"content-type": "application/octet-stream"}},
        ),
        ("POST", "/v1/segment", {"files": files}),
    )
    assert raw.status_code == form.status_code == 200
    assert raw.json() == form.json()


def test_photos_are_turned_upright():
    image, exif = Image.new("RGB", (30, 20)), Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    answer = segment(StubModel(), buffer.getvalue()).json()
    assert (answer["width"], answer["height"]) == (20, 30)


def test_too_many_bytes(tiny):
    for body in ({"content": tiny}, {"files": {"file": ("a.png", tiny)}}):
        answer = ask(StubModel(), ("POST", "/v1/segment", {"headers": {}, **body}), bytes=len(tiny) - 1)
        assert is_error(answer, 413, "too-many-bytes", f"at most {len(tiny) - 1}")


def test_too_many_bytes_that_were_not_announced(monkeypatch):
    read = []

    async def endless():
        while True:
            read.append(1)
            yield bytes(1000)

    async def talk():
        async with client_of(StubModel(), bytes=5500) as client:
            return await client.post("/v1/segment", content=endless())

    monkeypatch.setattr(http_module, "LINGER_BYTES", 4000)  # so much more is read and dropped
    assert is_error(asyncio.run(talk()), 413, "too-many-bytes", "5500")
    assert len(read) == 6 + 4


def test_too_many_pixels_are_not_decoded(tiny):
    assert is_error(segment(StubModel(), tiny, decoded_pixels=59), 413, "too-many-pixels", "10×6", "59")
    assert segment(StubModel(), tiny, decoded_pixels=60).status_code == 200


@pytest.mark.parametrize("side", [11_000, 40_000])  # Pillow warns of the first and refuses the second
def test_a_decompression_bomb(side):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    assert len(bomb) < 200
    assert is_error(segment(StubModel(), bomb), 413, "too-many-pixels", "60000000")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "no-photo"),
        (b"no photo", "no-photo"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no-photo"),
    ],
)
def test_files_that_are_no_photo(content, kind):
    assert is_error(segment(StubModel(), content), 422, kind)


def test_a_damaged_photo():
    noise = encoded(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    assert is_error(segment(StubModel(), noise[: len(noise) // 2]), 422, "damaged")


def test_bad_multipart_bodies(tiny):
    form = {"content-type": "multipart/form-data; boundary=x"}
    cases = [
        ({"content": b"junk", "headers": form}, 400, "bad-multipart"),
        ({"content": b"junk", "headers": {"content-type": "multipart/form-data"}}, 400, "bad-multipart"),
        ({"files": {"photo": ("a.png", tiny)}}, 422, "no-photo"),
        ({"files": {"file": (None, "text")}}, 422, "no-photo"),
        ({"files": [("file", ("a.png", tiny)), ("file", ("b.png", tiny))]}, 400, "bad-multipart"),
        ({"files": {"file": ("a.png", b"")}}, 422, "no-photo"),
    ]
    answers = ask(StubModel(), *(("POST", "/v1/segment", request) for request, _, _ in cases))
    for answer, (_, status, kind) in zip(answers, cases, strict=True):
        assert is_error(answer, status, kind)
    assert "wanted a part 'file'" in answers[2].json()["detail"]


def test_invalid_requests_are_answered_with_a_reason(tiny):
    post = {"content": tiny, "headers": {"content-type": "application/x-www-form-urlencoded"}}
    answers = ask(
        StubModel(),
        ("POST", "/v1/segment", post),
        ("POST", "/v1/segment", {"content": tiny, "params": {"output": "mask"}}),
        ("POST", "/v1/segment", {"content": tiny, "params": {"colour": "red"}}),
        ("GET", "/v1/segment", {}),
        ("GET", "/etc/passwd", {}),
        ("GET", "/docs", {}),  # would load scripts from elsewhere
    )
    assert is_error(answers[0], 415, "content-type", "urlencoded", "wanted multipart/form-data")
    assert is_error(answers[1], 422, "bad-option", "output", "'overlay'")
    assert is_error(answers[2], 422, "bad-option", "colour")
    assert is_error(answers[3], 405, "http")
    assert answers[3].headers["allow"] == "POST"
    assert is_error(answers[4], 404, "http")
    assert is_error(answers[5], 404, "http")


def test_out_of_memory(tiny):
    def run_out():
        raise MemoryError("the CRF of a photo of 10×6 needs more")

    answer = segment(StubModel(run_out), tiny)
    assert is_error(answer, 503, "memory", "10×6")
    assert int(answer.headers["retry-after"]) >= 1


def test_an_internal_error_does_not_show_its_message(tiny):
    def fail():
        raise KeyError("/home/somebody")

    answer = segment(StubModel(fail), tiny)
    assert is_error(answer, 500, "fault", "KeyError")
    assert "somebody" not in answer.text


def test_every_answer_forbids_other_hosts(tiny):
    answers = ask(
        StubModel(),
        ("GET", "/healthz", {}),
        ("POST", "/v1/segment", {"content": tiny}),
        ("GET", "/nothing", {}),
    )
    for answer in answers:
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_request_does_not_touch_the_file_system(narrow, monkeypatch):
    model = Model(narrow("deeplab-largefov"), Card("deeplab-largefov", NAMES), precision="fp32")
    large = encoded(np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8))  # 1.9 MB
    model.segment(np.zeros((9, 12, 3), np.uint8))

    def refuse(*_, **__):
        raise AssertionError("a request wrote a temporary file")

    for name in ("NamedTemporaryFile", "TemporaryFile", "mkstemp", "_mkstemp_inner"):
        monkeypatch.setattr(tempfile, name, refuse)
    opened = []
    watching = False

    def watch(name, arguments):
        if watching and name == "open":
            opened.append(arguments)

    sys.addaudithook(watch)

    async def talk():
        nonlocal watching
        async with client_of(model) as client:
            await client.post(
                "/v1/segment", files={"file": ("a.png", encoded(np.zeros((9, 12, 3), np.uint8)))}
            )
            watching = True
            answer = await client.post(
                "/v1/segment", files={"file": ("/etc/hostname", large)}, params={"crf": False}
            )
            watching = False
            return answer

    answer = asyncio.run(talk())
    assert answer.status_code == 200
    files = [str(path) for path, *_ in opened if not str(path).startswith(("/proc/", "/sys/"))]  # free memory
    assert files == []


def test_photos_from_bytes_are_upright_and_in_colour(photo):
    assert np.array_equal(photo_from_bytes(encoded(photo), Limits()), photo)
    assert photo_from_bytes(encoded(photo[:, :, 0]), Limits()).shape == (45, 70, 3)


def test_the_schema_describes_every_answer():
    schema = ask(StubModel(), ("GET", "/openapi.json", {})).json()
    post = schema["paths"]["/v1/segment"]["post"]
    assert set(post["responses"]) == {
        "200",
        "400",
        "403",
        "408",
        "413",
        "415",
        "421",
        "422",
        "500",
        "503",
        "504",
    }
    assert set(post["responses"]["200"]["content"]) == {"application/json", "image/png"}
    assert {"multipart/form-data", "image/jpeg", "image/png"} <= set(post["requestBody"]["content"])
    assert {each["name"] for each in post["parameters"]} == {"crf", "output", "size"}
    for status, response in post["responses"].items():
        if status != "200":
            assert response["content"]["application/json"]["schema"] == {
                "$ref": "#/components/schemas/Problem"
            }
    assert set(schema["paths"]) == {"/v1/segment", "/healthz"}


def test_the_schema_is_valid_for_generated_requests(tiny):
    schemathesis = pytest.importorskip("schemathesis", reason="needs pip install 'deeplab-crf[test]'")
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    pictures = st.sampled_from(
        [tiny, tiny[:-30], encoded(np.zeros((7, 3, 3), np.uint8), "JPEG")]
    ) | st.binary(max_size=99)
    for kind in ("image/png", "image/jpeg", "image/webp", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, pictures)
    schema = schemathesis.openapi.from_asgi(
        "/openapi.json", service(StubModel(), Limits(), names=["testserver"])
    )
    seen = set()
    for item in schema.get_all_operations():
        operation = item.ok()
        modes = schemathesis.GenerationMode
        cases = st.one_of(
            *(operation.as_strategy(generation_mode=mode) for mode in (modes.POSITIVE, modes.NEGATIVE))
        )

        @given(case=cases)
        @settings(
            max_examples=60,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def conforms(case):
            # a schema cannot describe what a picture is, so bytes that fit it may be refused
            answer = case.call_and_validate(excluded_checks=[schemathesis.checks.positive_data_acceptance])
            seen.add((case.operation.path, answer.status_code))

        conforms()
    assert {("/healthz", 200), ("/v1/segment", 200), ("/v1/segment", 422)} <= seen
