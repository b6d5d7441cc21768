"""Who may ask the server: hosts, sites, and what other origins may read."""

import asyncio

import pytest

pytest.importorskip("fastapi", reason="needs pip install 'deeplab-crf[app]'")
httpx = pytest.importorskip("httpx", reason="needs pip install 'deeplab-crf[app]'")

from deeplab.serving.host_check import HostCheck  # noqa: E402  (after the skips)


class Behind:
    """An application that lets every origin read, and counts what reaches it."""

    def __init__(self):
        self.asked = 0

    async def __call__(self, scope, receive, send):
        self.asked += 1
        headers = [
            (b"Access-Control-Allow-Origin", b"*"),
            (b"access-control-allow-credentials", b"true"),
            (b"x", b"y"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"yes"})


def ask(method="GET", names=(), url="http://127.0.0.1:7860/", **headers):
    behind = Behind()

    async def talk():
        transport = httpx.ASGITransport(HostCheck(behind, names))
        async with httpx.AsyncClient(transport=transport) as client:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, url, headers=sent)

    answer = asyncio.run(talk())
    assert behind.asked == (answer.status_code == 200)
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
def test_hosts_of_this_server(host):
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
def test_a_name_of_somebody_else_that_leads_here_is_refused(host):
    answer = ask(host=host, names=["labels.example.org"])
    assert (answer.status_code, answer.json()["error"]) == (421, "wrong-host")


def test_a_request_names_one_host():
    for hosts in ([], [b"127.0.0.1", b"127.0.0.1"]):
        sent = []

        async def send(message, sent=sent):
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", host) for host in hosts]}
        asyncio.run(HostCheck(Behind())(scope, None, send))
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
def test_what_another_site_sends_is_refused(method, headers):
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
def test_what_the_page_itself_and_programs_send_is_answered(headers):
    assert ask("POST", ["labels.example.org"], **headers).status_code == 200


def test_another_site_may_link_to_the_page_and_not_embed_it():
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
    sent, behind = [], Behind()

    async def send(message):
        sent.append(message["type"])

    asyncio.run(HostCheck(behind)({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert sent == ["websocket.close"]
    assert behind.asked == 0
