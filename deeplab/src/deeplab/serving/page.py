"""The web page: it is mounted beside the HTTP API, with a tab for one photo and one for several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import gradio as gr
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from starlette.routing import Mount

from deeplab.model.segmentation import Model
from deeplab.serving import comparison, page_html
from deeplab.serving.batch_tab import BatchTab
from deeplab.serving.decoder_process import DecoderPool
from deeplab.serving.limits import HTTPError, Limits
from deeplab.serving.page_services import PageServices
from deeplab.serving.photo_tab import PhotoTab
from deeplab.serving.queue import WorkQueue
from deeplab.serving.result_cache import PageResult, ResultCache
from deeplab.serving.route_filter import RouteFilter
from deeplab.serving.upload_store import UploadStore

PATH = "/page"
MAX_VISITORS = 200  # visitors whose state Gradio keeps, about 0.1 MB each; its own limit is 10,000
LOCAL = "Nothing leaves this machine."
REMOTE = "Photos are sent to the server, which deletes them after half an hour."


def mount_page(
    app: FastAPI,
    model: Model,
    limits: Limits,
    queue: WorkQueue,
    decoder: DecoderPool,
    uploads: UploadStore,
    *,
    local: bool = True,
) -> Callable[[], None]:
    """Mount the page beside the HTTP API, at /page/; / redirects to it.

    Args:
        app: application made by ``service``; it starts the queue and the decoder.
        model: model that labels the photos.
        limits: limits of the server.
        queue: work queue, shared with the HTTP API.
        decoder: decoder processes, shared with the HTTP API.
        uploads: folder of uploads. The environment variable GRADIO_TEMP_DIR must name this folder, and must
            have been set before Gradio was imported.
        local: whether only this machine can reach the server; the page says so.

    Returns:
        A function that closes the streams of open pages. Call it when the server begins to stop, which would
        otherwise wait for these pages.
    """
    results = ResultCache()
    services = PageServices(model, limits, queue, decoder, uploads, results)
    _add_start_routes(app)
    _add_result_routes(app, services)
    blocks = build_page(services, local=local)
    blocks.state_session_capacity = MAX_VISITORS
    gr.mount_gradio_app(
        app,
        blocks,
        PATH,
        root_path=PATH,
        max_file_size=limits.bytes,
        enable_monitoring=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=page_html.CSS + comparison.CSS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
    )
    # Gradio checks the paths in a request only if this is set, and mounting does not set it.
    blocks.has_launched = True
    uploads.make_permanent()  # the examples, which Gradio has copied there
    mount = next(route for route in app.routes if isinstance(route, Mount) and route.path == PATH)
    gradio_app: Any = mount.app
    mount.app = RouteFilter(gradio_app, uploads, limits)
    _sweep_while_running(app, uploads)
    return lambda: gradio_app.stop_event.set()


def build_page(services: PageServices, *, local: bool = True) -> gr.Blocks:
    """Make the page.

    Args:
        services: what the tabs share.
        local: whether only this machine can reach the server.

    Returns:
        The page as a Gradio application that is not mounted yet.
    """
    with gr.Blocks(title="DeepLab", analytics_enabled=False) as page:
        gr.Markdown(f"# DeepLab\nLabels every pixel of a photo. {LOCAL if local else REMOTE}")
        with gr.Tab("One photo"):
            PhotoTab(services).build()
        with gr.Tab("Several photos"):
            BatchTab(services).build()
    return page.queue(default_concurrency_limit=None, max_size=64)


def _add_start_routes(app: FastAPI) -> None:
    """Redirect / to the page, and answer what browsers request beside a page."""

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse(f"{PATH.removeprefix('/')}/")

    @app.get("/manifest.json", include_in_schema=False)
    async def manifest() -> JSONResponse:
        return JSONResponse({"name": "DeepLab"}, media_type="application/manifest+json")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)


def _add_result_routes(app: FastAPI, services: PageServices) -> None:
    """Answer for the class at a pixel of a result, and for the files of a result."""

    @app.get("/results/{name}/at", include_in_schema=False)
    async def at(name: str, x: int, y: int) -> PlainTextResponse:
        result = services.results.get(name)
        return PlainTextResponse(result.at(x, y) if isinstance(result, PageResult) else "")

    @app.get("/results/{name}/{file}", include_in_schema=False)
    async def download(name: str, file: str) -> Response:
        result = services.results.get(name)
        make = result.files.get(file) if result else None
        if make is None:
            raise HTTPError(404, "gone", "no such file, or no longer stored; label the photo again")
        with services.queue.slot() as slot:
            content = await slot.run(make, seconds=services.limits.seconds)
        headers = {"content-disposition": f'attachment; filename="{file}"', "cache-control": "no-store"}
        return Response(content, media_type="application/octet-stream", headers=headers)


def _sweep_while_running(app: FastAPI, uploads: UploadStore) -> None:
    """Delete old uploads while the application runs."""
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan_with_sweeper(app: FastAPI) -> AsyncIterator[Any]:
        async with lifespan(app) as state:
            sweeper = asyncio.create_task(uploads.sweep_forever())
            try:
                yield state
            finally:
                sweeper.cancel()

    app.router.lifespan_context = lifespan_with_sweeper
