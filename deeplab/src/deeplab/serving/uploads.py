"""The photo in a request to the HTTP API, read into memory within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from deeplab.serving.limits import HTTPError, Limits

FIELD = "file"  # name of the part that holds the photo in a multipart body


async def photo_bytes(request: Request, limits: Limits, *, seconds: float) -> bytes:
    """Read the photo of a request into memory: the body itself, or the part ``file`` of a multipart body.

    Args:
        request: request whose body has not been read yet.
        limits: ``bytes`` is the maximum size of the body.
        seconds: maximum time for the upload.

    Returns:
        The bytes of the photo's file.

    Raises:
        HTTPError: 400 if the body is cut off or is not valid multipart, 408 if it comes too slowly, 413 if it
            is too large, 415 for another content type, 422 if there is no file.
    """
    kind = request.headers.get("content-type", "application/octet-stream").split(";")[0].strip().lower()
    if not (kind.startswith("image/") or kind in ("application/octet-stream", "multipart/form-data")):
        raise HTTPError(
            415,
            "content-type",
            f"got {kind[:80]}, wanted multipart/form-data with a part {FIELD!r}, or the photo "
            "itself as image/jpeg, image/png … or application/octet-stream",
        )
    try:
        body = await asyncio.wait_for(_read_body(request, limits.bytes), seconds)
    except asyncio.TimeoutError:
        raise HTTPError(408, "slow-upload", f"the body did not arrive within {seconds:.0f} seconds") from None
    except ClientDisconnect:
        raise HTTPError(400, "cut-off", "the body ended early") from None
    if kind == "multipart/form-data":
        body = await _read_part(request, body)
    if not body:
        raise HTTPError(422, "no-photo", "got an empty body, wanted a photo")
    return body


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body; HTTPError as soon as it is, or announces that it is, larger than ``max_bytes``."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise HTTPError(413, "too-many-bytes", f"got {length[:20]} bytes, wanted at most {max_bytes}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise HTTPError(
                413, "too-many-bytes", f"got more than {max_bytes} bytes, wanted at most {max_bytes}"
            )
    return bytes(body)


async def _read_part(request: Request, body: bytes) -> bytes:
    """The part named ``file`` of a multipart body; its file name is ignored."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = MultiPartParser(request.headers, chunks(), max_files=1, max_fields=8, max_part_size=10_000)
        parser.spool_max_size = len(body) + 1  # so that nothing is written to disk
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        reason = " ".join(str(getattr(error, "message", error)).split())[:120]
        raise HTTPError(400, "bad-multipart", f"the multipart body cannot be read ({reason})") from None
    try:
        part = form.get(FIELD)
        if not isinstance(part, UploadFile):
            names = ", ".join(repr(name[:40]) for name in form) or "no part"
            raise HTTPError(422, "no-photo", f"got {names}, wanted a part {FIELD!r} with a file name")
        return await part.read()
    finally:
        await form.close()
