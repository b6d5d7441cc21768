"""Signals that ask a training run to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop and did so between two steps, with everything on disk."""


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the signals that ask the run to stop, Ctrl-C and SIGTERM; a second one interrupts at once.

    Yields:
        A list that receives the number of the first signal.
    """
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread receives signals
        previous = {}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
