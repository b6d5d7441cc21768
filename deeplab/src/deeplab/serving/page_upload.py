"""Uploads to the page: the files of a multipart body, written to disk as they arrive, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import IO, TypeVar

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from deeplab.serving.limits import MAX_UPLOAD_FILES, HTTPError, Limits
from deeplab.serving.upload_store import Reservation, UploadStore

HEADER_BYTES = 8000  # maximum size of the headers of one part
PAUSE_SECONDS = 20.0  # maximum time between two pieces of a body
MIN_BYTES_PER_SECOND = 50_000  # a body may take the seconds of any request, and its size divided by this
T = TypeVar("T")


async def save_uploads(request: Request, store: UploadStore, limits: Limits) -> list[Path]:
    """Store the files of a multipart body.

    Args:
        request: request whose body has not been read yet; it must announce its length.
        store: takes the files. If the request is refused half way, the files written so far are deleted.
        limits: ``bytes`` for one file; ``seconds`` for the upload, and more for a longer body.

    Returns:
        A path for each part that has a file name, in the order of the body.

    Raises:
        HTTPError: 400 if the body is cut off or is not valid multipart, 408 if it comes too slowly, 411 if it
            has no length, 413 if it is too large or has too many files, 415 for another content type, 503 or
            507 if there is no space.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise HTTPError(
            415, "content-type", f"got {kind.decode('latin-1')[:80]!r}, wanted multipart/form-data"
        )
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        raise HTTPError(411, "no-length", "got a body of no length, wanted a Content-Length header")
    size = int(length)
    with store.reserve(size) as reservation:
        writer = _FileWriter(options[b"boundary"], reservation, limits)
        try:
            await read_within(_feed(request, writer, size), limits.seconds + size / MIN_BYTES_PER_SECOND)
            return writer.finish()
        except BaseException:
            writer.drop()
            raise


async def read_within(reading: Awaitable[T], seconds: float) -> T:
    """Wait for the reading of a body.

    Args:
        reading: coroutine that reads the body.
        seconds: maximum time.

    Returns:
        The result of ``reading``.

    Raises:
        HTTPError: 408 if it takes longer, 400 if the body ends early.
    """
    try:
        return await asyncio.wait_for(reading, seconds)
    except asyncio.TimeoutError:
        raise HTTPError(408, "slow-upload", "the body came too slowly") from None
    except ClientDisconnect:
        raise HTTPError(400, "cut-off", "the body ended early") from None


async def _feed(request: Request, writer: _FileWriter, max_bytes: int) -> None:
    size = 0
    pieces = request.stream()
    while True:
        try:
            piece = await asyncio.wait_for(anext(pieces), PAUSE_SECONDS)
        except StopAsyncIteration:
            return
        size += len(piece)
        if size > max_bytes:
            raise HTTPError(413, "too-many-bytes", f"got more than the {max_bytes} bytes that were announced")
        writer.write(piece)


class _FileWriter:
    """Writes the files of a multipart body while the body is read."""

    def __init__(self, boundary: bytes, reservation: Reservation, limits: Limits):
        self._reservation = reservation
        self._limits = limits
        self._file: IO[bytes] | None = None
        self._file_size = 0
        self._header_name = b""
        self._header_value = b""
        self._header_size = 0
        self._headers = dict[bytes, bytes]()
        self._complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open_file,
                "on_part_data": self._write_file,
                "on_part_end": self._close_file,
                "on_end": self._end_body,
            },
        )

    def write(self, piece: bytes) -> None:
        """Take a piece of the body; HTTPError if it is too much, or not valid multipart."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            reason = " ".join(str(error).split())[:120]
            raise HTTPError(400, "bad-multipart", f"the multipart body cannot be read ({reason})") from None

    def finish(self) -> list[Path]:
        """Return the files after the last piece of the body; HTTPError if the body is not complete."""
        if not self._complete:
            raise HTTPError(400, "bad-multipart", "the multipart body has no end")
        return self._reservation.paths

    def drop(self) -> None:
        """Delete the files written so far."""
        self._close_file()
        self._reservation.drop()

    def _begin_part(self) -> None:
        self._headers = {}
        self._header_size = 0

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += self._count_header(data[start:end])

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += self._count_header(data[start:end])

    def _count_header(self, data: bytes) -> bytes:
        self._header_size += len(data)
        if self._header_size > HEADER_BYTES:
            raise HTTPError(400, "bad-multipart", f"got part headers of more than {HEADER_BYTES} bytes")
        return data

    def _end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = b""
        self._header_value = b""

    def _open_file(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._file = None
        self._file_size = 0
        if b"filename" not in options:
            return  # a field, not a file; its data is ignored
        if len(self._reservation.paths) == MAX_UPLOAD_FILES:
            raise HTTPError(
                413, "too-many-files", f"got more than {MAX_UPLOAD_FILES} files in one upload, wanted no more"
            )
        name = options[b"filename"].decode("utf-8", "replace")
        self._file = self._reservation.add(name).open("xb")

    def _write_file(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            return
        self._file_size += end - start
        if self._file_size > self._limits.bytes:
            raise HTTPError(413, "too-many-bytes", f"got a file of more than {self._limits.bytes} bytes")
        self._file.write(data[start:end])

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def _end_body(self) -> None:
        self._complete = True
