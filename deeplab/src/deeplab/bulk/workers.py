"""Segments many photos at once on one machine: each worker thread takes one photo after another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import torch

from deeplab.bulk.jobs import Job, Outcome
from deeplab.bulk.memory_limiter import CRF_BYTES_PER_PIXEL, MemoryLimiter, image_size, limiter_for
from densecrf import memory
from densecrf.threads import processors as usable_processors
from densecrf.threads import whole_number

MAX_WORKERS = 8
"""Most workers that are chosen by default.

PNG encoding holds Python's lock for 3 % of a photo's time (fp32) to 10 % (bf16), so that more would wait.
"""
GIVE_BACK_SECONDS = 1.0
"""Seconds between two returns of freed memory to the system; each takes about 10 ms."""

Work = Callable[[Job, int], Outcome]
"""Does one job with a number of threads for the CRF."""


@dataclass(frozen=True)
class Workers:
    """How the processors of a machine are shared among photos."""

    count: int
    """Number of photos in work at the same time."""
    threads: int
    """Number of threads for each of them."""

    @classmethod
    def of(cls, photos: int, *, processors: int | None = None, count: int | None = None) -> Workers:
        """Choose one worker with one thread for each processor, at most ``MAX_WORKERS`` and one a photo.

        Further processors become threads. Workers decode, run the network and the CRF, and write at different
        times, so all steps overlap, and the steps that have one thread only (decoding, encoding) delay
        nobody. A pipeline of two stages with two threads each would wait for them.

        Args:
            photos: number of photos.
            processors: number of processors; by default those that this process may use.
            count: number of workers; by default it is chosen.

        Raises:
            ValueError: if ``processors`` or ``count`` is less than one.
        """
        if processors is None:
            processors = usable_processors()
        else:
            processors = whole_number("processors", processors, least=1)
        if count is not None and count < 1:
            raise ValueError(f"got {count} workers (--lanes), wanted at least 1")
        count = max(1, min(count or min(processors, MAX_WORKERS), photos))
        return cls(count, max(1, processors // count))


def crf_bytes(job: Job) -> int:
    """Memory in bytes that a photo takes with the CRF and 21 classes."""
    height, width = image_size(job.photo)
    return height * width * CRF_BYTES_PER_PIXEL


def run(
    jobs: Iterable[Job],
    work: Work,
    callback: Callable[[Outcome], object],
    *,
    workers: Workers,
    limiter: MemoryLimiter | None = None,
    memory_of: Callable[[Job], int] = crf_bytes,
) -> None:
    """Do all jobs in worker threads.

    Memory is bounded by the limiter and the number of workers, whatever the number of jobs: an iterator of
    jobs is advanced only as they are needed.

    Args:
        jobs: what to do.
        work: does one job; torch's own number of threads is set before the call.
        callback: called with each outcome in the caller's thread, as soon as it is there, in any order.
        workers: number of workers and of threads for each.
        limiter: bounds the memory of the photos in work; by default for the memory that is free now.
        memory_of: estimates the bytes that a job takes.

    Raises:
        Exception: whatever ``work`` or ``callback`` raises, and KeyboardInterrupt; jobs in work are completed
            and passed to the callback first.
    """
    limiter = limiter or limiter_for(memory.available())
    pool = _Pool(jobs, work, workers, limiter, memory_of)
    torch_threads = torch.get_num_threads()
    pool.start()
    try:
        for outcome in pool.outcomes():
            callback(outcome)
    finally:
        pool.stop()
        torch.set_num_threads(torch_threads)  # threads that start later inherit the number that was set last
        with suppress(OSError):
            for outcome in pool.remaining_outcomes():
                callback(outcome)


class _Pool:
    """Worker threads that put outcomes into a queue; an exception of a worker goes through the same queue."""

    def __init__(
        self,
        jobs: Iterable[Job],
        work: Work,
        workers: Workers,
        limiter: MemoryLimiter,
        memory_of: Callable[[Job], int],
    ):
        self._jobs = iter(jobs)
        self._jobs_lock = threading.Lock()
        self._work = work
        self._workers = workers
        self._limiter = limiter
        self._memory_of = memory_of
        self._stop = threading.Event()
        # None is the last item of each worker.
        self._queue: SimpleQueue[Outcome | BaseException | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work_on_jobs, name=f"deeplab worker {number}")
            for number in range(workers.count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Start no further job, and wait until those in work are done."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def outcomes(self) -> Iterator[Outcome]:
        """Yield outcomes until all workers are done; raise the first exception of a worker."""
        running = len(self._threads)
        while running:
            match self._queue.get():
                case None:
                    running -= 1
                case BaseException() as error:
                    raise error
                case outcome:
                    yield outcome

    def remaining_outcomes(self) -> Iterator[Outcome]:
        """Yield what is still in the queue after ``stop``."""
        with suppress(Empty):
            while True:
                item = self._queue.get_nowait()
                if isinstance(item, Outcome):
                    yield item

    def _work_on_jobs(self) -> None:
        """What one thread does."""
        given_back = time.monotonic()
        try:
            torch.set_num_threads(self._workers.threads)  # applies to this thread
            while (job := self._next_job()) is not None:
                outcome = self._do(job)
                if outcome is None:
                    break
                self._queue.put(outcome)
                if time.monotonic() - given_back > GIVE_BACK_SECONDS:
                    memory.give_back()
                    given_back = time.monotonic()
        except BaseException as error:
            self._queue.put(error)
        finally:
            self._queue.put(None)

    def _next_job(self) -> Job | None:
        with self._jobs_lock:
            return None if self._stop.is_set() else next(self._jobs, None)

    def _do(self, job: Job) -> Outcome | None:
        """Do a job once its memory is free, with all processors if it is alone; None after ``stop``."""
        with self._limiter.admit(self._memory_of(job)) as is_alone:
            if self._stop.is_set():
                return None
            threads = self._workers.threads * (self._workers.count if is_alone else 1)
            torch.set_num_threads(threads)
            return self._work(job, threads)
