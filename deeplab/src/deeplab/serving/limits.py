"""What a server grants a request, and how it refuses what is more."""

from __future__ import annotations

from dataclasses import dataclass, fields

UPLOAD_FILES = 200  # in one request of the page; a folder's other files are uploaded with its photos


@dataclass(frozen=True)
class Limits:
    """What one server takes on.

    Raises:
        ValueError: for a value that is not above 0; ``waiting`` may be 0.
    """

    bytes: int = 20_000_000
    """Of the body of a request."""
    pixels: int = 4_000_000
    """Of a photo as it is worked on; one of more is shrunk to it."""
    decoded_pixels: int = 60_000_000
    """Of a photo as it comes; a small file can claim any size, so one of more is refused before it is
    decoded."""
    seconds: float = 60.0
    """From a request's arrival to its answer, upload and waiting included."""
    workers: int = 1
    """Photos worked on at a time; each takes all cores and up to 1800 bytes a pixel."""
    waiting: int = 16
    """Requests that may wait for a worker; more are told to come back."""
    stored_bytes: int = 500_000_000
    """Of all photos that the page's visitors have uploaded."""
    stored_files: int = 500
    """That they have uploaded; of one upload ``UPLOAD_FILES`` at most."""
    stored_seconds: float = 1800.0
    """That an upload is kept; the oldest go earlier where there are too many."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value > 0 or (value == 0 and field.name == "waiting")):
                raise ValueError(f"got {field.name} = {value}, wanted a number above 0")


class HTTPError(Exception):
    """A request that is not answered; the text says what was got and what is wanted, in one line.

    Args:
        status: of HTTP, 4xx or 5xx.
        kind: a short name for programs.
        detail: one line for people.
        retry_after: seconds after which it may be tried again, where that helps.
    """

    def __init__(self, status: int, kind: str, detail: str, *, retry_after: int | None = None):
        super().__init__(detail)
        self.status, self.kind, self.detail, self.retry_after = status, kind, detail, retry_after
