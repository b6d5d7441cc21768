"""A server process: listening, running, and stopping without dropping what runs."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI


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
    door: FastAPI, listener: socket.socket, *, seconds: float, hang_up: Callable[[], None] = lambda: None
) -> None:
    """Serve until SIGINT or SIGTERM, then finish what runs.

    Args:
        door: the application.
        listener: as ``listen`` makes it.
        seconds: that a request may take; so long is waited at the end.
        hang_up: called when the server is to stop, to end what would go on for ever.
    """

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            hang_up()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(door, log_level="warning", timeout_graceful_shutdown=math.ceil(seconds) + 1)
    with suppress(KeyboardInterrupt):  # the ordinary way to stop it
        Server(config).run(sockets=[listener])
