"""Processes that decode the pictures of strangers, so that one that hangs, crashes or swells can be ended."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from typing import IO

import numpy as np

from deeplab.serving.decode import PHOTO, READY, REFUSAL, REQUEST
from deeplab.serving.limits import HTTPError, Limits

PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from deeplab.serving.decode import main; main()"
START_SECONDS = 60.0  # until a process is ready
SECONDS = 20.0  # that one picture may take
LARGE = 8_000_000  # pixels; after such a picture a process is ended, which gives its memory back


class Decoder:
    """Decodes pictures in other processes, as many as threads ask at a time; each is used again, or ended.

    Args:
        seconds: that one picture may take.
    """

    def __init__(self, seconds: float = SECONDS):
        self._seconds, self._lock = seconds, threading.Lock()
        self._idle, self._every = list[subprocess.Popen[bytes]](), set[subprocess.Popen[bytes]]()
        self._finalizer = weakref.finalize(self, _end_all, self._every)

    def __enter__(self) -> Decoder:
        """Start the first process, so that it is there when the first picture comes; the end of the block
        ends all."""
        self._give_back(self._take())
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the processes; what they were decoding is refused. Others are started if pictures come
        again."""
        with self._lock:
            self._idle.clear()
            _end_all(self._every)

    def photo(self, content: bytes, limits: Limits, most: int = 0) -> tuple[np.ndarray, tuple[int, int]]:
        """A photo from the bytes of its file, upright.

        Args:
            content: the file.
            limits: ``decoded_pixels`` at most are decoded; ``seconds`` at most are taken, if fewer than the
                decoder's own.
            most: pixels to shrink it to, if it has more; 0 for all of them.

        Returns:
            (H, W, 3) uint8, R, G, B, and the height and width before it was shrunk.

        Raises:
            HTTPError: as of ``photo_from_bytes``; 422 if it takes too long, or its decoder crashed.
        """
        process, seconds, large = self._take(), min(self._seconds, limits.seconds), False
        deadline = _Deadline(process, seconds)
        try:
            answer = _asked(process, content, limits.decoded_pixels, most)
            if isinstance(answer, HTTPError):
                raise answer
            large = answer[1][0] * answer[1][1] > LARGE
            return answer
        except (OSError, EOFError, ValueError):  # its pipes are closed
            large = True
            if deadline.over():
                raise HTTPError(
                    422,
                    "slow-decode",
                    f"the picture was not decoded within {seconds:g} seconds; smaller, or "
                    "saved anew, it is faster",
                ) from None
            raise HTTPError(422, "damaged", "the picture ends its decoder") from None
        finally:
            if deadline.over() or large:
                self._drop(process)
            else:
                self._give_back(process)

    def _take(self) -> subprocess.Popen[bytes]:
        """A process that is ready; a new one if there is none."""
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.poll() is None:
                    return process
                self._forget(process)
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not for it
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        with self._lock:
            self._every.add(process)
        deadline = _Deadline(process, START_SECONDS)
        try:
            assert process.stdout is not None
            _exactly(process.stdout, len(READY))
        except (OSError, EOFError, ValueError):
            self._drop(process)
            raise HTTPError(
                503, "no-decoder", "no process for decoding can be started", retry_after=5
            ) from None
        finally:
            deadline.over()
        return process

    def _give_back(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            if process in self._every:
                self._idle.append(process)

    def _drop(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._forget(process)

    def _forget(self, process: subprocess.Popen[bytes]) -> None:
        self._every.discard(process)
        _end(process)


class _Deadline:
    """Kills a process after some seconds, unless ``over`` is asked before."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float):
        self._process, self._lock, self._over, self._asked = process, threading.Lock(), False, False
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def over(self) -> bool:
        """Whether it has killed the process; if not, it will not any more."""
        self._timer.cancel()
        with self._lock:
            self._asked = True
            return self._over

    def _end(self) -> None:
        with self._lock:
            if not self._asked:
                self._over = True
                self._process.kill()


def _asked(
    process: subprocess.Popen[bytes], content: bytes, pixels: int, most: int
) -> tuple[np.ndarray, tuple[int, int]] | HTTPError:
    """The answer of a process; EOFError or OSError if it ends meanwhile."""
    source, sink = process.stdout, process.stdin
    assert source is not None
    assert sink is not None
    sink.write(REQUEST.pack(len(content), pixels, most))
    sink.write(content)
    sink.flush()
    if _exactly(source, 1) == b"R":
        status, size = REFUSAL.unpack(_exactly(source, REFUSAL.size))
        kind, _, detail = _exactly(source, size).decode("utf-8", "replace").partition("\n")
        return HTTPError(status, kind, detail, retry_after=5 if status == 503 else None)
    height, width, rows, columns = PHOTO.unpack(_exactly(source, PHOTO.size))
    if rows * columns > pixels:
        raise EOFError  # no honest answer
    photo = np.empty((rows, columns, 3), np.uint8)
    rest = memoryview(photo.data).cast("B")
    while rest:
        size = source.readinto(rest)  # type: ignore[attr-defined]
        if not size:
            raise EOFError
        rest = rest[size:]
    return photo, (height, width)


def _exactly(source: IO[bytes], size: int) -> bytes:
    content = source.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _end_all(processes: set[subprocess.Popen[bytes]]) -> None:
    while processes:
        _end(processes.pop())


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what could not be written any more
            if pipe is not None:
                pipe.close()
    process.wait()
