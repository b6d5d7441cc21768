"""The HTTP door: a photo in a request, labels in the answer. Nothing of a request touches the file system."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

import deeplab
from deeplab.classes import palette
from deeplab.drawing import palette_png, png
from deeplab.model.segmentation import Model, Segmentation
from deeplab.serving.decoder_process import Decoder
from deeplab.serving.host_check import READ, HostCheck
from deeplab.serving.limits import HTTPError, Limits
from deeplab.serving.queue import WorkQueue
from deeplab.serving.uploads import FIELD, upload_of
from deeplab.weights.store import MIN_SIDE

LINGER_BYTES, LINGER_SECONDS = 50_000_000, 5.0
PHOTO_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")


class Options(BaseModel):
    """What may be asked for."""

    model_config = ConfigDict(extra="forbid")
    size: int | None = Field(
        None,
        ge=0,
        description="Longer side, in pixels, at which the network looks at larger photos, at least 32; 0 for full "
        "size. By default as the weights say. The CRF does not depend on it.",
    )
    crf: bool = Field(True, description="Refine the boundaries with the fully connected CRF.")
    output: Literal["json", "ids", "overlay"] | None = Field(
        None,
        description="json: classes, and ids as a PNG in base64. ids: a palette PNG of class ids. overlay: a PNG of the "
        "photo with its classes in colour. By default ids if Accept names image/png and not JSON, else json.",
    )

    @field_validator("size")
    @classmethod
    def _least(cls, size: int | None) -> int | None:
        if size is not None and 0 < size < MIN_SIDE:
            raise ValueError(f"got {size}, wanted at least {MIN_SIDE}, or 0 for full size")
        return size


class ClassShare(BaseModel):
    """A class in the picture."""

    id: int = Field(ge=0, le=254)
    name: str
    share: float = Field(ge=0, le=1, description="Of the pixels.")
    colour: tuple[int, int, int] = Field(description="R, G, B, as in the PNG's palette.")


class Size(BaseModel):
    """A picture's size in pixels."""

    width: int
    height: int


class Labelled(BaseModel):
    """A labelled photo."""

    width: int = Field(description="Of the photo, upright, and of its ids.")
    height: int
    worked_on: Size = Field(
        description="The size at which photo and CRF were worked on: smaller than the photo where that has more pixels "
        "than the server works on; its labels are enlarged again then."
    )
    classes: list[ClassShare] = Field(description="Those in the picture, largest first.")
    ids: str = Field(description="Class ids of the pixels: a palette PNG in base64.")
    seconds: dict[str, float] = Field(description="How long network and CRF took.")


class Health(BaseModel):
    """That the server is there, and how busy it is."""

    status: Literal["ok"]
    version: str
    variant: str
    class_names: list[str]
    running: int
    waiting: int


class Problem(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="A short name, for programs.")
    detail: str = Field(description="One line, for people.")


RETRY = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
STRANGERS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "No Host header, or more than one."},
    403: {"model": Problem, "description": "Asked for by a page of another site."},
    421: {"model": Problem, "description": "A Host header that is not of this server."},
    500: {"model": Problem, "description": "A fault of the server."},
}
REFUSALS: dict[int | str, dict[str, Any]] = STRANGERS | {
    400: {
        "model": Problem,
        "description": "The body ended early, is no multipart body, or there is no Host header.",
    },
    408: {"model": Problem, "description": "The body came too slowly."},
    413: {"model": Problem, "description": "Too many bytes, or too many pixels to decode."},
    415: {"model": Problem, "description": "Neither a photo nor multipart."},
    422: {
        "model": Problem,
        "description": "A bad option, no photo, a damaged one, or one that decodes too slowly.",
    },
    503: {"model": Problem, "description": "Too busy, short of memory, or stopping.", "headers": RETRY},
    504: {"model": Problem, "description": "The photo took too long."},
}
_BINARY = {"type": "string", "format": "binary"}
LABELS = {"description": "The labels.", "content": {"image/png": {"schema": _BINARY}}}
_FORM = {
    "type": "object",
    "required": [FIELD],
    "properties": {FIELD: _BINARY | {"description": "The photo's file."}},
    "additionalProperties": False,
}
BODY = {
    "required": True,
    "content": {"multipart/form-data": {"schema": _FORM}}
    | {kind: {"schema": _BINARY} for kind in PHOTO_TYPES},
}


def service(
    model: Model,
    limits: Limits | None = None,
    *,
    workers: WorkQueue | None = None,
    decoder: Decoder | None = None,
    names: Iterable[str] = (),
) -> FastAPI:
    """The HTTP door: ``POST /v1/segment``, ``GET /healthz``, ``GET /openapi.json``.

    Args:
        model: that labels the photos.
        limits: by default ``Limits()``.
        workers: to share with a page; by default its own. They work while the server runs.
        decoder: likewise.
        names: host names that may be asked for, beside localhost and addresses.
    """
    limits = limits or Limits()
    line, decoder = workers or WorkQueue(limits.workers, limits.waiting), decoder or Decoder()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with decoder, line:
            yield

    door = FastAPI(
        title="DeepLab",
        version=deeplab.__version__,
        summary="A photo in, a label for every pixel out.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,  # their pages load scripts from elsewhere
    )
    door.add_middleware(HostCheck, names=names)
    for kind, refuse in _HANDLERS.items():
        door.add_exception_handler(kind, refuse)

    @door.get("/healthz", summary="Whether the server is there", responses=STRANGERS)
    async def healthz() -> Health:
        return Health(
            status="ok",
            version=deeplab.__version__,
            variant=model.card.variant,
            class_names=list(model.class_names),
            running=line.running,
            waiting=line.waiting,
        )

    @door.post(
        "/v1/segment",
        summary="Label every pixel of a photo",
        response_model=Labelled,
        openapi_extra={"requestBody": BODY},
        responses={200: LABELS, **REFUSALS},
    )
    async def segment(request: Request, options: Annotated[Options, Query()]) -> Response:
        end = time.monotonic() + limits.seconds
        with line.place() as place:
            content = await upload_of(request, limits, seconds=limits.seconds)
            output = options.output or _by_accept(request.headers.get("accept", ""))

            def work() -> Response:
                try:
                    photo, size = decoder.photo(content, limits, limits.pixels)
                    result = model.segment(photo, crf=options.crf, size=options.size)
                except MemoryError as error:
                    raise HTTPError(503, "memory", str(error) or "out of memory", retry_after=5) from None
                return _answer(result, output, size)

            return await place.run(work, seconds=max(0.0, end - time.monotonic()))

    return door


def _by_accept(accept: str) -> Literal["json", "ids"]:
    """The kind of answer that a request's Accept header asks for."""
    kinds = {kind.split(";")[0].strip().lower() for kind in accept.split(",")}
    return "ids" if "image/png" in kinds and "application/json" not in kinds else "json"


def _answer(
    result: Segmentation, output: Literal["json", "ids", "overlay"], size: tuple[int, int]
) -> Response:
    """The answer on a photo of this height and width; the overlay has the size at which it was worked on."""
    if output == "overlay":
        return Response(png(result.overlay()), media_type="image/png")
    (height, width), (rows, columns) = size, result.labels.shape
    ids = palette_png(_enlarged(result.labels, size))
    if output == "ids":
        return Response(ids, media_type="image/png")
    colours = palette().tolist()
    numbers = {name: number for number, name in enumerate(result.class_names)}
    answer = Labelled(
        width=width,
        height=height,
        worked_on=Size(width=columns, height=rows),
        seconds=result.seconds,
        ids=base64.b64encode(ids).decode(),
        classes=[
            ClassShare(id=numbers[name], name=name, share=share, colour=tuple(colours[numbers[name]]))
            for name, share in result.shares().items()
        ],
    )
    return Response(answer.model_dump_json(), media_type="application/json")


def _enlarged(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels (h, w) uint8 at another height and width, each pixel with the label of the nearest one."""
    if labels.shape == size:
        return labels
    return np.asarray(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))


def _problem(status: int, kind: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(Problem(error=kind, detail=detail).model_dump(), status, headers)


class _Lingering(JSONResponse):
    """An answer to a request whose body was not read: what still comes is thrown away, for a while.

    Closing at once would reset the connection, and the client would never see the answer.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.body), "more_body": True})
        promised = (b"expect", b"100-continue") in scope["headers"]  # such a client sends no body now
        if not promised and not scope.get(READ):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_thrown_away(receive), LINGER_SECONDS)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _thrown_away(receive: Receive) -> None:
    size, more = 0, True
    while more and size < LINGER_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPError)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return _Lingering(Problem(error=error.kind, detail=error.detail).model_dump(), error.status, headers)


def _bad_option(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
    return _problem(422, "bad-option", "; ".join(faults)[:500])


def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, "http", str(error.detail), dict(error.headers or {}))


def _fault(_: Request, error: Exception) -> Response:
    return _problem(500, "fault", f"a fault of the server: {type(error).__name__}; its log says more")


_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Response]] = {
    HTTPError: _refused,
    RequestValidationError: _bad_option,
    HTTPException: _http,
    Exception: _fault,
}
