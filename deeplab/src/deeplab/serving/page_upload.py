"""The page's uploads: the files of a multipart body, written one after another as they come, within
limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import IO, TypeVar

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from deeplab.serving.limits import UPLOAD_FILES, HTTPError, Limits
from deeplab.serving.upload_store import Room, UploadStore

HEADER_BYTES = 8000  # of the headers of one part
QUIET_SECONDS = 20.0  # that may pass between two pieces of a body
SLOWEST = 50_000  # bytes a second, beyond the seconds that any request may take
T = TypeVar("T")


async def stored_files(request: Request, stored: UploadStore, limits: Limits) -> list[Path]:
    """Store the files of a multipart body.

    Args:
        request: whose body has not been read yet; it must say how long it is.
        stored: takes the files; those of a body that is refused half way are removed.
        limits: ``bytes`` of one file; ``seconds``, and more for a longer body.

    Returns:
        A path for each part that has a file name, in their order.

    Raises:
        HTTPError: 400 cut off or bad multipart, 408 too slow, 411 no length, 413 too large or too many, 415
            no multipart, 503 or 507 if there is no room.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise HTTPError(
            415, "content-type", f"got {kind.decode('latin-1')[:80]!r}, wanted multipart/form-data"
        )
    told = request.headers.get("content-length", "")
    if not told.isdigit():
        raise HTTPError(411, "no-length", "got a body of no length, wanted a Content-Length header")
    with stored.room(int(told)) as room:
        files = _Files(options[b"boundary"], room, limits)
        try:
            await timely(_fed(request, files, int(told)), limits.seconds + int(told) / SLOWEST)
            return files.finished()
        except BaseException:
            files.drop()
            raise


async def timely(work: Awaitable[T], seconds: float) -> T:
    """What reads a body, or HTTPError 408 if it takes longer, 400 if the body ends early."""
    try:
        return await asyncio.wait_for(work, seconds)
    except asyncio.TimeoutError:
        raise HTTPError(408, "slow-upload", "the body came too slowly") from None
    except ClientDisconnect:
        raise HTTPError(400, "cut-off", "the body ended early") from None


async def _fed(request: Request, files: _Files, most: int) -> None:
    size, pieces = 0, request.stream()
    while True:
        try:
            piece = await asyncio.wait_for(anext(pieces), QUIET_SECONDS)
        except StopAsyncIteration:
            return
        size += len(piece)
        if size > most:
            raise HTTPError(413, "too-many-bytes", f"got more than the {most} bytes that were announced")
        files.take(piece)


class _Files:
    """The files of a multipart body, written as it is taken."""

    def __init__(self, boundary: bytes, room: Room, limits: Limits):
        self._room, self._limits = room, limits
        self._file: IO[bytes] | None = None
        self._size = 0
        self._name, self._value, self._headers = b"", b"", dict[bytes, bytes]()
        self._header_size, self._ended = 0, False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._field,
                "on_header_value": self._text,
                "on_header_end": self._header,
                "on_headers_finished": self._open,
                "on_part_data": self._write,
                "on_part_end": self._close,
                "on_end": self._end,
            },
        )

    def take(self, piece: bytes) -> None:
        """A piece of the body; HTTPError if it is too much, or no multipart."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            reason = " ".join(str(error).split())[:120]
            raise HTTPError(400, "bad-multipart", f"the multipart body cannot be read ({reason})") from None

    def finished(self) -> list[Path]:
        """The files, once the whole body has been taken."""
        if not self._ended:
            raise HTTPError(400, "bad-multipart", "the multipart body has no end")
        return self._room.paths

    def drop(self) -> None:
        """Remove what was written."""
        self._close()
        self._room.drop()

    def _begin(self) -> None:
        self._headers, self._header_size = {}, 0

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += self._bounded(data[start:end])

    def _text(self, data: bytes, start: int, end: int) -> None:
        self._value += self._bounded(data[start:end])

    def _bounded(self, data: bytes) -> bytes:
        self._header_size += len(data)
        if self._header_size > HEADER_BYTES:
            raise HTTPError(400, "bad-multipart", f"got part headers of more than {HEADER_BYTES} bytes")
        return data

    def _header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._file, self._size = None, 0
        if b"filename" not in options:
            return  # a field that is no file; it is read over
        if len(self._room.paths) == UPLOAD_FILES:
            raise HTTPError(
                413, "too-many-files", f"got more than {UPLOAD_FILES} files in one upload, wanted no more"
            )
        self._file = self._room.add(options[b"filename"].decode("utf-8", "replace")).open("xb")

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            return
        self._size += end - start
        if self._size > self._limits.bytes:
            raise HTTPError(413, "too-many-bytes", f"got a file of more than {self._limits.bytes} bytes")
        self._file.write(data[start:end])

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def _end(self) -> None:
        self._ended = True
