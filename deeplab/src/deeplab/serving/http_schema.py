"""What the HTTP API takes and returns: models of options and answers, and their OpenAPI description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from deeplab.serving.uploads import FIELD
from deeplab.weights.store import MIN_SIDE

PHOTO_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")


class Options(BaseModel):
    """Query parameters of a request."""

    model_config = ConfigDict(extra="forbid")
    size: int | None = Field(
        None,
        ge=0,
        description="Length of the longer side in pixels to which larger photos are shrunk for the network, "
        "at least 32; 0 for full size. The default belongs to the weights. The CRF always runs at full size.",
    )
    crf: bool = Field(True, description="Refine the boundaries with the fully connected CRF.")
    output: Literal["json", "ids", "overlay"] | None = Field(
        None,
        description="json: classes, and ids as a PNG in base64. ids: a palette PNG of class ids. overlay: a "
        "PNG of the photo with its classes in colour. The default is ids if Accept names image/png and not "
        "JSON, else json.",
    )

    @field_validator("size")
    @classmethod
    def _check_size(cls, size: int | None) -> int | None:
        if size is not None and 0 < size < MIN_SIDE:
            raise ValueError(f"got {size}, wanted at least {MIN_SIDE}, or 0 for full size")
        return size


class ClassShare(BaseModel):
    """A class in the picture."""

    id: int = Field(ge=0, le=254)
    name: str
    share: float = Field(ge=0, le=1, description="Share of the pixels.")
    colour: tuple[int, int, int] = Field(description="R, G, B, as in the PNG's palette.")


class Size(BaseModel):
    """Size of a picture in pixels."""

    width: int
    height: int


class Labelled(BaseModel):
    """A labelled photo."""

    width: int = Field(description="Width of the upright photo and of its ids, in pixels.")
    height: int = Field(description="Height of the upright photo and of its ids, in pixels.")
    worked_on: Size = Field(
        description="Size at which network and CRF worked. It is smaller than the photo if that has more "
        "pixels than the server works on; the labels are then enlarged to the size of the photo."
    )
    classes: list[ClassShare] = Field(description="Classes in the picture, largest share first.")
    ids: str = Field(description="Class ids of the pixels: a palette PNG in base64.")
    seconds: dict[str, float] = Field(description="Time that network and CRF took, in seconds.")


class Health(BaseModel):
    """State of the server."""

    status: Literal["ok"]
    version: str
    variant: str
    class_names: list[str]
    running: int
    waiting: int


class Problem(BaseModel):
    """Reason why a request was not answered."""

    error: str = Field(description="Short name of the error, for programs.")
    detail: str = Field(description="One line, for people.")


def _error(description: str, **more: Any) -> dict[str, Any]:
    return {"model": Problem, "description": description, **more}


_RETRY = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
COMMON_ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("No Host header, or more than one."),
    403: _error("Sent by a page of another site."),
    421: _error("A Host header that does not name this server."),
    500: _error("An internal error."),
}
SEGMENT_ERRORS: dict[int | str, dict[str, Any]] = COMMON_ERRORS | {
    400: _error("The body ended early, is not valid multipart, or there is no Host header."),
    408: _error("The body came too slowly."),
    413: _error("Too many bytes, or too many pixels to decode."),
    415: _error("Neither a photo nor multipart."),
    422: _error("An invalid option, no photo, a damaged one, or one that decodes too slowly."),
    503: _error("Too busy, short of memory, or stopping.", headers=_RETRY),
    504: _error("The photo took too long."),
}
_BINARY = {"type": "string", "format": "binary"}
SEGMENT_PNG = {"description": "The labels.", "content": {"image/png": {"schema": _BINARY}}}
_FORM = {
    "type": "object",
    "required": [FIELD],
    "properties": {FIELD: _BINARY | {"description": "File of the photo."}},
    "additionalProperties": False,
}
SEGMENT_BODY = {
    "required": True,
    "content": {"multipart/form-data": {"schema": _FORM}}
    | {media_type: {"schema": _BINARY} for media_type in PHOTO_TYPES},
}
