"""A progress bar in the terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

WIDTH = 30
"""Of the bar, in characters."""


class ProgressBar:
    """A bar on one line of a terminal; nothing is written anywhere else.

    Args:
        total: number of items.
        stream: where to write; by default the standard error stream.
    """

    def __init__(self, total: int, stream: TextIO | None = None):
        self._total = total
        self._done = 0
        self._stream = sys.stderr if stream is None else stream
        self._is_shown = self._stream.isatty()
        self._start = time.monotonic()

    def __enter__(self) -> ProgressBar:
        self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_shown:
            self._stream.write("\n")

    def advance(self) -> None:
        """Count one more item."""
        self._done += 1
        self._draw()

    def print(self, line: str) -> None:
        """Write a line above the bar."""
        self._stream.write(f"\r\033[K{line}\n" if self._is_shown else f"{line}\n")
        self._draw()

    def _draw(self) -> None:
        if not self._is_shown:
            return
        filled = WIDTH * self._done // max(1, self._total)
        seconds = time.monotonic() - self._start
        left = f", {seconds / self._done * (self._total - self._done):.0f} s left" if self._done else ""
        self._stream.write(
            f"\r\033[K[{'#' * filled}{'.' * (WIDTH - filled)}] {self._done}/{self._total}{left}"
        )
        self._stream.flush()
