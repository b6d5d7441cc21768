"""No request to the page gets a file of the server, on any route.

`make test-gradio` runs this file against each version of Gradio that is allowed.
"""

import asyncio
import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs pip install 'deeplab-crf[app]'")
pytest.importorskip("httpx", reason="needs pip install 'deeplab-crf[app]'")

from deeplab.model.segmentation import Model
from deeplab.serving import route_filter
from deeplab.serving.limits import Limits
from deeplab.serving.result_cache import NETWORK
from deeplab.weights.store import Card
from served_page import ServedPage

SECRET = "root:secret-of-this-machine"
STANDARD = [5.0, 50.0, 3.0, 3.0, 3.0, 10, "after"]
PAIR = f"{NETWORK} | network + CRF"
OPEN_ROUTES = {  # of Gradio's routes, those that the page needs
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/config"),
    ("GET", "/theme.css"),
    ("GET", "/static/{path:path}"),
    ("GET", "/assets/{path:path}"),
    ("GET", "/gradio_api/startup-events"),
    ("GET", "/gradio_api/queue/data"),
    ("GET", "/gradio_api/heartbeat/{session_hash}"),
    ("POST", "/gradio_api/queue/join"),
    ("POST", "/gradio_api/cancel"),
    ("POST", "/gradio_api/reset"),
}
OWN_ROUTES = {  # Gradio has them too, but the filter answers them
    ("GET", "/gradio_api/file={path_or_url:path}"),
    ("HEAD", "/gradio_api/file={path_or_url:path}"),
    ("POST", "/gradio_api/upload"),
    ("GET", "/gradio_api/upload_progress"),
}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "uploads"
    path.mkdir()
    return path


@pytest.fixture
def secret(tmp_path):
    """A file beside the folder of uploads."""
    path = tmp_path / "secret.png"
    path.write_text(SECRET)
    return path


@pytest.fixture
def served(narrow, folder, monkeypatch):
    card = Card("deeplab-largefov", ("background", "cat", "dog"), crf={"normalization": "after"})
    model = Model(narrow("deeplab-largefov"), card, precision="fp32")
    return ServedPage(
        model, Limits(bytes=100_000, stored_bytes=1_000_000, stored_files=8, seconds=30), folder, monkeypatch
    )


@pytest.fixture
def passed(served):
    """The requests that pass the filter, recorded in place of Gradio."""
    requests = []

    async def record(scope, receive, send):
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        requests.append((scope["method"], scope["path"].removeprefix("/page"), body, dict(scope["headers"])))
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    served.route_filter.app = record
    return requests


def file(path, **more):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


def joined(data, **more):
    return (
        "POST",
        "/page/gradio_api/queue/join",
        {"json": {"data": data, "fn_index": 0, "session_hash": "a", **more}},
    )


def upload(name, content, **more):
    return ("POST", "/page/gradio_api/upload", {"files": [("files", (name, content))], **more})


def encoded(size=(70, 45)):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def every_route(app):
    """(method, path) of each route of an application, with those of its routers."""
    for route in app.routes:
        router = getattr(route, "original_router", None)  # in later versions of FastAPI
        if router is not None:
            yield from every_route(router)
            continue
        for method in getattr(route, "methods", None) or ("GET", "POST"):
            yield method, route.path


def test_routes_of_gradio_that_the_page_does_not_need_are_closed(served, passed, secret):
    routes = set(every_route(served.gradio))
    assert len(routes) > 50
    assert OPEN_ROUTES | OWN_ROUTES <= routes | {("HEAD", "/")}
    for method, path in sorted(routes):
        if (method, path) in OWN_ROUTES:
            continue
        named = re.sub(r"\{path:path\}", "index.js", re.sub(r"\{\w+\}", "x", path))
        named = re.sub(r"\{\w+:path\}", str(secret), named)
        body = {"json": {"data": [file(secret)], "path": str(secret)}} if method == "POST" else {}
        before = len(passed)
        (answer,) = served.ask((method, f"/page{named}", body | {"follow_redirects": False}))
        is_passed = len(passed) > before
        if method == "POST" and (method, path) in OPEN_ROUTES:
            assert answer.status_code == 403 or b"secret" not in passed[-1][2]
        else:
            assert is_passed == ((method, path) in OPEN_ROUTES), f"{method} {path}: {answer.status_code}"
        assert SECRET not in answer.text


def attacks(folder, secret):
    link = folder / "link.png"
    link.symlink_to(secret)
    (folder / "deep").mkdir()
    (folder / "deep" / "up").symlink_to(folder.parent)
    os.mkfifo(folder / "pipe.png")
    return [
        "/etc/passwd",
        "/dev/zero",
        "/proc/self/environ",
        "/proc/self/root/etc/passwd",
        str(secret),
        str(link),
        f"{folder}/../secret.png",
        f"{folder}/deep/up/secret.png",
        f"{folder}/../uploads/../secret.png",
        f"//{secret}",
        str(folder),
        f"{folder}/",
        f"{folder}/pipe.png",
        f"{folder}/none.png",
        f"{folder}\0/x.png",
        "secret.png",
        "../secret.png",
        "",
        ".",
        "~/x.png",
        "http://127.0.0.1:9/x.png",
        "https://example.org/x.png",
        "HTTPS://example.org/x.png",
        "ftp://example.org/x",
        f"file://{secret}",
        "data:image/png;base64,AAAA",
        "\\\\example.org\\share\\x.png",
        7,
        0,
        True,
        [str(secret)],
        {"path": str(secret)},
    ]


@pytest.mark.parametrize("route", ["queue/join", "run/predict", "cancel", "reset"])
def test_only_paths_of_uploads_reach_gradio(served, passed, folder, secret, route):
    keys = route_filter.JSON_KEYS[f"/gradio_api/{route}"]

    def joined(data, event_data=None):
        content = (
            {key: data if key == keys[0] else event_data for key in keys[:2]}
            if event_data
            else {keys[0]: data}
        )
        return ("POST", f"/page/gradio_api/{route}", {"json": content})

    requests = []
    for path in attacks(folder, secret):
        forged = {"path": path, "meta": {"_type": "gradio.FileData"}}
        requests += [
            joined([forged]),
            joined([[forged]]),
            joined([{"image": forged, "value": 1}]),
            joined([{"path": path}]),
            *([joined([], event_data=forged)] if len(keys) > 1 else []),
            joined([{"value": {"path": None, "url": path}}] if path != "" else [forged]),
        ]
        if isinstance(path, str) and re.match(r"[/\\]|\w+:/|data:", path):
            requests += [joined([path]), joined([{"video": path}]), joined([{path: 1}])]
    answers = served.ask(*requests)
    wrong = [
        request[2] for request, answer in zip(requests, answers, strict=True) if answer.status_code != 403
    ]
    assert wrong == []
    assert passed == []
    assert {answer.json()["error"] for answer in answers} == {"foreign-path"}
    assert not any("secret" in answer.text for answer in answers)


def test_the_path_of_an_upload_reaches_gradio_without_its_url(served, passed):
    (answer,) = served.ask(upload("cat.png", encoded()))
    (path,) = answer.json()
    url = f"http://127.0.0.1/page/gradio_api/file={path}"
    (answer,) = served.ask(joined([file(path, url=url, orig_name="~cat.png"), 3.5, None, True]))
    assert answer.status_code == 299
    _, _, body, headers = passed[-1]
    assert json.loads(body)["data"] == [file(path, url=None, orig_name="~cat.png"), 3.5, None, True]
    assert int(headers[b"content-length"]) == len(body)


def test_gradio_gets_the_checked_values(served, passed, secret):
    (answer,) = served.ask(upload("cat.png", encoded()))
    (path,) = answer.json()
    twice = (
        '{"data": [{"path": "%s", "path": "%s"}], "fn_index": 0, "simple_format": true, "oauth_token": "x"}'
    )
    json_type = {"headers": {"content-type": "application/json; charset=utf-8"}}
    first, second = served.ask(
        (
            "POST",
            "/page/gradio_api/queue/join?__theme=/etc/passwd",
            json_type | {"content": twice % (secret, path)},
        ),
        ("POST", "/page/gradio_api/queue/join", json_type | {"content": twice % (path, secret)}),
    )
    assert (first.status_code, second.status_code) == (299, 403)
    assert json.loads(passed[-1][2]) == {"data": [{"path": path}], "fn_index": 0}
    assert b"secret" not in passed[-1][2]


def test_json_bodies_are_limited(served, passed):
    deep = "[" * 200 + "]" * 200
    cases = [
        (b'{"data": ["' + b"x" * 600_000 + b'"]}', 413),
        (b"[1, 2]", 400),
        (b"nothing", 400),
        (b"\xff\xfe", 400),
        (b'{"data": [1e999]}', 400),
        (b'{"data": [NaN]}', 400),
        (b'{"data": [-Infinity]}', 400),
        (f'{{"data": {deep}}}'.encode(), 400),
        (b'{"data": ' + b"[" * 200_000, 400),
    ]
    headers = {"content-type": "application/json"}
    requests = [
        ("POST", "/page/gradio_api/queue/join", {"content": body, "headers": headers}) for body, _ in cases
    ]
    answers = served.ask(*requests, ("POST", "/page/gradio_api/queue/join", {"content": b"{}"}))
    assert [answer.status_code for answer in answers] == [*(status for _, status in cases), 415]

    async def in_pieces():
        for _ in range(700):
            yield b" " * 1000

    (unannounced,) = served.ask(
        ("POST", "/page/gradio_api/cancel", {"content": in_pieces(), "headers": headers})
    )
    assert unannounced.status_code == 413
    assert passed == []


def test_a_body_that_does_not_arrive_is_not_waited_for(served, passed, monkeypatch):
    monkeypatch.setattr(route_filter, "JSON_SECONDS", 0.05)

    async def never():
        await asyncio.sleep(20)
        yield b"{}"

    headers = {"content-type": "application/json"}
    (answer,) = served.ask(("POST", "/page/gradio_api/queue/join", {"content": never(), "headers": headers}))
    assert (answer.status_code, answer.json()["error"]) == (408, "slow-upload")
    assert passed == []


def test_an_upload_is_labelled_and_a_forged_path_is_not(served, secret):
    async def talk():
        async with served.client() as client:
            answer = await client.post("/page/gradio_api/upload", files={"files": ("cat.png", encoded())})
            number = served.number_of("label")
            rest = [None, PAIR, 0, 0, *STANDARD]
            good = await served.event(client, number, [file(answer.json()[0]), *rest])
            return good, await served.event(client, number, [file(secret), *rest])

    good, forged = asyncio.run(talk())
    assert good["success"], good
    assert "70×45" in json.dumps(good["output"], ensure_ascii=False)
    assert forged.status_code == 403
    assert served.connections == []


def test_gradio_checks_paths_itself(served, secret, folder):
    """Without the filter: Gradio refuses too, but only because the page is marked as launched."""
    with_files = [
        number
        for number, each in served.blocks.fns.items()
        if any(type(block).__name__ in ("Image", "File", "UploadButton") for block in each.inputs)
    ]
    assert len(with_files) >= 3

    async def talk():
        async with served.client(served.gradio) as client:
            messages = []
            for number in with_files:
                inputs = served.blocks.fns[number].inputs
                forged = [
                    file(secret) if type(block).__name__ == "Image" else [file(secret)]
                    for block in inputs[:1]
                ]
                rest = [PAIR if type(block).__name__ == "Radio" else 0 for block in inputs[1:]]
                messages.append(await served.event(client, number, [*forged, *rest], root=""))
            return messages

    messages = asyncio.run(talk())
    assert [message["success"] for message in messages] == [False] * len(with_files)
    copied = [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert copied == []
    assert SECRET not in json.dumps(messages)


def test_only_uploads_can_be_downloaded(served, folder, secret):
    content = encoded()
    (answer,) = served.ask(upload("../../my photo.png", content))
    (path,) = answer.json()
    assert path.endswith("/my photo.png")
    assert os.path.dirname(os.path.dirname(path)) == str(folder)
    good, part, head = served.ask(
        ("GET", f"/page/gradio_api/file={path}"),
        ("GET", f"/page/gradio_api/file={path}", {"headers": {"range": "bytes=0-3"}}),
        ("HEAD", f"/page/gradio_api/file={path}"),
    )
    assert (good.status_code, good.content, good.headers["content-type"]) == (200, content, "image/png")
    assert (part.status_code, part.content) == (206, content[:4])
    assert head.status_code == 200
    paths = [path for path in attacks(folder, secret) if isinstance(path, str)]
    paths += ["/etc/passwd", "%2e%2e/secret.png", f"{folder}/%2e%2e/secret.png"]
    requests = [("GET", f"/page/gradio_api/file={path}") for path in paths if "\0" not in path]
    requests += [
        ("GET", f"/page/{prefix}{secret}")
        for prefix in ("file=", "file/", "gradio_api/file/", "static/", "assets/")
    ]
    requests += [
        ("GET", f"/page/gradio_api/proxy=http://127.0.0.1:9{secret}"),
        ("GET", f"/page/static/../..{secret}"),
    ]
    for answer in served.ask(*requests):
        assert answer.status_code == 404
        assert SECRET not in answer.text


def test_uploaded_pages_and_scripts_can_only_be_saved(served):
    answers = served.ask(*(upload(name, b"<script>1</script>") for name in ("a.html", "a.svg", "a.js", "a")))
    for answer in served.ask(*(("GET", f"/page/gradio_api/file={each.json()[0]}") for each in answers)):
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment")
        assert "sandbox" in answer.headers["content-security-policy"]


def test_monitoring_and_other_services_of_gradio_are_closed(served):
    paths = (
        "monitoring",
        "monitoring/summary",
        "gradio_api/info",
        "gradio_api/openapi.json",
        "gradio_api/deep_link",
        "gradio_api/app_id",
        "gradio_api/token",
        "gradio_api/runs",
        "gradio_api/profiling/traces",
        "login_check",
        "gradio_api/queue/status",
        "docs",
        "openapi.json",
    )
    for answer in served.ask(*(("GET", f"/page/{path}") for path in paths)):
        assert answer.status_code == 404


def test_the_number_of_remembered_visitors_is_limited(served):
    assert served.gradio.state_holder.capacity == 200


def test_the_number_of_streams_is_limited(served, passed, monkeypatch):
    monkeypatch.setattr(route_filter, "MAX_STREAMS", 0)
    (answer,) = served.ask(("GET", "/page/gradio_api/heartbeat/abc"))
    assert (answer.status_code, answer.json()["error"]) == (503, "busy")
    assert passed == []
