"""A few threads that do the work of a server, and a line of bounded length before them."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from deeplab.serving.limits import HTTPError
from densecrf import memory

T = TypeVar("T")


class WorkQueue:
    """Threads and the line before them: what runs and what waits is bounded, and so is memory.

    Args:
        workers: jobs done at a time.
        waiting: jobs that may wait.
    """

    def __init__(self, workers: int = 1, waiting: int = 16):
        self._workers, self._places = workers, workers + waiting
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._taken = self._running = 0
        self._last_seconds = 1.0

    def __enter__(self) -> WorkQueue:
        """Open; jobs are taken until the end of the block, which waits for those that run and drops those
        that wait."""
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="deeplab")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._pool is not None
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    @property
    def running(self) -> int:
        """Jobs that are being done."""
        return self._running

    @property
    def waiting(self) -> int:
        """Places taken by what is not being done yet; what is still being uploaded is counted."""
        return max(0, self._taken - self._running)

    @contextmanager
    def place(self) -> Iterator[Place]:
        """A place in the line, to be taken before a request's body is read.

        It is given up at the end of the block, or when a job that was left behind really ends.

        Raises:
            HTTPError: 503 if there is none.
        """
        with self._lock:
            if self._taken >= self._places:
                raise HTTPError(
                    503,
                    "busy",
                    f"{self._places} photos are being worked on or wait; try again",
                    retry_after=self._patience(),
                )
            self._taken += 1
        mine = Place(self)
        try:
            yield mine
        finally:
            if mine.job is None:
                self._leave()
            else:
                mine.job.cancel()  # does nothing to one that runs or is done
                mine.job.add_done_callback(self._leave)

    def _leave(self, _: Future[Any] | None = None) -> None:
        with self._lock:
            self._taken -= 1

    def _patience(self) -> int:
        """Seconds until the line is likely to be empty."""
        return max(1, math.ceil(self._last_seconds * self._taken / self._workers))

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Hand a job to the threads.

        Raises:
            HTTPError: 503 if they are not open: the server stops.
        """
        stopping = HTTPError(503, "stopping", "the server stops; try again", retry_after=5)
        if self._pool is None:
            raise stopping

        def timed() -> T:
            with self._lock:
                self._running += 1
            started = time.monotonic()
            try:
                return work()
            finally:
                memory.give_back()
                with self._lock:
                    self._running -= 1
                    self._last_seconds = time.monotonic() - started

        try:
            return self._pool.submit(timed)
        except RuntimeError:
            raise stopping from None


class Place:
    """A place in the line; one job may be run from it."""

    def __init__(self, workers: WorkQueue):
        self._workers = workers
        self.job: Future[Any] | None = None

    async def run(self, work: Callable[[], T], *, seconds: float) -> T:
        """Wait in line, do a job on a thread, and return its result.

        Args:
            work: takes nothing; what it raises is raised here.
            seconds: waiting and work together.

        Raises:
            HTTPError: 503 if the job has not begun by then, 504 if it has. A job that has begun goes on to
                its end and keeps its place so long: threads cannot be stopped, and no more of them may run
                than were asked for.
        """
        job = self.job = self._workers.submit(work)
        waiter = asyncio.wrap_future(job)
        await asyncio.wait({waiter}, timeout=seconds)
        if waiter.done():
            if waiter.cancelled():
                raise HTTPError(503, "stopping", "the server stops; try again", retry_after=5)
            return waiter.result()
        if job.cancel():
            raise HTTPError(
                503, "busy", "no worker came free in time; try again", retry_after=self._workers._patience()
            )
        waiter.add_done_callback(
            lambda ended: ended.cancelled() or ended.exception()
        )  # nobody else will look
        raise HTTPError(504, "too-slow", "the photo took too long; a smaller one, or crf=false, is faster")
