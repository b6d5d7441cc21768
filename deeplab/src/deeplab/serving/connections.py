"""Connections of a server: their number is bounded, and idle or stalled ones are closed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0  # time for the headers of a request, from the connection or the previous answer on
WRITE_SECONDS = 60.0  # time for which a client may leave an answer unread
MAX_IDLE = 100  # connections without a request
MAX_CONNECTIONS = 512


class Connection(H11Protocol):
    """A connection that is closed when its client sends no request, or does not read the answer.

    uvicorn's own connections wait without limit for the first request, and for the rest of one.

    Args:
        idle: connections of the same server that wait for a request, each with the timer that closes it.
        rest: arguments of ``H11Protocol``.
    """

    def __init__(self, idle: OrderedDict[Connection, asyncio.TimerHandle], **rest: Any):
        super().__init__(**rest)
        self._idle = idle
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request; if too many connections do, close the one that has waited longest."""
        super().connection_made(transport)
        self._start_header_timer()
        too_many = len(self.connections) > MAX_CONNECTIONS
        if len(self._idle) > MAX_IDLE or (too_many and len(self._idle) > 1):
            next(iter(self._idle)).abort()
        elif too_many:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop_header_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request; one more part of the headers does not extend their time."""
        super().data_received(data)
        self._update_header_timer()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._update_header_timer()

    def pause_writing(self) -> None:
        """Start the timer for a client that does not read its answer."""
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.abort)

    def resume_writing(self) -> None:
        """Stop the timer: the client reads again."""
        self._stop_write_timer()
        super().resume_writing()

    def abort(self) -> None:
        """Close the connection at once."""
        self._stop_header_timer()
        self.transport.abort()

    def _update_header_timer(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if self.transport.is_closing() or answering:
            self._stop_header_timer()
        else:
            self._start_header_timer()

    def _start_header_timer(self) -> None:
        if self not in self._idle:
            self._idle[self] = self.loop.call_later(HEADER_SECONDS, self.abort)

    def _stop_header_timer(self) -> None:
        timer = self._idle.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
        self._write_timer = None


def connection_factory() -> Callable[..., Connection]:
    """Return the function that makes the connections of one server, for ``uvicorn.Config(http=…)``."""
    return partial(Connection, OrderedDict[Connection, asyncio.TimerHandle]())


def raise_file_limit(files: int = 2 * MAX_CONNECTIONS) -> None:
    """Let this process open so many files, where its limit is lower and the system permits it."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < files:
            new = files if hard == resource.RLIM_INFINITY else min(files, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (new, hard))
