"""A server process: listening, running, and stopping within stated seconds."""

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

from deeplab.serving.connections import allow_many_files, connections

STOP_SECONDS = 5.0  # beyond those of a request: after these a stop does not wait any more


class Stopped(Exception):
    """SIGTERM came."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the block, so that what has to be removed at its end is removed."""

    def stop(*_: object) -> None:
        for number in before:  # a second one does not interrupt the removing
            signal.signal(number, signal.SIG_IGN)
        raise Stopped

    def hung_up(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # to whatever handles that

    handlers = {"SIGTERM": stop, "SIGHUP": hung_up}
    mine = {getattr(signal, name): handler for name, handler in handlers.items() if hasattr(signal, name)}
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handler) for number, handler in mine.items()}
    try:
        with suppress(KeyboardInterrupt, Stopped):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port that is taken is known before a model is loaded.

    Args:
        host: name or address, IPv4 or IPv6.
        port: 0 for a free one.

    Raises:
        ValueError: for a port that cannot be.
        OSError: if it is taken, or the host is not this machine.
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
    door: FastAPI,
    listener: socket.socket,
    *,
    seconds: float,
    hang_up: Callable[[], None] = lambda: None,
    give_up: Callable[[], None] = lambda: None,
) -> None:
    """Serve until Ctrl-C or SIGTERM, then finish what runs, for a while.

    Args:
        door: the application.
        listener: as ``listen`` makes it.
        seconds: that a request may take; so long is waited at the end, and ``STOP_SECONDS`` more for what is
            left. Work on a thread that is not done by then is abandoned: the process ends at once, with
            status 1.
        hang_up: called when the server is to stop, to end what would go on for ever.
        give_up: called before work is abandoned, to remove what would be left behind.
    """

    def abandon() -> None:
        with suppress(Exception):
            give_up()
        with suppress(OSError):
            print("stopped; what was still being worked on is dropped", file=sys.stderr, flush=True)
        os._exit(1)

    patience = threading.Timer(seconds + STOP_SECONDS, abandon)
    patience.daemon = True

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if not self.should_exit:
                hang_up()
                patience.start()
            super().handle_exit(sig, frame)

    allow_many_files()
    config = uvicorn.Config(
        door,
        log_level="warning",
        timeout_graceful_shutdown=math.ceil(seconds),
        ws="none",
        server_header=False,
        http=connections(),  # type: ignore[arg-type]  # what makes one is enough
    )
    try:
        Server(config).run(sockets=[listener])
    finally:
        patience.cancel()
