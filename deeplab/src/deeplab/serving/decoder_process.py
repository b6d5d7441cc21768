"""Processes that decode untrusted pictures, so that one that hangs, crashes or grows can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from typing import IO

import numpy as np

from deeplab.serving.decode import ERROR, ERROR_TAG, PHOTO, READY, REQUEST
from deeplab.serving.limits import HTTPError, Limits

PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from deeplab.serving.decode import main; main()"
START_SECONDS = 60.0  # maximum time until a process is ready
DECODE_SECONDS = 20.0  # maximum time for one picture
LARGE_PIXELS = 8_000_000  # after a larger picture a process is ended, so that its memory is free again

Process = subprocess.Popen[bytes]


class DecoderPool:
    """Decodes pictures in other processes; each thread that asks at the same time gets its own.

    Args:
        seconds: maximum time for one picture.
    """

    def __init__(self, seconds: float = DECODE_SECONDS):
        self._seconds = seconds
        self._lock = threading.Lock()
        self._idle = list[Process]()
        self._processes = set[Process]()
        self._finalizer = weakref.finalize(self, _kill_all, self._processes)

    def __enter__(self) -> DecoderPool:
        """Start the first process before the first picture comes; the end of the block ends all processes."""
        self._put_back(self._take())
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def processes(self) -> frozenset[Process]:
        """The processes that run now."""
        with self._lock:
            return frozenset(self._processes)

    def end(self) -> None:
        """End the processes; pictures being decoded get an error. Later pictures start new processes."""
        with self._lock:
            self._idle.clear()
            _kill_all(self._processes)

    def photo(
        self, content: bytes, limits: Limits, max_pixels: int = 0
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """Decode a photo and turn it upright.

        Args:
            content: bytes of the file.
            limits: ``decoded_pixels`` is the maximum number of pixels; ``seconds`` is the maximum time, if it
                is less than that of the pool.
            max_pixels: number of pixels to which a larger photo is shrunk; 0 for no shrinking.

        Returns:
            (H, W, 3) uint8, R, G, B, and the height and width before shrinking.

        Raises:
            HTTPError: see ``photo_from_bytes``; also 422 if decoding takes too long or crashes.
        """
        seconds = min(self._seconds, limits.seconds)
        process = self._take()
        reuse = False
        deadline = _Deadline(process, seconds)
        try:
            answer = _request(process, content, limits.decoded_pixels, max_pixels)
            reuse = True
            if isinstance(answer, HTTPError):
                raise answer
            _, (height, width) = answer
            reuse = height * width <= LARGE_PIXELS
            return answer
        except (OSError, EOFError, ValueError):  # the process has closed its pipes
            if deadline.stop():
                raise HTTPError(
                    422,
                    "slow-decode",
                    f"the picture was not decoded within {seconds:g} seconds; smaller, or "
                    "saved anew, it is faster",
                ) from None
            raise HTTPError(422, "damaged", "the picture crashes its decoder") from None
        finally:
            if deadline.stop() or not reuse:
                self._drop(process)
            else:
                self._put_back(process)

    def _take(self) -> Process:
        """An idle process, or a new one if there is none."""
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.poll() is None:
                    return process
                self._kill(process)
        return self._start()

    def _start(self) -> Process:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal does not reach it
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        with self._lock:
            self._processes.add(process)
        deadline = _Deadline(process, START_SECONDS)
        try:
            assert process.stdout is not None
            _read_exactly(process.stdout, len(READY))
        except (OSError, EOFError, ValueError):
            self._drop(process)
            raise HTTPError(
                503, "no-decoder", "no process for decoding can be started", retry_after=5
            ) from None
        finally:
            deadline.stop()
        return process

    def _put_back(self, process: Process) -> None:
        with self._lock:
            if process in self._processes:
                self._idle.append(process)

    def _drop(self, process: Process) -> None:
        with self._lock:
            self._kill(process)

    def _kill(self, process: Process) -> None:
        self._processes.discard(process)
        _kill(process)


class _Deadline:
    """Kills a process after some seconds, unless ``stop`` is called before."""

    def __init__(self, process: Process, seconds: float):
        self._process = process
        self._lock = threading.Lock()
        self._killed = False
        self._stopped = False
        self._timer = threading.Timer(seconds, self._kill)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> bool:
        """Stop the timer; return whether it has already killed the process."""
        self._timer.cancel()
        with self._lock:
            self._stopped = True
            return self._killed

    def _kill(self) -> None:
        with self._lock:
            if not self._stopped:
                self._killed = True
                self._process.kill()


def _request(
    process: Process, content: bytes, max_pixels: int, shrink_to: int
) -> tuple[np.ndarray, tuple[int, int]] | HTTPError:
    """Send a picture to a process and read its answer; EOFError or OSError if the process ends."""
    source = process.stdout
    sink = process.stdin
    assert source is not None
    assert sink is not None
    sink.write(REQUEST.pack(len(content), max_pixels, shrink_to))
    sink.write(content)
    sink.flush()
    if _read_exactly(source, 1) == ERROR_TAG:
        status, size = ERROR.unpack(_read_exactly(source, ERROR.size))
        kind, _, detail = _read_exactly(source, size).decode("utf-8", "replace").partition("\n")
        return HTTPError(status, kind, detail, retry_after=5 if status == 503 else None)
    height, width, rows, columns = PHOTO.unpack(_read_exactly(source, PHOTO.size))
    if rows * columns > max_pixels:
        raise EOFError  # the process does not keep to the protocol
    photo = np.empty((rows, columns, 3), np.uint8)
    rest = memoryview(photo.data).cast("B")
    while rest:
        size = source.readinto(rest)  # type: ignore[attr-defined]
        if not size:
            raise EOFError
        rest = rest[size:]
    return photo, (height, width)


def _read_exactly(source: IO[bytes], size: int) -> bytes:
    content = source.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _kill_all(processes: set[Process]) -> None:
    while processes:
        _kill(processes.pop())


def _kill(process: Process) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # bytes that could not be written any more
            if pipe is not None:
                pipe.close()
    process.wait()
