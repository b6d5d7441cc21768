import asyncio
import base64
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs pip install 'deeplab-crf[app]'")
httpx = pytest.importorskip("httpx", reason="needs pip install 'deeplab-crf[app]'")

from deeplab.drawing import overlay  # noqa: E402
from deeplab.model.segmentation import Model, Segmentation  # noqa: E402
from deeplab.serving import http as service_module  # noqa: E402  (after the skip)
from deeplab.serving.decode import photo_from_bytes  # noqa: E402
from deeplab.serving.http import service  # noqa: E402
from deeplab.serving.limits import HTTPError, Limits  # noqa: E402
from deeplab.serving.queue import WorkQueue  # noqa: E402
from deeplab.weights.store import Card  # noqa: E402

NAMES = ("background", "cat", "dog")


class Stub:
    """Labels the left half 0 and the right half 1, as slowly as asked; counts how many run at a time."""

    class_names = NAMES
    card = SimpleNamespace(variant="stub")

    def __init__(self, wait=lambda: None):
        self.wait, self.lock = wait, threading.Lock()
        self.now = self.most = self.done = 0

    def segment(self, photo, *, crf=True, size=None):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            self.wait()
        finally:
            with self.lock:
                self.now -= 1
                self.done += 1
        probabilities = np.zeros((3, *photo.shape[:2]), np.float32)
        middle = photo.shape[1] // 2
        probabilities[0, :, :middle] = probabilities[1 if crf else 2, :, middle:] = 1
        return Segmentation(photo, probabilities, NAMES, {"network": 0.5})


@asynccontextmanager
async def client_of(model, **limits):
    door = service(model, Limits(**limits))
    transport = httpx.ASGITransport(door, raise_app_exceptions=False)
    async with (
        door.router.lifespan_context(door),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        yield client


def ask(model, *requests, **limits):
    """The answers to requests, one after another."""

    async def talk():
        async with client_of(model, **limits) as client:
            return [await client.request(*request[:2], **request[2]) for request in requests]

    answers = asyncio.run(talk())
    return answers[0] if len(requests) == 1 else answers


def segment(model, content, *, query=None, headers=None, **limits):
    how = {"content": content, "params": query or {}, "headers": headers or {"content-type": "image/png"}}
    return ask(model, ("POST", "/v1/segment", how), **limits)


def encoded(photo, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, kind, **options)
    return buffer.getvalue()


def ids_of(content):
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "P"
        return np.asarray(image)


@pytest.fixture
def tiny():
    """A photo of 6×10 pixels as a PNG."""
    return encoded(np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8))


def problem(answer, status, kind, *words):
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "detail"}
    assert body["error"] == kind
    for word in words:
        assert word in body["detail"]
    assert "\n" not in body["detail"]
    return True


def test_the_answer_is_what_the_model_says(narrow, photo):
    model = Model(narrow("deeplab-largefov"), Card("deeplab-largefov", NAMES), precision="fp32")
    for crf in (True, False):
        wanted = model.segment(photo, crf=crf)
        answer = segment(model, encoded(photo), query={"crf": crf}).json()
        assert (answer["width"], answer["height"]) == (70, 45)
        assert np.array_equal(ids_of(base64.b64decode(answer["ids"])), wanted.labels)
        assert {each["name"]: each["share"] for each in answer["classes"]} == pytest.approx(wanted.shares())
        assert set(answer["seconds"]) == set(wanted.seconds)


def test_shares_ids_and_colours_by_hand(tiny):
    answer = segment(Stub(), tiny).json()
    assert answer["classes"] == [
        {"id": 0, "name": "background", "share": 0.5, "colour": [0, 0, 0]},
        {"id": 1, "name": "cat", "share": 0.5, "colour": [128, 0, 0]},
    ]
    wanted = np.repeat([[0] * 5 + [1] * 5], 6, axis=0)
    assert np.array_equal(ids_of(base64.b64decode(answer["ids"])), wanted)
    without = segment(Stub(), tiny, query={"crf": "false"}).json()
    assert [each["name"] for each in without["classes"]] == ["background", "dog"]


@pytest.mark.parametrize("query", [{"output": "ids"}, {}])
def test_ids_as_png_by_option_or_by_accept(tiny, query):
    headers = {"content-type": "image/png", "accept": "application/json" if query else "image/png"}
    answer = segment(Stub(), tiny, query=query, headers=headers)
    assert answer.headers["content-type"] == "image/png"
    assert ids_of(answer.content)[0].tolist() == [0] * 5 + [1] * 5


def test_overlay_as_png(tiny):
    photo = np.asarray(Image.open(io.BytesIO(tiny)))
    answer = segment(Stub(), tiny, query={"output": "overlay"})
    shown = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert np.array_equal(shown, overlay(photo, np.repeat([[0] * 5 + [1] * 5], 6, axis=0).astype(np.uint8)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_multipart_and_raw_bodies_are_the_same(photo, kind):
    content = encoded(photo, kind)
    files = {"file": ("../../etc/passwd", content, "text/html")}  # neither name nor type is believed
    raw, form = ask(
        Stub(),
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
    answer = segment(Stub(), buffer.getvalue()).json()
    assert (answer["width"], answer["height"]) == (20, 30)


def test_too_many_bytes(tiny):
    for how in ({"content": tiny}, {"files": {"file": ("a.png", tiny)}}):
        answer = ask(Stub(), ("POST", "/v1/segment", {"headers": {}, **how}), bytes=len(tiny) - 1)
        assert problem(answer, 413, "too-many-bytes", f"at most {len(tiny) - 1}")


def test_too_many_bytes_that_were_not_announced(monkeypatch):
    read = []

    async def endless():
        while True:
            read.append(1)
            yield bytes(1000)

    async def talk():
        async with client_of(Stub(), bytes=5500) as client:
            return await client.post("/v1/segment", content=endless())

    monkeypatch.setattr(service_module, "LINGER_BYTES", 4000)  # more is thrown away, but not for ever
    assert problem(asyncio.run(talk()), 413, "too-many-bytes", "5500")
    assert len(read) == 6 + 4


def test_too_many_pixels_are_not_decoded(tiny):
    assert problem(segment(Stub(), tiny, decoded_pixels=59), 413, "too-many-pixels", "10×6", "59")
    assert segment(Stub(), tiny, decoded_pixels=60).status_code == 200


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
    assert problem(segment(Stub(), bomb), 413, "too-many-pixels", "60000000")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "no-photo"),
        (b"no photo", "no-photo"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no-photo"),
    ],
)
def test_what_is_no_photo(content, kind):
    assert problem(segment(Stub(), content), 422, kind)


def test_a_damaged_photo():
    noise = encoded(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    assert problem(segment(Stub(), noise[: len(noise) // 2]), 422, "damaged")


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
    answers = ask(Stub(), *(("POST", "/v1/segment", how) for how, _, _ in cases))
    for answer, (_, status, kind) in zip(answers, cases, strict=True):
        assert problem(answer, status, kind)
    assert "wanted a part 'file'" in answers[2].json()["detail"]


def test_other_requests_get_a_reason(tiny):
    post = {"content": tiny, "headers": {"content-type": "application/x-www-form-urlencoded"}}
    answers = ask(
        Stub(),
        ("POST", "/v1/segment", post),
        ("POST", "/v1/segment", {"content": tiny, "params": {"output": "mask"}}),
        ("POST", "/v1/segment", {"content": tiny, "params": {"colour": "red"}}),
        ("GET", "/v1/segment", {}),
        ("GET", "/etc/passwd", {}),
        ("GET", "/docs", {}),  # would load scripts from elsewhere
    )
    assert problem(answers[0], 415, "content-type", "urlencoded", "wanted multipart/form-data")
    assert problem(answers[1], 422, "bad-option", "output", "'overlay'")
    assert problem(answers[2], 422, "bad-option", "colour")
    assert problem(answers[3], 405, "http")
    assert answers[3].headers["allow"] == "POST"
    assert problem(answers[4], 404, "http")
    assert problem(answers[5], 404, "http")


def test_short_of_memory(tiny):
    def lacking():
        raise MemoryError("the CRF of a photo of 10×6 needs more")

    answer = segment(Stub(lacking), tiny)
    assert problem(answer, 503, "memory", "10×6")
    assert int(answer.headers["retry-after"]) >= 1


def test_a_fault_is_told_without_its_secrets(tiny):
    def fault():
        raise KeyError("/home/somebody")

    answer = segment(Stub(fault), tiny)
    assert problem(answer, 500, "fault", "KeyError")
    assert "somebody" not in answer.text


def test_every_answer_forbids_other_hosts(tiny):
    answers = ask(
        Stub(), ("GET", "/healthz", {}), ("POST", "/v1/segment", {"content": tiny}), ("GET", "/nothing", {})
    )
    for answer in answers:
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_two_hundred_requests_at_once(tiny):
    gate = threading.Event()
    model = Stub(lambda: gate.wait(20))

    async def talk():
        async with client_of(model, workers=2, waiting=5) as client:
            posts = [asyncio.create_task(client.post("/v1/segment", content=tiny)) for _ in range(200)]
            while sum(post.done() for post in posts) < 193 or model.now < 2:
                await asyncio.sleep(0.01)
            health = (await client.get("/healthz")).json()
            gate.set()
            return health, await asyncio.gather(*posts)

    health, answers = asyncio.run(talk())
    assert (health["running"], health["waiting"], health["status"]) == (2, 5, "ok")
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [503] * 193
    assert model.most == 2
    assert model.done == 7
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert problem(refused, 503, "busy", "7 photos")
    assert int(refused.headers["retry-after"]) >= 1


def test_a_request_that_finds_no_place_is_answered_before_its_body_is_asked_for(tiny):
    gate, read = threading.Event(), []

    async def body():
        read.append(1)
        yield tiny

    model = Stub(lambda: gate.wait(20))

    async def talk():
        async with client_of(model, workers=1, waiting=0) as client:
            first = asyncio.create_task(client.post("/v1/segment", content=tiny))
            while not model.now:
                await asyncio.sleep(0.01)
            second = await client.post("/v1/segment", content=body(), headers={"expect": "100-continue"})
            gate.set()
            return second, await first, await client.post("/v1/segment", content=tiny)

    second, first, third = asyncio.run(talk())
    assert problem(second, 503, "busy")
    assert not read
    assert first.status_code == third.status_code == 200


def test_time_runs_out_while_working_while_waiting_and_while_uploading(tiny):
    gate = threading.Event()
    model = Stub(lambda: gate.wait(20))

    async def slow():
        await asyncio.sleep(20)
        yield tiny

    async def talk():
        async with client_of(model, workers=1, waiting=1, seconds=0.3) as client:
            working, waiting = await asyncio.gather(
                *(client.post("/v1/segment", content=tiny) for _ in range(2))
            )
            left = (await client.get("/healthz")).json()
            uploading = await client.post("/v1/segment", content=slow())
            gate.set()
            while model.now:
                await asyncio.sleep(0.01)
            return working, waiting, uploading, left, await client.post("/v1/segment", content=tiny)

    working, waiting, uploading, left, after = asyncio.run(talk())
    assert problem(working, 504, "too-slow")
    assert problem(waiting, 503, "busy")
    assert int(waiting.headers["retry-after"]) >= 1
    assert problem(uploading, 408, "slow-upload")
    assert (left["running"], left["waiting"]) == (1, 0)  # a thread cannot be stopped, and keeps its place
    assert after.status_code == 200
    assert model.most == 1


def test_nothing_is_written(narrow, monkeypatch):
    model = Model(narrow("deeplab-largefov"), Card("deeplab-largefov", NAMES), precision="fp32")
    large = encoded(np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8))  # 1.9 MB
    model.segment(np.zeros((9, 12, 3), np.uint8))

    def refuse(*_, **__):
        raise AssertionError("a request reached for the file system")

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


def test_a_line_of_workers_refuses_when_it_is_closed():
    line = WorkQueue(1, 1)

    async def talk():
        with line, line.place() as place:
            assert await place.run(lambda: 1, seconds=5) == 1
        with line.place() as place:
            await place.run(lambda: 1, seconds=5)

    with pytest.raises(HTTPError) as caught:
        asyncio.run(talk())
    assert (caught.value.status, caught.value.kind) == (503, "stopping")
    assert (line.running, line.waiting) == (0, 0)


@pytest.mark.parametrize("field", ["bytes", "pixels", "seconds", "workers"])
def test_limits_are_above_zero(field):
    with pytest.raises(ValueError, match=f"got {field} = 0, wanted a number above 0"):
        Limits(**{field: 0})
    assert Limits(waiting=0).waiting == 0


def test_photos_from_bytes_are_upright_and_in_colour(photo):
    assert np.array_equal(photo_from_bytes(encoded(photo), Limits()), photo)
    assert photo_from_bytes(encoded(photo[:, :, 0]), Limits()).shape == (45, 70, 3)


@pytest.fixture
def server():
    """Starts a server with a stub; says its address, and gives the process."""
    started = []

    def start(seconds):
        code = SERVER.format(tests=str(Path(__file__).parents[1]), seconds=seconds)
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        address = process.stdout.readline().split()[1].removesuffix(",")
        for _ in range(100):
            try:
                httpx.get(address.replace("/v1/segment", "/healthz"))
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        return process, address

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_large_bodies_that_find_no_place_are_told_why(server, tiny):
    _, address = server(0.3)
    content = tiny + bytes(8_000_000)

    async def talk():
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=60) as client:
            return await asyncio.gather(*(client.post(address, content=content) for _ in range(40)))

    codes = [answer.status_code for answer in asyncio.run(talk())]  # a connection that is reset would raise
    assert set(codes) == {200, 503}
    assert codes.count(200) >= 17


SERVER = """
import sys, time
sys.path.insert(0, {tests!r})
import deeplab.model.loading
from test_service import Stub
deeplab.model.loading.load = lambda **_: Stub(lambda: time.sleep({seconds}))
from deeplab.commands.app import App, app
sys.exit(app(App(port=0, page=False)))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_lets_what_runs_finish(stop, tiny, server):
    process, address = server(1.5)
    health, answers = address.replace("/v1/segment", "/healthz"), []
    thread = threading.Thread(target=lambda: answers.append(httpx.post(address, content=tiny, timeout=30)))
    thread.start()
    while httpx.get(health).json()["running"] == 0:
        time.sleep(0.05)
    process.send_signal(stop)
    thread.join()
    assert answers[0].status_code == 200
    assert process.wait(20) == 0
    assert process.stdout.read() == "stopped\n"
    assert "Traceback" not in process.stderr.read()
    with pytest.raises(httpx.ConnectError):
        httpx.get(health)


def test_a_port_that_is_taken():
    from deeplab.commands.app import App, app

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port} .* try another --port"):
            app(App(port=port))


def test_a_missing_extra_is_one_line(monkeypatch):
    import importlib.util

    from deeplab.commands.app import App, app

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'deeplab-crf\[app\]'"):
        app(App())


def test_the_schema_tells_every_answer():
    schema = ask(Stub(), ("GET", "/openapi.json", {})).json()
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


def test_the_schema_holds_for_made_up_requests(tiny):
    schemathesis = pytest.importorskip("schemathesis", reason="needs pip install 'deeplab-crf[test]'")
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    pictures = st.sampled_from(
        [tiny, tiny[:-30], encoded(np.zeros((7, 3, 3), np.uint8), "JPEG")]
    ) | st.binary(max_size=99)
    for kind in ("image/png", "image/jpeg", "image/webp", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, pictures)
    schema = schemathesis.openapi.from_asgi("/openapi.json", service(Stub(), Limits(), names=["testserver"]))
    seen = set()
    for found in schema.get_all_operations():
        operation = found.ok()
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
            # what is a picture cannot be told by a schema: bytes that fit it may be refused
            answer = case.call_and_validate(excluded_checks=[schemathesis.checks.positive_data_acceptance])
            seen.add((case.operation.path, answer.status_code))

        conforms()
    assert {("/healthz", 200), ("/v1/segment", 200), ("/v1/segment", 422)} <= seen
