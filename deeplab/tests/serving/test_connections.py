"""Connections over real sockets: idle, stalled and too many connections."""

import asyncio
import socket
import threading
import time
from contextlib import ExitStack, suppress

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="needs pip install 'deeplab-crf[app]'")

from deeplab.serving import connections  # noqa: E402  (after the skip)
from deeplab.serving.server import listen  # noqa: E402


class Served:
    """An ASGI application on a free port, in a thread."""

    def __init__(self, app):
        self.listener = listen("127.0.0.1", 0)
        self.address = self.listener.getsockname()
        config = uvicorn.Config(
            app, log_level="error", http=connections.connection_factory(), ws="none", lifespan="off"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()
        self.listener.close()

    def connect(self):
        connection = socket.create_connection(self.address)
        connection.settimeout(20)
        return connection


async def answer_yes(scope, receive, send):
    """An application that answers at once; /slow later, /large with many bytes."""
    if scope["path"] == "/slow":
        await asyncio.sleep(0.6)
    size = 50_000_000 if scope["path"] == "/large" else 3
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    await send({"type": "http.response.body", "body": b"yes" if size == 3 else bytes(size)})


@pytest.fixture
def served():
    with Served(answer_yes) as server:
        yield server


def is_closed(connection):
    """Wait for the other side to close the connection; return whether it has."""
    try:
        return connection.recv(100_000) == b""
    except ConnectionResetError:
        return True


def get(connection, path="/"):
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"yes"):
        piece = connection.recv(1000)
        assert piece
        answer += piece
    return answer


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
def test_connections_without_a_request_are_closed(served, monkeypatch, sent):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    with served.connect() as connection:
        connection.sendall(sent)
        assert is_closed(connection)


def send_slowly(connection):
    """Send single letters of a request that never ends, for a minute."""
    for _ in range(1200):
        connection.sendall(b"G")
        time.sleep(0.05)


def test_headers_that_come_slowly_are_not_waited_for(served, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    with served.connect() as connection:
        get(connection)
        with pytest.raises(OSError):  # noqa: PT011  (reset, or a broken pipe)
            send_slowly(connection)


def test_slow_answers_and_several_requests_are_waited_for(served, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    with served.connect() as connection:
        for path in ("/", "/slow", "/"):
            assert get(connection, path).startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_its_answer_is_disconnected(served, monkeypatch):
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.3)
    with served.connect() as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        while served.server.server_state.connections or not served.server.server_state.total_requests:
            time.sleep(0.02)
        size = 0
        with suppress(ConnectionResetError):
            while piece := connection.recv(1_000_000):
                size += len(piece)
        assert size < 50_000_000


def test_three_hundred_idle_connections_do_not_stop_the_server(served):
    with ExitStack() as stack:
        idle = [stack.enter_context(served.connect()) for _ in range(300)]
        with served.connect() as connection:
            assert get(connection)
        assert is_closed(idle[0])  # the one that has waited longest
        assert len(served.server.server_state.connections) <= connections.MAX_IDLE + 1


def test_the_number_of_all_connections_is_limited(served, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    with ExitStack() as stack:
        busy = [stack.enter_context(served.connect()) for _ in range(3)]
        for connection in busy:
            connection.sendall(b"GET /slow HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        time.sleep(0.2)
        assert is_closed(stack.enter_context(served.connect()))
        assert all(connection.recv(1000) for connection in busy)
