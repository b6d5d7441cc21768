"""Photos that come over the network to the HTTP door: read into memory within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from deeplab.serving.limits import HTTPError, Limits

FIELD = "file"


async def upload_of(request: Request, limits: Limits, *, seconds: float) -> bytes:
    """The photo's file in a request: the body itself, or its part ``file`` where it is multipart. All in
    memory.

    Args:
        request: whose body has not been read yet.
        limits: bytes of them are kept at most.
        seconds: that the upload may take.

    Raises:
        HTTPError: 400 cut off or bad multipart, 408 too slow, 413 too large, 415 another content type, 422 no
            file.
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
        body = await asyncio.wait_for(_body_of(request, limits.bytes), seconds)
    except asyncio.TimeoutError:
        raise HTTPError(408, "slow-upload", f"the body did not arrive within {seconds:.0f} seconds") from None
    except ClientDisconnect:
        raise HTTPError(400, "cut-off", "the body ended early") from None
    if kind == "multipart/form-data":
        body = await _part_of(request, body)
    if not body:
        raise HTTPError(422, "no-photo", "got an empty body, wanted a photo")
    return body


async def _body_of(request: Request, most: int) -> bytes:
    """The whole body; HTTPError as soon as it is, or says that it is, larger than ``most`` bytes."""
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > most:
        raise HTTPError(413, "too-many-bytes", f"got {told[:20]} bytes, wanted at most {most}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise HTTPError(413, "too-many-bytes", f"got more than {most} bytes, wanted at most {most}")
    return bytes(body)


async def _part_of(request: Request, body: bytes) -> bytes:
    """The part named ``file`` of a multipart body; its file name is not looked at."""

    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = MultiPartParser(request.headers, once(), max_files=1, max_fields=8, max_part_size=10_000)
        parser.spool_max_size = len(body) + 1  # never on disk
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        reason = " ".join(str(getattr(error, "message", error)).split())[:120]
        raise HTTPError(400, "bad-multipart", f"the multipart body cannot be read ({reason})") from None
    try:
        part = form.get(FIELD)
        if not isinstance(part, UploadFile):
            named = ", ".join(repr(name[:40]) for name in form) or "no part"
            raise HTTPError(422, "no-photo", f"got {named}, wanted a part {FIELD!r} with a file name")
        return await part.read()
    finally:
        await form.close()
