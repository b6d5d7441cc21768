"""The HTTP API without a network, for tests of its answers."""

import asyncio
import io
from contextlib import asynccontextmanager

import httpx
from PIL import Image

from deeplab.serving.http import service
from deeplab.serving.limits import Limits


@asynccontextmanager
async def client_of(model, **limits):
    """A client of an API with this model."""
    app = service(model, Limits(**limits))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        yield client


def ask(model, *requests, **limits):
    """The answers to requests, one after another."""

    async def talk():
        async with client_of(model, **limits) as client:
            return [await client.request(*request[:2], **request[2]) for request in requests]

    answers = asyncio.run(talk())
    return answers[0] if len(requests) == 1 else answers


def encoded(photo, kind="PNG", **options):
    """The bytes of a picture's file."""
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, kind, **options)
    return buffer.getvalue()


def is_error(answer, status, kind, *words):
    """Check that an answer is this error, in one line that has these words."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "detail"}
    assert body["error"] == kind
    for word in words:
        assert word in body["detail"]
    assert "\n" not in body["detail"]
    return True
