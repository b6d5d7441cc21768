"""The page beside the HTTP API, for tests that send it requests without a network."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import httpx
from starlette.routing import Mount

from deeplab.serving.decoder_process import DecoderPool
from deeplab.serving.http import service
from deeplab.serving.page import mount_page
from deeplab.serving.queue import WorkQueue
from deeplab.serving.upload_store import UploadStore


def as_upload(path):
    """A file as the browser sends it."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


class ServedPage:
    """An application with the page, its uploads in a folder; a connection to another machine is an error.

    Attributes:
        app: the HTTP API with the page.
        route_filter: the middleware before Gradio.
        gradio: the application of Gradio behind it.
        uploads: the store of uploads.
    """

    def __init__(self, model, limits, folder, monkeypatch, *, local=True):
        self.connections = []
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
        monkeypatch.setattr(socket.socket, "connect", self._refuse)
        monkeypatch.setattr(socket, "getaddrinfo", self._refuse)
        queue = WorkQueue(1, 4)
        decoder = DecoderPool()
        self.uploads = UploadStore(folder, limits)
        self.app = service(model, limits, queue=queue, decoder=decoder)

        async def mount():  # without a running loop Gradio makes some and never closes them
            mount_page(self.app, model, limits, queue, decoder, self.uploads, local=local)

        asyncio.run(mount())
        self.route_filter = next(
            route for route in self.app.routes if isinstance(route, Mount) and route.path == "/page"
        ).app
        self.gradio = self.route_filter.app
        self.blocks = self.gradio.get_blocks()

    def _refuse(self, *arguments):
        self.connections.append(arguments)
        raise OSError("this test connects to nothing")

    @asynccontextmanager
    async def client(self, app=None):
        """A client of the application, or of another one while the application runs."""
        transport = httpx.ASGITransport(app or self.app, raise_app_exceptions=False)
        async with (
            self.app.router.lifespan_context(self.app),
            httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1", follow_redirects=True
            ) as client,
        ):
            yield client

    def ask(self, *requests):
        """The answers to requests, one after another; each is a method, an address, and options of httpx."""

        async def talk():
            async with self.client() as client:
                return [
                    await client.request(*request[:2], **(request[2:] or [{}])[0]) for request in requests
                ]

        answers = asyncio.run(talk())
        assert self.connections == []
        return answers

    def number_of(self, name):
        """The number that Gradio has given to a function of the page."""
        return next(
            number for number, each in self.blocks.fns.items() if getattr(each.fn, "__name__", "") == name
        )

    async def event(self, client, number, data, *, root="/page"):
        """Send an event to Gradio's queue and wait: the answer if it was refused, else the last message."""
        event = {"data": data, "fn_index": number, "session_hash": "abc", "trigger_id": None}
        joined = await client.post(f"{root}/gradio_api/queue/join", json=event)
        if joined.status_code != 200:
            return joined
        stream = await client.get(f"{root}/gradio_api/queue/data", params={"session_hash": "abc"})
        messages = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: ")]
        return next(message for message in messages if message["msg"] == "process_completed")
