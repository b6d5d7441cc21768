"""Server processes: how they start, stop in time, and delete uploads."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="needs pip install 'deeplab-crf[app]'")
httpx = pytest.importorskip("httpx", reason="needs pip install 'deeplab-crf[app]'")

from deeplab.commands.app import App, app  # noqa: E402  (after the skips)

PROGRAM = """
import sys, time
sys.path.insert(0, {tests!r})
import deeplab.model.loading
import deeplab.serving.server
from stub_model import StubModel
deeplab.serving.server.STOP_SECONDS = 0.5
deeplab.model.loading.load = lambda **_: {loading} or StubModel(lambda: time.sleep({seconds}))
from deeplab.commands.app import App, app
sys.exit(app(App(port=0, {options})))
"""
signals = pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")


@pytest.fixture
def start(tmp_path):
    """A function that starts a server with a stub model, whose temporary folders are in ``tmp_path``.

    Its arguments are the options of ``deeplab app`` as Python, the seconds of a segmentation, and an
    expression to evaluate while the model is loaded.
    """
    processes = []

    def begin(options="max_seconds=2", seconds=0.0, loading="None"):
        tests = str(Path(__file__).parents[1])
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                PROGRAM.format(tests=tests, options=options, seconds=seconds, loading=loading),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(tmp_path), "TEMP": str(tmp_path), "TMP": str(tmp_path)},
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def address_of(process):
    """The address of a server with or without a page, ending in /, as soon as the server answers."""
    line = process.stdout.readline()
    assert line.startswith(("page: ", "HTTP: ")), process.stderr.read()
    address = line.split()[1].removesuffix(",").removesuffix("v1/segment")
    for _ in range(200):
        with suppress(httpx.ConnectError):
            httpx.get(f"{address}healthz")
            return address
        time.sleep(0.1)
    raise AssertionError("the server does not answer")


def temporary_folders(tmp_path):
    return [name for name in os.listdir(tmp_path) if name.startswith("deeplab-")]


@signals
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_uploads_are_deleted_when_the_server_stops(start, stop, tmp_path, tiny):
    process = start()
    address = address_of(process)
    answer = httpx.post(f"{address}page/gradio_api/upload", files={"files": ("cat.png", tiny)})
    (path,) = answer.json()
    assert path.startswith(os.path.realpath(tmp_path))
    assert os.path.exists(path)
    process.send_signal(stop)
    assert process.wait(30) == 0
    assert process.stderr.read() == ""  # no warning either: only this machine can use the server
    assert temporary_folders(tmp_path) == []


@signals
def test_a_stop_while_the_weights_are_loaded_leaves_nothing(start, tmp_path):
    process = start(loading="print('loading', flush=True) or time.sleep(60)")
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert temporary_folders(tmp_path) == []


@signals
def test_work_that_does_not_end_does_not_delay_a_stop(start, tmp_path, tiny):
    process = start(seconds=600)
    address = address_of(process)
    answer = httpx.post(f"{address}v1/segment", content=tiny, timeout=60)
    assert answer.status_code == 504  # the work continues on its thread
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    assert "unfinished work is dropped" in process.stderr.read()
    assert temporary_folders(tmp_path) == []


@signals
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_waits_for_running_requests(start, stop, tiny):
    process = start("page=False", seconds=1.5)
    address, answers = address_of(process), []

    def post():
        answers.append(httpx.post(f"{address}v1/segment", content=tiny, timeout=30))

    thread = threading.Thread(target=post)
    thread.start()
    while httpx.get(f"{address}healthz").json()["running"] == 0:
        time.sleep(0.05)
    process.send_signal(stop)
    thread.join()
    assert answers[0].status_code == 200
    assert process.wait(20) == 0
    assert process.stdout.read() == "stopped\n"
    assert "Traceback" not in process.stderr.read()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}healthz")


def test_a_refused_large_body_gets_its_answer(start, tiny):
    address = address_of(start("page=False", seconds=0.3))
    content = tiny + bytes(8_000_000)

    async def talk():
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=60) as client:
            posts = (client.post(f"{address}v1/segment", content=content) for _ in range(40))
            return await asyncio.gather(*posts)

    codes = [answer.status_code for answer in asyncio.run(talk())]  # a connection that is reset would raise
    assert set(codes) == {200, 503}
    assert codes.count(200) >= 17


@signals
def test_a_server_for_the_network_warns(start):
    process = start("page=False, host='0.0.0.0'")
    address_of(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert process.stderr.read() == (
        "deeplab: warning: with --host 0.0.0.0 everyone on the network can use this server; "
        "it has no password and no encryption\n"
    )


def test_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port} .* try another --port"):
            app(App(port=port))


def test_a_missing_extra_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'deeplab-crf\[app\]'"):
        app(App())
