"""Time the page from a slider's event to its answer, split by part, and write medians as JSON.

The server runs in this process on the shipped weights; the client speaks Gradio's protocol as the browser
does. What the browser then does (reading the answer, decoding one JPEG) is not in it. Wants a machine with
nothing else to do.
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
from collections.abc import Callable
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
from machine import processor
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
GOAL = 0.2  # seconds, at 500×375
MOVES = {"appearance_weight": (4.0, 6.0), "appearance_rgb_std": (4.0, 5.0), "smoothness_weight": (2.0, 4.0)}


class Timed(WorkQueue):
    """WorkQueue that records how long the last job took."""

    last = 0.0

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """See ``WorkQueue.submit``."""

        def timed() -> T:
            started = time.perf_counter()
            try:
                return work()
            finally:
                self.last = time.perf_counter() - started

        return super().submit(timed)


class Client:
    """One visit of the page."""

    def __init__(self, port: int):
        self._port, self._session = port, "benchmark"
        _, config = self._ask("GET", "/page/config")
        self._numbers = {each["api_name"]: each["id"] for each in json.loads(config)["dependencies"]}

    def _ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        connection.request(method, path, body, {"content-type": kind})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def upload(self, content: bytes) -> str:
        """A photo's place on the server."""
        head = b'--x\r\ncontent-disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        body = head + content + b"\r\n--x--\r\n"
        status, text = self._ask("POST", "/page/gradio_api/upload", body, "multipart/form-data; boundary=x")
        assert status == 200, text
        return str(json.loads(text)[0])

    def event(self, name: str, data: list[Any]) -> tuple[float, int]:
        """Seconds from an event to its answer, and the bytes of the answer."""
        asked = {
            "data": data,
            "fn_index": self._numbers[name],
            "session_hash": self._session,
            "trigger_id": None,
        }
        started, size = time.perf_counter(), 0
        status, text = self._ask("POST", "/page/gradio_api/queue/join", json.dumps(asked).encode())
        assert status == 200, text
        stream = http.client.HTTPConnection("127.0.0.1", self._port)
        stream.request("GET", f"/page/gradio_api/queue/data?session_hash={self._session}")
        for line in stream.getresponse():
            size += len(line)
            message = json.loads(line[6:]) if line.startswith(b"data: ") else {}
            if message.get("msg") == "process_completed":
                spent = time.perf_counter() - started
                assert message["success"], message
                stream.close()
                return spent, size
        raise RuntimeError("the stream ended without an answer")


@contextmanager
def served(model: deeplab.Model, queue: WorkQueue) -> Any:
    """A server on a free port, in a thread."""
    limits = Limits(seconds=300)
    with listen("127.0.0.1", 0) as listener:
        decoder, uploads = DecoderPool(), UploadStore(Path(get_upload_folder()), limits)
        app = service(model, limits, queue=queue, decoder=decoder)
        close_streams = mount_page(app, model, limits, queue, decoder, uploads)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            close_streams()
            server.should_exit = True
            thread.join()


def measure(width: int, height: int, runs: int) -> dict[str, Any]:
    """Medians of the parts of a slider's way, each slider moved to and fro."""
    model, queue = deeplab.load(), Timed()
    crf: list[float] = []
    refine = model.refine

    def noted(*arguments: Any, **options: Any) -> Any:
        result = refine(*arguments, **options)
        crf.append(result.seconds["CRF"])
        return result

    model.refine = noted  # type: ignore[method-assign]
    buffer = io.BytesIO()
    with Image.open(PHOTO) as file:
        file.convert("RGB").resize((width, height)).save(buffer, "PNG")
    values = [getattr(model.crf_params, field) for field in SLIDERS]
    rest, pair = [ITERATIONS, model.crf_params.normalization], next(iter(PAIRS))
    rows: dict[str, list[float]] = {}
    with served(model, queue) as port:
        client = Client(port)
        photo = {"path": client.upload(buffer.getvalue()), "meta": {"_type": "gradio.FileData"}}
        first, first_bytes = client.event("label", [photo, None, pair, 0, 0, *values, *rest])
        size = 0
        for turn in range(runs + 1):
            for field, ends in MOVES.items():
                moved = [
                    ends[turn % 2] if name == field else value
                    for name, value in zip(SLIDERS, values, strict=True)
                ]
                spent, size = client.event("refine", [None, pair, 0, 0, *moved, *rest])
                parts = {
                    "event to answer": spent,
                    "CRF": crf[-1],
                    "labels, overlay, JPEG, legend": queue.last - crf[-1],
                    "Gradio and HTTP": spent - queue.last,
                }
                if turn:
                    for part, seconds in parts.items():
                        rows.setdefault(part, []).append(seconds)
    table = {
        part: {"median s": round(statistics.median(found), 4), "best s": round(min(found), 4)}
        for part, found in rows.items()
    }
    return {
        "photo dropped, network and CRF, s": round(first, 3),
        "its answer, bytes": first_bytes,
        "slider": table,
        "slider's answer, bytes": size,
        f"under {GOAL} s": table["event to answer"]["median s"] < GOAL,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
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
    print(json.dumps(record, indent=2))
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
