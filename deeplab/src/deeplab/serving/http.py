"""The HTTP API: a photo in the request, labels in the answer. No request touches the file system."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Literal

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

import deeplab
from deeplab.classes import palette
from deeplab.drawing import palette_png, png
from deeplab.model.segmentation import Model, Segmentation
from deeplab.serving.decoder_process import DecoderPool
from deeplab.serving.host_check import BODY_READ, HostCheck, retry_headers
from deeplab.serving.http_schema import (
    COMMON_ERRORS,
    SEGMENT_BODY,
    SEGMENT_ERRORS,
    SEGMENT_PNG,
    ClassShare,
    Health,
    Labelled,
    Options,
    Problem,
    Size,
)
from deeplab.serving.limits import HTTPError, Limits
from deeplab.serving.queue import WorkQueue
from deeplab.serving.uploads import photo_bytes

LINGER_BYTES = 50_000_000  # how much of an unread body is still read, and for how long, before closing
LINGER_SECONDS = 5.0
Output = Literal["json", "ids", "overlay"]


def service(
    model: Model,
    limits: Limits | None = None,
    *,
    queue: WorkQueue | None = None,
    decoder: DecoderPool | None = None,
    names: Iterable[str] = (),
) -> FastAPI:
    """Make the HTTP API: ``POST /v1/segment``, ``GET /healthz``, ``GET /openapi.json``.

    Args:
        model: model that labels the photos.
        limits: limits of the server; the default is ``Limits()``.
        queue: work queue, shared with a page if there is one; the default is a new one. Its threads run
            while the server runs.
        decoder: decoder processes, likewise.
        names: host names of the server, in addition to localhost and addresses.

    Returns:
        The application.
    """
    limits = limits or Limits()
    queue = queue or WorkQueue(limits.workers, limits.waiting)
    decoder = decoder or DecoderPool()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with decoder, queue:
            yield

    api = FastAPI(
        title="DeepLab",
        version=deeplab.__version__,
        summary="Labels every pixel of a photo.",
        docs_url=None,  # both pages of documentation load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    api.add_middleware(HostCheck, names=names)
    for kind, handler in _ERROR_HANDLERS.items():
        api.add_exception_handler(kind, handler)
    _add_health(api, model, queue)
    _add_segment(api, model, limits, queue, decoder)
    return api


def _add_health(api: FastAPI, model: Model, queue: WorkQueue) -> None:
    @api.get("/healthz", summary="State of the server", responses=COMMON_ERRORS)
    async def healthz() -> Health:
        return Health(
            status="ok",
            version=deeplab.__version__,
            variant=model.card.variant,
            class_names=list(model.class_names),
            running=queue.running,
            waiting=queue.waiting,
        )


def _add_segment(api: FastAPI, model: Model, limits: Limits, queue: WorkQueue, decoder: DecoderPool) -> None:
    @api.post(
        "/v1/segment",
        summary="Label every pixel of a photo",
        response_model=Labelled,
        openapi_extra={"requestBody": SEGMENT_BODY},
        responses={200: SEGMENT_PNG, **SEGMENT_ERRORS},
    )
    async def segment(request: Request, options: Annotated[Options, Query()]) -> Response:
        end = time.monotonic() + limits.seconds
        with queue.slot() as slot:
            content = await photo_bytes(request, limits, seconds=limits.seconds)
            output = options.output or _accepted_output(request.headers.get("accept", ""))

            def work() -> Response:
                try:
                    photo, size = decoder.photo(content, limits, limits.pixels)
                    result = model.segment(photo, crf=options.crf, size=options.size)
                except MemoryError as error:
                    raise HTTPError(503, "memory", str(error) or "out of memory", retry_after=5) from None
                return _answer(result, output, size)

            return await slot.run(work, seconds=max(0.0, end - time.monotonic()))


def _accepted_output(accept: str) -> Output:
    """The kind of answer that an Accept header asks for."""
    types = {item.split(";")[0].strip().lower() for item in accept.split(",")}
    return "ids" if "image/png" in types and "application/json" not in types else "json"


def _answer(result: Segmentation, output: Output, size: tuple[int, int]) -> Response:
    """The answer for a photo of this height and width; an overlay keeps the size of ``result``."""
    if output == "overlay":
        return Response(png(result.overlay()), media_type="image/png")
    height, width = size
    rows, columns = result.labels.shape
    ids = palette_png(_enlarge(result.labels, size))
    if output == "ids":
        return Response(ids, media_type="image/png")
    colours = palette().tolist()
    class_ids = {name: number for number, name in enumerate(result.class_names)}
    answer = Labelled(
        width=width,
        height=height,
        worked_on=Size(width=columns, height=rows),
        seconds=result.seconds,
        ids=base64.b64encode(ids).decode(),
        classes=[
            ClassShare(id=class_ids[name], name=name, share=share, colour=tuple(colours[class_ids[name]]))
            for name, share in result.shares().items()
        ],
    )
    return Response(answer.model_dump_json(), media_type="application/json")


def _enlarge(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize labels (h, w) uint8 to a height and width; each pixel takes the label of the nearest one."""
    if labels.shape == size:
        return labels
    return np.asarray(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))


class _LingeringResponse(JSONResponse):
    """An answer to a request whose body was not read; the rest of the body is read and dropped for a while.

    Closing the connection at once would reset it, and the client would never see the answer.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.body), "more_body": True})
        # A client that waits for "100 Continue" sends no body after an error.
        client_waits = (b"expect", b"100-continue") in scope["headers"]
        if not client_waits and not scope.get(BODY_READ):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_drop_body(receive), LINGER_SECONDS)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drop_body(receive: Receive) -> None:
    size = 0
    more = True
    while more and size < LINGER_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)


def _problem(status: int, kind: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(Problem(error=kind, detail=detail).model_dump(), status, headers)


def _handle_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPError)
    body = Problem(error=error.kind, detail=error.detail).model_dump()
    return _LingeringResponse(body, error.status, retry_headers(error))


def _handle_invalid_option(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return _problem(422, "bad-option", "; ".join(problems)[:500])


def _handle_starlette_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, "http", str(error.detail), dict(error.headers or {}))


def _handle_internal_error(_: Request, error: Exception) -> Response:
    return _problem(500, "fault", f"internal error of the server: {type(error).__name__}; its log says more")


_ERROR_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Response]] = {
    HTTPError: _handle_http_error,
    RequestValidationError: _handle_invalid_option,
    HTTPException: _handle_starlette_error,
    Exception: _handle_internal_error,
}
