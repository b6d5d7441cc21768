"""Connections of a server: those that ask for nothing, or take nothing, are closed, and their number is
bounded."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = (
    10.0  # from a connection, or from the end of an answer, to the end of the next request's headers
)
TAKING_SECONDS = 60.0  # that a client may leave an answer unread
MOST_IDLE, MOST = 100, 512  # connections without a request, and all of them


class Connection(H11Protocol):
    """A connection as uvicorn has it, that is closed when it is idle.

    uvicorn itself waits for the first request, and for one that has begun, for ever.

    Args:
        waiting: those of the same server that wait for a request, with what will close them.
        rest: as of ``H11Protocol``.
    """

    def __init__(self, waiting: OrderedDict[Connection, asyncio.TimerHandle], **rest: Any):
        super().__init__(**rest)
        self._waiting = waiting
        self._taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request; of too many that do, the first gives way."""
        super().connection_made(transport)
        self._expect()
        if len(self._waiting) > MOST_IDLE or (len(self.connections) > MOST and len(self._waiting) > 1):
            next(iter(self._waiting)).abort()
        elif len(self.connections) > MOST:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._expect_no_more()
        self._taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A piece of a request; its headers must end in time, however often a piece comes."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """The next request may come."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """The client does not take the answer as fast as it is made."""
        super().pause_writing()
        self._taken()
        self._taking = self.loop.call_later(TAKING_SECONDS, self.abort)

    def resume_writing(self) -> None:
        """It does again."""
        self._taken()
        super().resume_writing()

    def abort(self) -> None:
        """Close at once."""
        self._expect_no_more()
        self.transport.abort()

    def _look(self) -> None:
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            self._expect_no_more()
        else:
            self._expect()

    def _expect(self) -> None:
        if self not in self._waiting:
            self._waiting[self] = self.loop.call_later(HEADER_SECONDS, self.abort)

    def _expect_no_more(self) -> None:
        timer = self._waiting.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _taken(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
        self._taking = None


def connections() -> Callable[..., Connection]:
    """What makes the connections of one server, for ``uvicorn.Config(http=…)``."""
    return partial(Connection, OrderedDict[Connection, asyncio.TimerHandle]())


def allow_many_files(wanted: int = 2 * MOST) -> None:
    """Raise the number of files that this process may have open, where it is lower and the system lets it."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            enough = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
