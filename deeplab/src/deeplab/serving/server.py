"""A server process: it listens, runs, and stops within a known time."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from deeplab.serving.connections import connection_factory, raise_file_limit

STOP_SECONDS = 5.0  # a stop takes at most the time of one request and these seconds


class Stopped(Exception):
    """SIGTERM was received."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """End the block at Ctrl-C, SIGTERM or SIGHUP, so that temporary files are removed at its end."""

    def stop(*_: object) -> None:
        for number in previous:  # a second signal must not interrupt the clean-up
            signal.signal(number, signal.SIG_IGN)
        raise Stopped

    def terminate(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # uvicorn handles this while it runs, else ``stop`` does

    handlers = {
        getattr(signal, name): handler
        for name, handler in {"SIGTERM": stop, "SIGHUP": terminate}.items()
        if hasattr(signal, name)
    }
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with suppress(KeyboardInterrupt, Stopped):
            yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; called before a model is loaded, so that a port in use is reported at once.

    Args:
        host: name or address, IPv4 or IPv6.
        port: 0 to 65535; 0 for a free one.

    Returns:
        The socket.

    Raises:
        ValueError: if the port is out of range.
        OSError: if the port is in use, or the host is not this machine.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"got port {port}, wanted 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"cannot listen on {host}:{port} ({reason}); try another --port or --host") from None


def serve(
    app: FastAPI,
    listener: socket.socket,
    *,
    seconds: float,
    close_streams: Callable[[], None] = lambda: None,
    clean_up: Callable[[], None] = lambda: None,
) -> None:
    """Serve until Ctrl-C or SIGTERM, then finish the running requests within a limited time.

    Args:
        app: the application.
        listener: socket made by ``listen``.
        seconds: maximum time of a request. A stop waits this long for running requests, and ``STOP_SECONDS``
            more for their threads. If work is still running then, the process exits at once with status 1.
        close_streams: called when the server begins to stop, to end answers that would go on for ever.
        clean_up: called before the process exits with work still running, to remove temporary files.
    """

    def abort() -> None:
        with suppress(Exception):
            clean_up()
        with suppress(OSError):
            print("stopped; unfinished work is dropped", file=sys.stderr, flush=True)
        os._exit(1)

    abort_timer = threading.Timer(seconds + STOP_SECONDS, abort)
    abort_timer.daemon = True

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if not self.should_exit:
                close_streams()
                abort_timer.start()
            super().handle_exit(sig, frame)

    raise_file_limit()
    config = uvicorn.Config(
        app,
        log_level="warning",
        timeout_graceful_shutdown=math.ceil(seconds),
        ws="none",
        server_header=False,
        http=connection_factory(),  # type: ignore[arg-type]  # uvicorn only calls it
    )
    try:
        Server(config).run(sockets=[listener])
    finally:
        abort_timer.cancel()
