"""The filter before Gradio: it passes only the routes that the page needs, and only paths of uploads."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deeplab.serving.host_check import error_response
from deeplab.serving.limits import HTTPError, Limits
from deeplab.serving.page_upload import read_within, save_uploads
from deeplab.serving.upload_store import UploadStore

JSON_BYTES = 500_000  # maximum size, nesting and upload time of a JSON body
JSON_DEPTH = 24
JSON_SECONDS = 20.0
MAX_STREAMS = 128  # maximum number of long answers, and of uploads, at a time
MAX_UPLOADS = 16
FILE_ROUTE = "/gradio_api/file="
STATIC_ROUTES = re.compile(
    r"/(?:config|theme\.css|gradio_api/startup-events|(?:assets|static)(?:/[\w@+~-][\w.@+~-]*)+)"
)
STREAM_ROUTES = re.compile(r"/gradio_api/(?:heartbeat/\w+|queue/data)")
_EVENT_KEYS = ("data", "event_data", "fn_index", "trigger_id", "session_hash")
JSON_KEYS = {  # the keys of a body that the page sends; other keys are not passed on
    "/gradio_api/queue/join": _EVENT_KEYS,
    "/gradio_api/run/predict": _EVENT_KEYS,  # for what is not queued, such as the examples
    "/gradio_api/cancel": ("session_hash", "fn_index", "event_id"),
    "/gradio_api/reset": ("event_id",),
}
IMAGE_TYPES = {  # files that a browser may show; other uploads can only be saved
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".avif": "image/avif",
}
PATH_OR_URL = re.compile(r"[/\\]|[a-z]:[/\\]|data:|.*://", re.IGNORECASE | re.DOTALL)
_BODY_HEADERS = (b"content-type", b"content-length", b"content-encoding", b"transfer-encoding", b"expect")


class RouteFilter:
    """ASGI middleware before Gradio. Routes that are not named here are closed.

    The filter itself answers uploads and requests for files. Gradio gets a JSON body that the filter has
    parsed, checked and written again, so that it cannot understand the body in another way.

    Args:
        app: Gradio's application.
        store: the only files that a request may name.
        limits: limits of uploads.
    """

    def __init__(self, app: ASGIApp, store: UploadStore, limits: Limits):
        self.app = app
        self._store = store
        self._limits = limits
        self._open = {"stream": 0, "upload": 0}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            if scope["method"] in ("GET", "HEAD"):
                await self._get(path, scope, receive, send)
            elif scope["method"] == "POST":
                await self._post(path, scope, receive, send)
            else:
                raise HTTPError(405, "http", "Method Not Allowed")
        except HTTPError as error:
            await error_response(error)(scope, receive, send)

    async def _get(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path in ("", "/"):  # without its query, which may name a state to be loaded
            await self.app({**scope, "query_string": b""}, receive, send)
        elif path.startswith(FILE_ROUTE):
            await self._file(path.removeprefix(FILE_ROUTE))(scope, receive, send)
        elif path == "/gradio_api/upload_progress":  # the browser then shows its own progress
            done = Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")
            await done(scope, receive, send)
        elif STREAM_ROUTES.fullmatch(path):
            with self._limited("stream", MAX_STREAMS):
                await self.app(scope, receive, send)
        elif STATIC_ROUTES.fullmatch(path):
            await self.app({**scope, "query_string": b""}, receive, send)
        else:
            raise _not_found()

    def _file(self, name: str) -> Response:
        """A file of the page: as an image if its name says so, else as a download."""
        try:
            path = self._store.resolve(name)
        except HTTPError:
            raise _not_found() from None
        headers = {"content-security-policy": "default-src 'none'; sandbox", "cache-control": "private"}
        image_type = IMAGE_TYPES.get(path.suffix.lower())
        if image_type is None:
            return FileResponse(
                path, media_type="application/octet-stream", filename=path.name, headers=headers
            )
        return FileResponse(path, media_type=image_type, headers=headers)

    async def _post(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if path == "/gradio_api/upload":
            await (await self._upload(request))(scope, receive, send)
            return
        keys = JSON_KEYS.get(path)
        if keys is None:
            raise _not_found()
        body = await _read_json(request)
        if not isinstance(body, dict):
            raise HTTPError(400, "bad-json", f"got {type(body).__name__}, wanted an object")
        content = json.dumps(self._check({key: body[key] for key in keys if key in body})).encode()
        headers = [item for item in scope["headers"] if item[0] not in _BODY_HEADERS]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        checked_scope = {**scope, "headers": headers, "query_string": b""}
        await self.app(checked_scope, _replay(content, receive), send)

    async def _upload(self, request: Request) -> Response:
        """The paths of the uploaded files; an error is plain text, because the page shows it unchanged."""
        try:
            with self._limited("upload", MAX_UPLOADS):
                files = await save_uploads(request, self._store, self._limits)
        except HTTPError as error:
            return PlainTextResponse(error.detail, error.status)
        return JSONResponse([str(file) for file in files])

    def _check(self, value: Any, depth: int = 0) -> Any:
        """Return a value of a JSON body after a check: each path is that of an upload, no text is a path.

        Raises:
            HTTPError: 403 for any other path or address, 400 for a number that is not finite or for values
                nested too deeply.
        """
        if depth > JSON_DEPTH:
            raise HTTPError(
                400, "bad-json", f"got values within values {depth} deep, wanted at most {JSON_DEPTH}"
            )
        if isinstance(value, dict):
            return {
                _check_text(key): self._check_path(key, each)
                if key in ("path", "url")
                else self._check(each, depth + 1)
                for key, each in value.items()
            }
        if isinstance(value, list):
            return [self._check(each, depth + 1) for each in value]
        if isinstance(value, float) and not math.isfinite(value):
            raise HTTPError(400, "bad-json", f"got {value}, wanted finite numbers")
        return _check_text(value) if isinstance(value, str) else value

    def _check_path(self, key: str, value: Any) -> str | None:
        """Return a checked path. The path in a URL is checked too, but the URL is not passed on."""
        if value is None or (key == "url" and value == ""):
            return None
        if key == "path":
            return str(self._store.resolve(value))
        _, found, path = value.partition(FILE_ROUTE) if isinstance(value, str) else ("", "", "")
        self._store.resolve(unquote(path) if found else None)
        return None

    @contextmanager
    def _limited(self, kind: str, limit: int) -> Iterator[None]:
        """Count a long answer of a kind within the block; HTTPError if there are too many."""
        if self._open[kind] >= limit:
            raise HTTPError(503, "busy", f"{limit} are open already; try again", retry_after=5)
        self._open[kind] += 1
        try:
            yield
        finally:
            self._open[kind] -= 1


async def _read_json(request: Request) -> Any:
    """The JSON value of a body; HTTPError if it is too long, too slow, or not JSON."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":  # a page of another site cannot send this type without asking first
        raise HTTPError(415, "content-type", f"got {kind[:80]!r}, wanted application/json")
    too_long = HTTPError(
        413, "too-many-bytes", f"got more than {JSON_BYTES} bytes of JSON, wanted at most so many"
    )

    async def read() -> bytes:
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > JSON_BYTES:
                raise too_long
        return bytes(body)

    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > JSON_BYTES:
        raise too_long
    content = await read_within(read(), JSON_SECONDS)
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        raise HTTPError(400, "bad-json", "got a body that is no JSON") from None


def _check_text(text: str) -> str:
    """Return text that is neither a path nor a URL; HTTPError if it may be one."""
    if PATH_OR_URL.match(text):
        raise HTTPError(403, "foreign-path", "got text that names a file or an address, wanted uploads only")
    return text


def _not_found() -> HTTPError:
    return HTTPError(404, "http", "Not Found")


def _replay(content: bytes, receive: Receive) -> Receive:
    """An ASGI receive function that gives a body that has been read already, then what still comes."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": content, "more_body": False}

    return replay
