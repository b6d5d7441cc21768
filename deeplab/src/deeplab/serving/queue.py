"""The work queue of a server: a few worker threads and a bounded number of waiting requests."""

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
    """Worker threads with a bounded queue, so that the memory of a server is bounded too.

    ``anyio.CapacityLimiter`` would not replace it: that bounds how many jobs run, but neither how many wait
    nor for how long, and it gives no estimate for Retry-After.

    Args:
        workers: number of jobs that run at a time.
        waiting: maximum number of jobs that wait.
    """

    def __init__(self, workers: int = 1, waiting: int = 16):
        self._workers = workers
        self._capacity = workers + waiting
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._occupied = 0
        self._running = 0
        self._last_seconds = 1.0

    def __enter__(self) -> WorkQueue:
        """Start the threads. The end of the block waits for running jobs and drops waiting ones."""
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="deeplab")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._pool is not None
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    @property
    def running(self) -> int:
        """Number of jobs that are running."""
        return self._running

    @property
    def waiting(self) -> int:
        """Number of slots whose job is not running yet, including requests that are still being uploaded."""
        return max(0, self._occupied - self._running)

    @property
    def retry_after(self) -> int:
        """Estimated time in seconds until the queue is empty."""
        return max(1, math.ceil(self._last_seconds * self._occupied / self._workers))

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """Occupy a slot of the queue; do this before the body of a request is read.

        The slot is free again at the end of the block. If a job is still running then, it is free when that
        job has ended.

        Raises:
            HTTPError: 503 if the queue is full.
        """
        with self._lock:
            if self._occupied >= self._capacity:
                raise HTTPError(
                    503,
                    "busy",
                    f"{self._capacity} photos are being worked on or wait; try again",
                    retry_after=self.retry_after,
                )
            self._occupied += 1
        slot = Slot(self)
        try:
            yield slot
        finally:
            if slot.job is None:
                self._free()
            else:
                slot.job.cancel()  # has no effect on a job that is running or done
                slot.job.add_done_callback(self._free)

    def _free(self, _: Future[Any] | None = None) -> None:
        with self._lock:
            self._occupied -= 1

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Hand a job to the threads.

        Raises:
            HTTPError: 503 if the threads do not run, because the server is stopping.
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


class Slot:
    """A slot of the queue, for one job."""

    def __init__(self, queue: WorkQueue):
        self._queue = queue
        self.job: Future[Any] | None = None

    async def run(self, work: Callable[[], T], *, seconds: float) -> T:
        """Wait for a worker thread, run a job on it, and return the result of the job.

        Args:
            work: function without arguments; what it raises is raised here.
            seconds: maximum time for waiting and work together.

        Returns:
            The result of ``work``.

        Raises:
            HTTPError: 503 if the job has not started in time, 504 if it has. A thread cannot be stopped, so
                a job that has started runs to its end and occupies its slot until then.
        """
        job = self.job = self._queue.submit(work)
        waiter = asyncio.wrap_future(job)
        await asyncio.wait({waiter}, timeout=seconds)
        if waiter.done():
            if waiter.cancelled():
                raise HTTPError(503, "stopping", "the server stops; try again", retry_after=5)
            return waiter.result()
        if job.cancel():
            raise HTTPError(
                503, "busy", "no worker was free in time; try again", retry_after=self._queue.retry_after
            )
        # Nobody reads the result any more; an exception in it must still be retrieved, or asyncio logs it.
        waiter.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise HTTPError(504, "too-slow", "the photo took too long; a smaller one, or crf=false, is faster")
