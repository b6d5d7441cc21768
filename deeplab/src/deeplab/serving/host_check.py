"""The check that every request passes first (host and site), and the security headers of every answer."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deeplab.serving.limits import HTTPError

BODY_READ = "deeplab.body_read"  # key of a request's scope: the body has been read to its end
HEADERS = {  # they make the browser refuse to send anything elsewhere, or to load anything from elsewhere
    "content-security-policy": (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_CORS = b"access-control-"
_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9a-fA-F:.]+)\]|(?P<name>[^\s:/?#@\[\]]+))(?::\d{1,5})?", re.ASCII)


class HostCheck:
    """ASGI middleware that refuses requests for other hosts and requests sent by other sites.

    Refused are:

    - a Host header that is neither an address, nor localhost, nor one of ``names``: if a foreign name
      resolved to this machine (DNS rebinding), the browser would take the foreign page for ours;
    - requests that a browser sends for the page of another site, except following a link;
    - WebSockets.

    CORS headers are removed from the answers, so no other origin can read them.

    Args:
        app: the application behind the check.
        names: host names of the server, in addition to localhost and addresses.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()):
        self._app = app
        self._names = frozenset(_normalized(name) for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    item for item in message.get("headers", []) if not item[0].lower().startswith(_CORS)
                ]
                headers += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = headers
            await send(message)

        async def receive_and_record() -> Message:
            message = await receive()
            scope[BODY_READ] = not message.get("more_body", False)
            return message

        try:
            self._check_host(scope)
            self._check_site(scope)
        except HTTPError as error:
            await error_response(error)(scope, receive_and_record, send_with_headers)
        else:
            await self._app(scope, receive_and_record, send_with_headers)

    def _check_host(self, scope: Scope) -> None:
        """Raise HTTPError for a Host header that may be a foreign name."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1:
            raise HTTPError(400, "no-host", f"got {len(hosts)} Host headers, wanted one")
        text = hosts[0].decode("latin-1")
        name = _host_name(text)
        if name is None or not (_is_address(name) or name == "localhost" or name in self._names):
            raise HTTPError(
                421,
                "wrong-host",
                f"got Host {text[:80]!r}, wanted an address, localhost or a name of --host-names",
            )

    def _check_site(self, scope: Scope) -> None:
        """Raise HTTPError for a request that a browser sends for another site, except following a link."""
        headers = Headers(scope=scope)
        is_read = scope["method"] in ("GET", "HEAD")
        is_link = is_read and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_link:
            raise HTTPError(
                403, "cross-site", "got a request of another site's page, wanted one of this server's own"
            )
        origin = headers.get("origin")
        if origin is None or (is_read and "sec-fetch-site" in headers):
            return
        host = urlsplit(origin).netloc.lower()
        if host != headers["host"].lower() and (not host or _host_name(host) not in self._names):
            raise HTTPError(
                403, "cross-site", f"got a request of {origin[:80]!r}, wanted one of this server's own page"
            )


def error_response(error: HTTPError) -> JSONResponse:
    """Return an error as JSON, with its status and headers."""
    return JSONResponse({"error": error.kind, "detail": error.detail}, error.status, retry_headers(error))


def retry_headers(error: HTTPError) -> dict[str, str]:
    """Return the Retry-After header of an error, if it has one."""
    return {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}


def _host_name(host: str) -> str | None:
    """Name or address in a Host header without its port; None if the header is malformed."""
    match = _HOST.fullmatch(host)
    return None if match is None else _normalized(match["ipv6"] or match["name"])


def _normalized(name: str) -> str:
    return name.lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
