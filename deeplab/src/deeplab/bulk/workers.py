"""Many photos at once on one machine: lanes, each of which takes one photo after the other all the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import torch
from PIL import Image

from deeplab.bulk.jobs import Job, Outcome
from densecrf import memory
from densecrf.threads import processors as usable_processors
from densecrf.threads import whole_number

MOST_LANES = (
    8  # PNG encoding holds Python's lock for 3 % of a photo's time (fp32) to 10 % (bf16): more would wait
)
BYTES_A_PIXEL = 1500  # the CRF's 1,200, the photo, its probabilities and its pictures; 21 classes
SHARE_OF_MEMORY = 0.6  # of what is free, that all photos in work may take
SECONDS_TO_GIVE_BACK = 1.0  # from one return of freed memory to the next, which takes some 10 ms
PIXELS_WITHOUT_A_WORD = 16_000_000  # at once, where the system does not say what is free

Work = Callable[[Job, int], Outcome]


@dataclass(frozen=True)
class Workers:
    """How a machine's processors are shared among photos."""

    count: int
    """Photos in work at a time."""
    threads: int
    """For each of them."""

    @classmethod
    def of(cls, photos: int, *, processors: int | None = None, count: int | None = None) -> Workers:
        """A lane with one thread for each processor, but no more than MOST_LANES or photos; the rest become
        threads.

        Workers decode, look, refine and write at different times, so all steps overlap, and the steps that
        have but one thread (decoding, encoding) stop nobody else: two stages of two threads each would wait
        for them.

        Args:
            photos: how many there are.
            processors: by default as many as this process may run on.
            count: of lanes, where it is not to be chosen here.

        Raises:
            ValueError: for fewer than one lane.
        """
        processors = (
            usable_processors() if processors is None else whole_number("processors", processors, least=1)
        )
        if count is not None and count < 1:
            raise ValueError(f"got {count} lanes, wanted at least 1")
        count = max(1, min(count or min(processors, MOST_LANES), photos))
        return cls(count, max(1, processors // count))


class MemoryLimiter:
    """Lets photos in, in the order they come, while all inside have no more pixels than a limit; a larger one
    alone."""

    def __init__(self, most: int):
        self._most, self._inside, self._photos = most, 0, 0
        self.largest = 0
        """The most pixels that were inside at a time."""
        self._turn, self._change = threading.Lock(), threading.Condition()

    @contextmanager
    def admit(self, pixels: int) -> Iterator[bool]:
        """Wait until there is room, and be inside for the block; gives whether the photo is alone for its
        size."""
        with self._turn, self._change:
            self._change.wait_for(lambda: self._photos == 0 or self._inside + pixels <= self._most)
            self._inside, self._photos = self._inside + pixels, self._photos + 1
            self.largest = max(self.largest, self._inside)
        try:
            yield pixels > self._most
        finally:
            with self._change:
                self._inside, self._photos = self._inside - pixels, self._photos - 1
                self._change.notify()


def limiter_for(free: int | None) -> MemoryLimiter:
    """A gate for so many bytes of free memory; None where the system does not say."""
    return MemoryLimiter(
        PIXELS_WITHOUT_A_WORD if free is None else int(SHARE_OF_MEMORY * free / BYTES_A_PIXEL)
    )


def run(
    jobs: Iterable[Job],
    work: Work,
    note: Callable[[Outcome], object],
    *,
    lanes: Workers,
    gate: MemoryLimiter | None = None,
) -> None:
    """Do all jobs in lanes; ``note`` is told of each as it ends, in any order, in the caller's thread.

    Memory is bounded by the lanes and the gate, whatever the number of jobs, which are taken as they are
    needed.

    Args:
        jobs: what to do.
        work: does one job with so many threads for the CRF; torch's own number is set here.
        note: called with what ``work`` returned.
        lanes: how many at a time.
        gate: by default for the memory that is free now.

    Raises:
        Whatever ``work`` or ``note`` raises, and KeyboardInterrupt: once the photos in work are done and
        noted.
    """
    gate = gate or limiter_for(memory.available())
    remaining, lock, stop = iter(jobs), threading.Lock(), threading.Event()
    ended: SimpleQueue[Outcome | BaseException | None] = SimpleQueue()  # None: a lane has nothing more to do

    def lane() -> None:
        given_back = time.monotonic()
        try:
            torch.set_num_threads(lanes.threads)  # of this thread
            while True:
                with lock:
                    job = None if stop.is_set() else next(remaining, None)
                if job is None:
                    break
                with gate.admit(_pixels(job.photo)) as alone:
                    if stop.is_set():
                        break
                    threads = lanes.threads * lanes.count if alone else lanes.threads
                    torch.set_num_threads(threads)
                    outcome = work(job, threads)
                ended.put(outcome)
                if time.monotonic() - given_back > SECONDS_TO_GIVE_BACK:
                    memory.give_back()
                    given_back = time.monotonic()
        except BaseException as error:
            ended.put(error)
        finally:
            ended.put(None)

    threads = [threading.Thread(target=lane, name=f"lane {number}") for number in range(lanes.count)]
    before = torch.get_num_threads()
    for thread in threads:
        thread.start()
    try:
        working = lanes.count
        while working:
            match ended.get():
                case None:
                    working -= 1
                case BaseException() as error:
                    raise error
                case outcome:
                    note(outcome)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        torch.set_num_threads(before)  # threads that are made later begin with the number set last
        with suppress(Empty, OSError):
            while True:
                if isinstance(left := ended.get_nowait(), Outcome):
                    note(left)


def _pixels(photo: Path) -> int:
    """From the head of the file; 0 for one that cannot be read, as whoever reads it will say why."""
    try:
        with Image.open(photo) as image:
            return image.width * image.height
    except Exception:  # decoders of damaged files raise whatever they like
        return 0
