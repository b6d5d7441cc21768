"""The page beside the door, as tests ask it."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import httpx
from starlette.routing import Mount

from deeplab.serving.decoder_process import Decoder
from deeplab.serving.http import service
from deeplab.serving.page import mount_page
from deeplab.serving.queue import WorkQueue
from deeplab.serving.upload_store import UploadStore


class ServedPage:
    """A door with the page, whose uploads lie in a folder; whatever is reached outside this machine is an
    error."""

    def __init__(self, model, limits, folder, monkeypatch):
        self.reached = []
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
        monkeypatch.setattr(socket.socket, "connect", self._connect)
        monkeypatch.setattr(socket, "getaddrinfo", self._resolve)
        line, decoder, self.stored = WorkQueue(1, 4), Decoder(), UploadStore(folder, limits)
        self.door = service(model, limits, workers=line, decoder=decoder)

        async def mount():  # without a running loop Gradio makes some and never closes them
            mount_page(self.door, model, limits, line, decoder, self.stored)

        asyncio.run(mount())
        self.gate = next(
            route for route in self.door.routes if isinstance(route, Mount) and route.path == "/page"
        ).app
        self.gradio = self.gate._gradio
        self.blocks = self.gradio.get_blocks()

    def _connect(self, *arguments):
        self.reached.append(arguments)
        raise OSError("this test reaches nothing")

    _resolve = _connect

    @asynccontextmanager
    async def client(self, app=None):
        """Asks the door, or another application while the door is open."""
        transport = httpx.ASGITransport(app or self.door, raise_app_exceptions=False)
        async with (
            self.door.router.lifespan_context(self.door),
            httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1", follow_redirects=True
            ) as client,
        ):
            yield client

    def ask(self, *requests):
        """The answers to requests, one after another: method, address, and what httpx is to be told."""

        async def talk():
            async with self.client() as client:
                return [
                    await client.request(*request[:2], **(request[2:] or [{}])[0]) for request in requests
                ]

        answers = asyncio.run(talk())
        assert self.reached == []
        return answers

    def number_of(self, name):
        """Gradio's number of a function of the page."""
        return next(
            number for number, each in self.blocks.fns.items() if getattr(each.fn, "__name__", "") == name
        )

    async def event(self, client, number, data, *, root="/page"):
        """Join Gradio's queue and wait: the refused answer, or the last message."""
        asked = {"data": data, "fn_index": number, "session_hash": "abc", "trigger_id": None}
        joined = await client.post(f"{root}/gradio_api/queue/join", json=asked)
        if joined.status_code != 200:
            return joined
        told = await client.get(f"{root}/gradio_api/queue/data", params={"session_hash": "abc"})
        messages = [json.loads(line[6:]) for line in told.text.splitlines() if line.startswith("data: ")]
        return next(message for message in messages if message["msg"] == "process_completed")
