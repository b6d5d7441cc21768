"""``deeplab app``: the page and the HTTP door, on this machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from deeplab.commands.common import OK, ModelOptions, model_of


@dataclass(frozen=True)
class App:
    """Serve a page to try photos on, and POST /v1/segment for programs, until Ctrl-C."""

    host: str = "127.0.0.1"
    """Address to listen on: this machine alone by default, 0.0.0.0 for the network around it."""
    port: int = 7860
    """Port to listen on; 0 for a free one."""
    page: bool = True
    """Serve the page, too."""
    engine: OmitArgPrefixes[ModelOptions] = field(default_factory=lambda: ModelOptions())
    max_megabytes: float = 20.0
    """Of a request's body."""
    max_megapixels: float = 4.0
    """Of a photo as it is worked on; a larger one, of up to 60, is shrunk to it. The CRF takes 1.2 GB for
    each."""
    max_seconds: float = 60.0
    """From a request's arrival to its answer."""
    workers: int = 1
    """Photos worked on at a time; each takes all cores."""
    waiting: int = 16
    """Requests that may wait; more are told to come back."""
    max_stored_megabytes: float = 500.0
    """Of all photos that visitors of the page have uploaded; each is kept for half an hour at most."""
    host_names: tuple[str, ...] = ()
    """Names under which the server is asked for, as that of a proxy before it; localhost and addresses always
    are."""


def app(options: App) -> int:
    """Listen, serve until told to stop, and finish what runs."""
    import os
    import shutil
    import tempfile
    from pathlib import Path

    from deeplab.optional import EXTRAS, require

    for module in EXTRAS["app"]:
        require(module, "the server")

    from deeplab.serving.limits import Limits
    from deeplab.serving.server import listen, serve, stopped_by_signals

    pixels = int(options.max_megapixels * 1e6)
    limits = Limits(
        bytes=int(options.max_megabytes * 1e6),
        pixels=pixels,
        decoded_pixels=max(Limits.decoded_pixels, pixels),
        seconds=options.max_seconds,
        workers=options.workers,
        waiting=options.waiting,
        stored_bytes=int(options.max_stored_megabytes * 1e6),
    )
    with (
        stopped_by_signals(),
        listen(options.host, options.port) as listener,
        tempfile.TemporaryDirectory(prefix="deeplab-", ignore_cleanup_errors=True) as folder,
    ):
        from deeplab.serving.decoder_process import Decoder
        from deeplab.serving.http import service
        from deeplab.serving.queue import WorkQueue

        model, line, decoder = model_of(options.engine), WorkQueue(limits.workers, limits.waiting), Decoder()
        names = (options.host, *options.host_names)
        door, hang_up = service(model, limits, workers=line, decoder=decoder, names=names), None
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{host}:{listener.getsockname()[1]}"
        if options.page:
            folder = os.path.realpath(folder)
            # Gradio reads both when it is imported: what it keeps of a visit goes when the server goes
            os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
            from deeplab.serving.page import mount_page
            from deeplab.serving.upload_store import UploadStore

            hang_up = mount_page(door, model, limits, line, decoder, UploadStore(Path(folder), limits))
            print(f"page: {address}/")
        print(f"HTTP: {address}/v1/segment, described in {address}/openapi.json; Ctrl-C stops", flush=True)

        def give_up() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            decoder.end()

        serve(door, listener, seconds=limits.seconds, hang_up=hang_up or (lambda: None), give_up=give_up)
    print("stopped")
    return OK
