"""The host and the site of a request, and what other origins may read of an answer."""

import asyncio

import pytest

pytest.importorskip("fastapi", reason="needs pip install 'deeplab-crf[app]'")
httpx = pytest.importorskip("httpx", reason="needs pip install 'deeplab-crf[app]'")

from deeplab.serving.host_check import HostCheck  # noqa: E402  (after the skips)


class Permissive:
    """An application that lets every origin read its answers, and counts the requests."""

    def __init__(self):
        self.requests = 0

    async def __call__(self, scope, receive, send):
        self.requests += 1
        headers = [
            (b"Access-Control-Allow-Origin", b"*"),
            (b"access-control-allow-credentials", b"true"),
            (b"x", b"y"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"yes"})


def ask(method="GET", names=(), url="http://127.0.0.1:7860/", **headers):
    app = Permissive()

    async def talk():
        transport = httpx.ASGITransport(HostCheck(app, names))
        async with httpx.AsyncClient(transport=transport) as client:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, url, headers=sent)

    answer = asyncio.run(talk())
    assert app.requests == (answer.status_code == 200)
    return answer


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:7860",
        "localhost:7860",
        "LOCALHOST",
        "localhost.",
        "192.168.1.7:80",
        "[::1]:7860",
        "[fe80::1]",
        "labels.example.org",
        "labels.example.org:443",
        "Labels.Example.Org.",
    ],
)
def test_host_names_of_this_server_are_accepted(host):
    assert ask(host=host, names=["labels.example.org"]).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1 evil.example",
        "evil.example:80@127.0.0.1",
        "127.0.0.1:7860:1",
        "127.0.0.1/x",
        "[::1",
        "::1",
        "",
        " ",
        "notlabels.example.org",
        "2130706433",
    ],
)
def test_other_host_names_are_refused(host):
    answer = ask(host=host, names=["labels.example.org"])
    assert (answer.status_code, answer.json()["error"]) == (421, "wrong-host")


def test_a_request_must_have_one_host_header():
    for hosts in ([], [b"127.0.0.1", b"127.0.0.1"]):
        sent = []

        async def send(message, sent=sent):
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", host) for host in hosts]}
        asyncio.run(HostCheck(Permissive())(scope, None, send))
        assert sent[0]["status"] == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "http://localhost:7860"},
        {"origin": "http://127.0.0.1:7860.evil.example"},
        {"origin": "file://"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
        {"sec_fetch_site": "cross-site", "origin": "http://127.0.0.1:7860"},
    ],
)
def test_requests_of_other_sites_are_refused(method, headers):
    answer = ask(method, **headers)
    assert (answer.status_code, answer.json()["error"]) == (403, "cross-site")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://127.0.0.1:7860"},
        {"sec_fetch_site": "same-origin", "origin": "http://127.0.0.1:7860"},
        {"sec_fetch_site": "none"},
        {"origin": "https://labels.example.org"},
    ],
)
def test_requests_of_the_page_and_of_programs_are_answered(headers):
    assert ask("POST", ["labels.example.org"], **headers).status_code == 200


def test_another_site_may_link_to_the_page_but_not_embed_it():
    assert ask(sec_fetch_site="cross-site", sec_fetch_mode="navigate").status_code == 200
    for mode in ("no-cors", "cors", "websocket"):
        assert ask(sec_fetch_site="cross-site", sec_fetch_mode=mode).status_code == 403
    assert ask(origin="http://evil.example").status_code == 403


def test_no_answer_lets_another_origin_read_it():
    for answer in (
        ask(),
        ask(origin="http://127.0.0.1:7860"),
        ask(host="evil.example"),
        ask("OPTIONS", origin="null"),
    ):
        assert [name for name in answer.headers if name.startswith("access-control-")] == []
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert ask().headers["x"] == "y"


def test_websockets_are_closed():
    sent, app = [], Permissive()

    async def send(message):
        sent.append(message["type"])

    asyncio.run(HostCheck(app)({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert sent == ["websocket.close"]
    assert app.requests == 0
