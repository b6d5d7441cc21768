"""Measures how long the page takes from a slider's event to its answer, part by part.

    python deeplab/benchmarks/page.py --out results/bench-page.json

Writes medians as JSON. The server runs in this process with the shipped weights; the client speaks Gradio's
protocol like a browser. What a browser then does (reading the answer, decoding one JPEG) is not included. Run
it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
import uvicorn
from cascade import PHOTO
from gradio.utils import get_upload_folder
from machine import processor, write_record
from PIL import Image

import deeplab
from deeplab.serving.comparison import PAIRS
from deeplab.serving.crf_sliders import ITERATIONS, SLIDERS
from deeplab.serving.decoder_process import DecoderPool
from deeplab.serving.http import service
from deeplab.serving.limits import Limits
from deeplab.serving.page import mount_page
from deeplab.serving.queue import WorkQueue
from deeplab.serving.server import listen
from deeplab.serving.upload_store import UploadStore

T = TypeVar("T")
GOAL_SECONDS = 0.2
"""Goal for a slider's answer at 500×375."""
MOVES = {"appearance_weight": (4.0, 6.0), "appearance_rgb_std": (4.0, 5.0), "smoothness_weight": (2.0, 4.0)}
"""The two values of each slider that is moved."""


class TimedQueue(WorkQueue):
    """A work queue that measures how long the last job took."""

    seconds = 0.0

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Submit a job; see ``WorkQueue``."""

        def timed() -> T:
            started = time.perf_counter()
            try:
                return work()
            finally:
                self.seconds = time.perf_counter() - started

        return super().submit(timed)


class Client:
    """One visit of the page.

    Args:
        port: port of the server on this machine.
    """

    def __init__(self, port: int):
        self._port = port
        self._session = "benchmark"
        config = json.loads(self._request("GET", "/page/config"))
        self._numbers = {each["api_name"]: each["id"] for each in config["dependencies"]}

    def _request(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        connection.request(method, path, body, {"content-type": kind})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        assert response.status == 200, text
        return text

    def upload(self, content: bytes) -> str:
        """Upload a photo; returns its path on the server."""
        head = b'--x\r\ncontent-disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        body = head + content + b"\r\n--x--\r\n"
        kind = "multipart/form-data; boundary=x"
        return str(json.loads(self._request("POST", "/page/gradio_api/upload", body, kind))[0])

    def event(self, name: str, data: list[Any]) -> tuple[float, int]:
        """Send an event; returns the seconds until its answer, and the bytes of the answer.

        Args:
            name: name of the event's API.
            data: values of its inputs.
        """
        event = {
            "data": data,
            "fn_index": self._numbers[name],
            "session_hash": self._session,
            "trigger_id": None,
        }
        started, size = time.perf_counter(), 0
        self._request("POST", "/page/gradio_api/queue/join", json.dumps(event).encode())
        stream = http.client.HTTPConnection("127.0.0.1", self._port)
        stream.request("GET", f"/page/gradio_api/queue/data?session_hash={self._session}")
        for line in stream.getresponse():
            size += len(line)
            message = json.loads(line[6:]) if line.startswith(b"data: ") else {}
            if message.get("msg") == "process_completed":
                seconds = time.perf_counter() - started
                assert message["success"], message
                stream.close()
                return seconds, size
        raise RuntimeError("the stream ended without an answer")


@contextmanager
def served(model: deeplab.Model, queue: WorkQueue) -> Iterator[int]:
    """Run a server in a thread; gives its port.

    Args:
        model: network and CRF.
        queue: runs the server's jobs.
    """
    limits = Limits(seconds=300)
    with listen("127.0.0.1", 0) as listener:
        decoder, stored = DecoderPool(), UploadStore(Path(get_upload_folder()), limits)
        app = service(model, limits, queue=queue, decoder=decoder)
        close_streams = mount_page(app, model, limits, queue, decoder, stored)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            close_streams()
            server.should_exit = True
            thread.join()


def record_crf_seconds(model: deeplab.Model) -> list[float]:
    """Let a model append the seconds of each CRF to a list, which is returned."""
    seconds: list[float] = []
    refine = model.refine

    def recorded(*arguments: Any, **options: Any) -> Any:
        result = refine(*arguments, **options)
        seconds.append(result.seconds["CRF"])
        return result

    model.refine = recorded  # type: ignore[method-assign]
    return seconds


def png_photo(width: int, height: int) -> bytes:
    """The photo at a size, as PNG."""
    buffer = io.BytesIO()
    with Image.open(PHOTO) as file:
        file.convert("RGB").resize((width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def measure(width: int, height: int, runs: int) -> dict[str, Any]:
    """Medians of the parts of a slider's answer; each slider is moved to and fro.

    Args:
        width: of the photo in pixels.
        height: of the photo in pixels.
        runs: number of moves of each slider.
    """
    model, queue = deeplab.load(), TimedQueue()
    crf = record_crf_seconds(model)
    values = [getattr(model.crf_params, field) for field in SLIDERS]
    rest, pair = [ITERATIONS, model.crf_params.normalization], next(iter(PAIRS))
    times: dict[str, list[float]] = {}
    size = 0
    with served(model, queue) as port:
        client = Client(port)
        photo = {"path": client.upload(png_photo(width, height)), "meta": {"_type": "gradio.FileData"}}
        first, first_size = client.event("label", [photo, None, pair, 0, 0, *values, *rest])
        for turn in range(runs + 1):
            for field, ends in MOVES.items():
                moved = [
                    ends[turn % 2] if name == field else value
                    for name, value in zip(SLIDERS, values, strict=True)
                ]
                seconds, size = client.event("refine", [None, pair, 0, 0, *moved, *rest])
                parts = {
                    "event to answer": seconds,
                    "CRF": crf[-1],
                    "labels, overlay, JPEG, legend": queue.seconds - crf[-1],
                    "Gradio and HTTP": seconds - queue.seconds,
                }
                if turn:
                    for part, value in parts.items():
                        times.setdefault(part, []).append(value)
    table = {
        part: {"median s": round(statistics.median(each), 4), "best s": round(min(each), 4)}
        for part, each in times.items()
    }
    return {
        "photo dropped, network and CRF, s": round(first, 3),
        "its answer, bytes": first_size,
        "slider": table,
        "slider's answer, bytes": size,
        f"under {GOAL_SECONDS} s": table["event to answer"]["median s"] < GOAL_SECONDS,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--runs", type=int, default=10, help="moves of each of the three sliders")
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), metavar=("WIDTH", "HEIGHT"))
    options = parser.parse_args()
    width, height = options.size
    record = {
        "date": date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load before": os.getloadavg()[0]},
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("gradio", "torch", "deeplab-crf")},
        "runs": options.runs,
        f"page, {width}x{height}": measure(width, height, options.runs),
    }
    write_record(record, options.out)


if __name__ == "__main__":
    main()
