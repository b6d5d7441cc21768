"""What every request passes first: the host that it asks for, the site that it comes from, headers of all
answers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deeplab.serving.limits import HTTPError

READ = "deeplab.read"  # key of a request's scope: its body has been read to the end
HEADERS = {  # the browser itself refuses what would leave the machine, or ask for anything from elsewhere
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_CORS = b"access-control-"
_HOST = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<name>[^\s:/?#@\[\]]+))(?::\d{1,5})?", re.ASCII)


class HostCheck:
    """An ASGI application that refuses strangers before another one sees them.

    Refused are: a Host header that is neither an address, nor localhost, nor one of ``names`` (a name of
    somebody else that resolves to this machine would make the browser take their page for ours); requests
    that a browser makes for the page of another site, except following a link; WebSockets. No answer allows
    another origin to read it.

    Args:
        app: what answers.
        names: host names under which the server may be asked for, beside localhost and addresses.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()):
        self._app, self._names = app, frozenset(_plain(name) for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As of ASGI."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [
                    pair
                    for pair in message.get("headers", [])
                    if not pair[0].lower().startswith(b"access-control-")
                ]
                message["headers"] = [
                    *own,
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        async def noted() -> Message:
            message = await receive()
            scope[READ] = not message.get("more_body", False)
            return message

        try:
            self._require_host(scope)
            self._require_own_site(scope)
        except HTTPError as refusal:
            await problem(refusal)(scope, noted, guarded)
        else:
            await self._app(scope, noted, guarded)

    def _require_host(self, scope: Scope) -> None:
        """HTTPError for a Host header that may be a name of somebody else."""
        found = [value for name, value in scope["headers"] if name == b"host"]
        if len(found) != 1:
            raise HTTPError(400, "no-host", f"got {len(found)} Host headers, wanted one")
        text = found[0].decode("latin-1")
        name = _name_of(text)
        if name is None or not (_is_address(name) or name == "localhost" or name in self._names):
            raise HTTPError(
                421,
                "wrong-host",
                f"got Host {text[:80]!r}, wanted an address, localhost or a name of --host-names",
            )

    def _require_own_site(self, scope: Scope) -> None:
        """HTTPError for what a browser asks for on behalf of another site; following a link to here is
        allowed."""
        headers, reads = Headers(scope=scope), scope["method"] in ("GET", "HEAD")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not (
            reads and headers.get("sec-fetch-mode") == "navigate"
        ):
            raise HTTPError(
                403, "cross-site", "got a request of another site's page, wanted one of this server's own"
            )
        origin = headers.get("origin")
        if origin is None or (reads and "sec-fetch-site" in headers):
            return
        place = urlsplit(origin).netloc.lower()
        if place != headers["host"].lower() and (not place or _name_of(place) not in self._names):
            raise HTTPError(
                403, "cross-site", f"got a request of {origin[:80]!r}, wanted one of this server's own page"
            )


def problem(refusal: HTTPError) -> JSONResponse:
    """The answer that tells of a refusal."""
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    return JSONResponse({"error": refusal.kind, "detail": refusal.detail}, refusal.status, headers)


def _name_of(host: str) -> str | None:
    """Name or address in a Host header, without the port; None if it is none."""
    match = _HOST.fullmatch(host)
    return None if match is None else _plain(match["six"] or match["name"])


def _plain(name: str) -> str:
    return name.lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
