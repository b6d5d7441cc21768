"""The limits of a server, and the error of a request that it does not answer."""

from __future__ import annotations

from dataclasses import dataclass, fields

MAX_UPLOAD_FILES = 200  # in one upload; the other files of a folder are uploaded together with its photos


@dataclass(frozen=True)
class Limits:
    """Limits of one server.

    Raises:
        ValueError: for a value that is not above 0; ``waiting`` may be 0.
    """

    bytes: int = 20_000_000
    """Maximum size of a request body in bytes."""
    pixels: int = 4_000_000
    """Maximum number of pixels that the model works on; a larger photo is shrunk to this."""
    decoded_pixels: int = 60_000_000
    """Maximum number of pixels of an uploaded photo. A larger one is refused before it is decoded, because a
    small file can announce any size."""
    seconds: float = 60.0
    """Maximum time in seconds from the arrival of a request to its answer, upload and waiting included."""
    workers: int = 1
    """Number of photos worked on at a time; each uses all cores and up to 1800 bytes of memory per pixel."""
    waiting: int = 16
    """Maximum number of requests that wait for a worker; further ones get status 503."""
    stored_bytes: int = 500_000_000
    """Maximum size in bytes of all photos that visitors of the page have uploaded."""
    stored_files: int = 500
    """Maximum number of these photos; one upload may have ``MAX_UPLOAD_FILES``."""
    stored_seconds: float = 1800.0
    """Time in seconds after which an upload is deleted; the oldest are deleted earlier if space runs out."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value > 0 or (value == 0 and field.name == "waiting")):
                raise ValueError(f"got {field.name} = {value}, wanted a number above 0")


class HTTPError(Exception):
    """A request that cannot be answered; the text says what was got and what is wanted, in one line.

    Args:
        status: HTTP status, 4xx or 5xx.
        kind: short name of the error for programs.
        detail: one line for people.
        retry_after: seconds after which trying again makes sense; None if it does not.
    """

    def __init__(self, status: int, kind: str, detail: str, *, retry_after: int | None = None):
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.retry_after = retry_after
