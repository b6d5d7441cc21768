"""What stands between the network and Gradio: the routes that the page needs, and no path that is not an
upload's."""

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

from deeplab.serving.host_check import problem
from deeplab.serving.limits import HTTPError, Limits
from deeplab.serving.page_upload import stored_files, timely
from deeplab.serving.upload_store import UploadStore

JSON_BYTES, JSON_DEPTH, JSON_SECONDS = 500_000, 24, 20.0
STREAMS, UPLOADS = 128, 16  # answers that go on for long, and uploads, at a time
FILE = "/gradio_api/file="
PLAIN = re.compile(
    r"/(?:config|theme\.css|gradio_api/startup-events|(?:assets|static)(?:/[\w@+~-][\w.@+~-]*)+)"
)
STREAM = re.compile(r"/gradio_api/(?:heartbeat/\w+|queue/data)")
EVENT_KEYS = ("data", "event_data", "fn_index", "trigger_id", "session_hash")
JSON_KEYS = {  # of a body, those that the page sends; others are not passed on
    "/gradio_api/queue/join": EVENT_KEYS,
    "/gradio_api/run/predict": EVENT_KEYS,  # what runs at once, as the examples do
    "/gradio_api/cancel": ("session_hash", "fn_index", "event_id"),
    "/gradio_api/reset": ("event_id",),
}
SHOWN = {  # what a browser may show; other uploads are only saved
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".avif": "image/avif",
}
ELSEWHERE = re.compile(r"[/\\]|[a-z]:[/\\]|data:|.*://", re.IGNORECASE | re.DOTALL)


class RouteFilter:
    """An ASGI application before Gradio's. Routes that are not named here are closed, whatever Gradio has
    behind them.

    Uploads, and the files of the page, are answered here. Of JSON bodies Gradio gets what was checked,
    written anew, so that it cannot read them in another way.

    Args:
        gradio: the application behind.
        stored: the only files that a request may name.
        limits: of uploads.
    """

    def __init__(self, gradio: ASGIApp, stored: UploadStore, limits: Limits):
        self._gradio, self._stored, self._limits = gradio, stored, limits
        self._open = {"stream": 0, "upload": 0}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As of ASGI."""
        root, path = scope.get("root_path", ""), scope["path"]
        path = path[len(root) :] if path.startswith(root) else path
        try:
            if scope["method"] in ("GET", "HEAD"):
                await self._read(path, scope, receive, send)
            elif scope["method"] == "POST":
                await self._post(path, scope, receive, send)
            else:
                raise HTTPError(405, "http", "Method Not Allowed")
        except HTTPError as refusal:
            await problem(refusal)(scope, receive, send)

    async def _read(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path in ("", "/"):
            await self._gradio(
                {**scope, "query_string": b""}, receive, send
            )  # it may name a state to be loaded
        elif path.startswith(FILE):
            await self._file(path.removeprefix(FILE))(scope, receive, send)
        elif (
            path == "/gradio_api/upload_progress"
        ):  # the browser asks for it, and shows its own progress without
            await Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")(scope, receive, send)
        elif STREAM.fullmatch(path):
            with self._one_of("stream", STREAMS):
                await self._gradio(scope, receive, send)
        elif PLAIN.fullmatch(path):
            await self._gradio({**scope, "query_string": b""}, receive, send)
        else:
            raise _closed()

    def _file(self, name: str) -> Response:
        """One of the page's files; as a picture if it is one, else only to be saved."""
        try:
            path = self._stored.path_of(name)
        except HTTPError:
            raise HTTPError(404, "http", "Not Found") from None
        headers = {"content-security-policy": "default-src 'none'; sandbox", "cache-control": "private"}
        shown = SHOWN.get(path.suffix.lower())
        if shown is None:
            return FileResponse(
                path, media_type="application/octet-stream", filename=path.name, headers=headers
            )
        return FileResponse(path, media_type=shown, headers=headers)

    async def _post(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if path == "/gradio_api/upload":
            await (await self._upload(request))(scope, receive, send)
            return
        keys = JSON_KEYS.get(path)
        if keys is None:
            raise _closed()
        body = await _json_of(request)
        if not isinstance(body, dict):
            raise HTTPError(400, "bad-json", f"got {type(body).__name__}, wanted an object")
        content = json.dumps(self._checked({key: body[key] for key in keys if key in body})).encode()
        headers = [pair for pair in scope["headers"] if pair[0] not in _OF_BODY]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await self._gradio(
            {**scope, "headers": headers, "query_string": b""}, _replayed(content, receive), send
        )

    async def _upload(self, request: Request) -> Response:
        """The paths of the files that were uploaded; a refusal is plain text, which the page shows as it
        is."""
        try:
            with self._one_of("upload", UPLOADS):
                files = await stored_files(request, self._stored, self._limits)
        except HTTPError as refusal:
            return PlainTextResponse(refusal.detail, refusal.status)
        return JSONResponse([str(file) for file in files])

    def _checked(self, value: Any, depth: int = 0) -> Any:
        """A value of a JSON body in which every path is one of an upload, and no other text names a place.

        Raises:
            HTTPError: 403 for any other path or address, 400 for a number that is not finite or a value too
                deep.
        """
        if depth > JSON_DEPTH:
            raise HTTPError(
                400, "bad-json", f"got values within values {depth} deep, wanted at most {JSON_DEPTH}"
            )
        if isinstance(value, dict):
            return {
                _word(key): self._place(key, each)
                if key in ("path", "url")
                else self._checked(each, depth + 1)
                for key, each in value.items()
            }
        if isinstance(value, list):
            return [self._checked(each, depth + 1) for each in value]
        if isinstance(value, float) and not math.isfinite(value):
            raise HTTPError(400, "bad-json", f"got {value}, wanted finite numbers")
        return _word(value) if isinstance(value, str) else value

    def _place(self, key: str, value: Any) -> str | None:
        """A path, checked; an address is checked as the path of the file that it is of, and not passed on."""
        if value is None or (key == "url" and value == ""):
            return None
        if key == "path":
            return str(self._stored.path_of(value))
        _, found, path = value.partition(FILE) if isinstance(value, str) else ("", "", "")
        self._stored.path_of(unquote(path) if found else None)
        return None

    @contextmanager
    def _one_of(self, kind: str, most: int) -> Iterator[None]:
        """A place for an answer that takes long; HTTPError if there is none."""
        if self._open[kind] >= most:
            raise HTTPError(503, "busy", f"{most} are open already; try again", retry_after=5)
        self._open[kind] += 1
        try:
            yield
        finally:
            self._open[kind] -= 1


_OF_BODY = (b"content-type", b"content-length", b"content-encoding", b"transfer-encoding", b"expect")


async def _json_of(request: Request) -> Any:
    """The JSON value of a body; HTTPError if it is too long, too slow, or none."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":  # which a page of another site cannot send without asking first
        raise HTTPError(415, "content-type", f"got {kind[:80]!r}, wanted application/json")

    async def read() -> bytes:
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > JSON_BYTES:
                raise too_long
        return bytes(body)

    too_long = HTTPError(
        413, "too-many-bytes", f"got more than {JSON_BYTES} bytes of JSON, wanted at most so many"
    )
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > JSON_BYTES:
        raise too_long
    content = await timely(read(), JSON_SECONDS)
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        raise HTTPError(400, "bad-json", "got a body that is no JSON") from None


def _word(text: str) -> str:
    """Text that names neither a file nor an address; HTTPError if it may."""
    if ELSEWHERE.match(text):
        raise HTTPError(403, "foreign-path", "got text that names a file or an address, wanted uploads only")
    return text


def _closed() -> HTTPError:
    return HTTPError(404, "http", "Not Found")


def _replayed(content: bytes, receive: Receive) -> Receive:
    """What gives a body that has been read already, and then what still comes."""
    told = False

    async def replay() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": content, "more_body": False}

    return replay
