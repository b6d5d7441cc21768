"""``deeplab app``: serve the web page and the HTTP API."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes

from deeplab.commands.common import OK, ModelOptions, load_model

if TYPE_CHECKING:
    from pathlib import Path
    from socket import socket

    from deeplab.serving.limits import Limits


@dataclass(frozen=True)
class App:
    """Serve a web page and an HTTP API (POST /v1/segment) until Ctrl-C."""

    host: str = "127.0.0.1"
    """Address to listen on: by default only this machine can connect; 0.0.0.0 for the whole network."""
    port: int = 7860
    """Port to listen on; 0 for any free port."""
    page: bool = True
    """Serve the web page in addition to the HTTP API."""
    model: OmitArgPrefixes[ModelOptions] = field(default_factory=lambda: ModelOptions())
    max_megabytes: float = 20.0
    """Maximum size of a request body in megabytes."""
    max_megapixels: float = 4.0
    """Size at which photos are processed; larger ones (up to 60 megapixels) are downscaled to it.
    The CRF needs 1.2 GB per megapixel."""
    max_seconds: float = 60.0
    """Maximum time from a request to its response."""
    workers: int = 1
    """Number of photos processed at a time; each uses all cores."""
    waiting: int = 16
    """Maximum number of waiting requests; further ones get status 503."""
    max_stored_megabytes: float = 500.0
    """Maximum size of all uploads to the page together; each upload is deleted after half an hour at most."""
    host_names: tuple[str, ...] = ()
    """Further host names of the server, such as that of a reverse proxy.
    localhost and IP addresses are always accepted."""


def app(options: App) -> int:
    """Serve until a signal to stop, and finish the running requests."""
    import os
    import tempfile
    from pathlib import Path

    from deeplab.optional import EXTRAS, require

    for module in EXTRAS["app"]:
        require(module, "the server")

    from deeplab.serving.server import listen, stopped_by_signals

    limits = _limits(options)
    with (
        stopped_by_signals(),
        listen(options.host, options.port) as listener,
        tempfile.TemporaryDirectory(prefix="deeplab-", ignore_cleanup_errors=True) as folder,
    ):
        _serve(options, limits, listener, Path(os.path.realpath(folder)))
    print("stopped")
    return OK


def _serve(options: App, limits: Limits, listener: socket, folder: Path) -> None:
    import shutil

    from deeplab.serving.decoder_process import DecoderPool
    from deeplab.serving.http import service
    from deeplab.serving.queue import WorkQueue
    from deeplab.serving.server import serve

    model = load_model(options.model)
    queue = WorkQueue(limits.workers, limits.waiting)
    decoder = DecoderPool()
    names = (options.host, *options.host_names)
    server = service(model, limits, queue=queue, decoder=decoder, names=names)
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{host}:{listener.getsockname()[1]}"
    if not is_local(options):
        print(_warning(options), file=sys.stderr, flush=True)
    if options.page:
        _prepare_gradio(folder)
        from deeplab.serving.page import mount_page
        from deeplab.serving.upload_store import UploadStore

        uploads = UploadStore(folder, limits)
        close_streams = mount_page(server, model, limits, queue, decoder, uploads, local=is_local(options))
        print(f"page: {address}/")
    else:
        close_streams = _no_streams
    print(f"HTTP: {address}/v1/segment, described in {address}/openapi.json; Ctrl-C stops", flush=True)

    def clean_up() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        decoder.end()

    serve(server, listener, seconds=limits.seconds, close_streams=close_streams, clean_up=clean_up)


def _no_streams() -> None:
    """Do nothing: only the page has streaming responses."""


def _prepare_gradio(folder: Path) -> None:
    """Set the variables that Gradio reads at import: its files go to a folder that is deleted at the end."""
    import os

    os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}


def is_local(options: App) -> bool:
    """Return whether only this machine can use the server: a loopback address, and no proxy."""
    import ipaddress

    try:
        is_loopback = ipaddress.ip_address(options.host).is_loopback
    except ValueError:
        is_loopback = options.host.lower().rstrip(".") == "localhost"
    return is_loopback and not options.host_names


def _limits(options: App) -> Limits:
    from deeplab.serving.limits import Limits

    pixels = int(options.max_megapixels * 1e6)
    return Limits(
        bytes=int(options.max_megabytes * 1e6),
        pixels=pixels,
        decoded_pixels=max(Limits.decoded_pixels, pixels),
        seconds=options.max_seconds,
        workers=options.workers,
        waiting=options.waiting,
        stored_bytes=int(options.max_stored_megabytes * 1e6),
    )


def _warning(options: App) -> str:
    where = (
        f"--host {options.host}" if not options.host_names else f"--host-names {' '.join(options.host_names)}"
    )
    return (
        f"deeplab: warning: with {where} everyone on the network can use this server; "
        "it has no password and no encryption"
    )
