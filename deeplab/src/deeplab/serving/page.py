"""The page: a photo in, network and CRF to compare, the CRF's parameters under sliders, files out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from starlette.routing import Mount

from deeplab.model.segmentation import Model
from deeplab.photos import PHOTO_ENDINGS
from deeplab.serving import comparison
from deeplab.serving.batch_tab import BatchTab, path_in
from deeplab.serving.comparison import PAIRS, both, refined
from deeplab.serving.decoder_process import Decoder
from deeplab.serving.limits import HTTPError, Limits
from deeplab.serving.page_html import CSS, FILES, code, legend_of, links, note, times
from deeplab.serving.queue import WorkQueue
from deeplab.serving.result_cache import PageResult, ResultCache
from deeplab.serving.route_filter import RouteFilter
from deeplab.serving.upload_store import UploadStore
from densecrf import Params
from densecrf.params import NORMALIZATIONS

T = TypeVar("T")
PAGE_PIXELS = 1_000_000  # larger photos are shrunk: their scores are kept, and sliders should answer at once
EXAMPLES = Path(__file__).parents[4] / "examples" / "photos"  # in a checkout; a wheel has none
KNOBS = {  # field of Params: title, least, most, step
    "appearance_weight": ("w1 · appearance, weight", 0, 30, 0.5),
    "appearance_xy_std": ("σα · appearance, pixels", 1, 200, 1),
    "appearance_rgb_std": ("σβ · appearance, colour levels", 0.5, 60, 0.5),
    "smoothness_weight": ("w2 · smoothness, weight", 0, 30, 0.5),
    "smoothness_xy_std": ("σγ · smoothness, pixels", 0.5, 30, 0.5),
}
ITERATIONS, MOST_ITERATIONS = 10, 30
SESSIONS = 200  # visitors whose page is remembered; each takes about 0.1 MB, and Gradio's own bound is 10,000


def mount_page(
    door: FastAPI, model: Model, limits: Limits, line: WorkQueue, decoder: Decoder, stored: UploadStore
) -> Callable[[], None]:
    """Put the page beside the HTTP door, at /page/; / leads to it.

    Args:
        door: as ``service`` makes it; its lifespan opens ``line``.
        model: that labels the photos.
        limits: of ``door``.
        line: workers, shared with ``door``.
        decoder: likewise.
        stored: where uploads lie; GRADIO_TEMP_DIR names its folder, and did so before Gradio was imported.

    Returns:
        What hangs up on open pages, to be called when the server is to stop; it would wait for them else.
    """
    shelf = ResultCache()

    @door.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("page/")

    @door.get("/manifest.json", include_in_schema=False)  # browsers ask for it
    async def manifest() -> JSONResponse:
        return JSONResponse({"name": "DeepLab"}, media_type="application/manifest+json")

    @door.get("/favicon.ico", include_in_schema=False)  # likewise
    async def icon() -> Response:
        return Response(status_code=204)

    @door.get("/kept/{name}/at", include_in_schema=False)
    async def at(name: str, x: int, y: int) -> PlainTextResponse:
        thing = shelf.get(name)
        return PlainTextResponse(thing.at(x, y) if isinstance(thing, PageResult) else "")

    @door.get("/kept/{name}/{file}", include_in_schema=False)
    async def kept(name: str, file: str) -> Response:
        thing = shelf.get(name)
        make = thing.files.get(file) if thing else None
        if make is None:
            raise HTTPError(404, "gone", "no such file, or no longer kept; label the photo again")
        with line.place() as place:
            content = await place.run(make, seconds=limits.seconds)
        headers = {"content-disposition": f'attachment; filename="{file}"', "cache-control": "no-store"}
        return Response(content, media_type="application/octet-stream", headers=headers)

    blocks = Page(model, limits, line, decoder, stored, shelf).blocks()
    blocks.state_session_capacity = SESSIONS
    gr.mount_gradio_app(
        door,
        blocks,
        "/page",
        root_path="/page",
        max_file_size=limits.bytes,
        enable_monitoring=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS + comparison.CSS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
    )
    blocks.has_launched = (
        True  # Gradio looks at the paths of a request only where this is set, and leaves it unset
    )
    stored.keep()  # the examples, which Gradio has copied there
    mount = next(route for route in door.routes if isinstance(route, Mount) and route.path == "/page")
    mounted, mount.app = mount.app, RouteFilter(mount.app, stored, limits)
    before = door.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with before(app) as state:
            sweeper = asyncio.create_task(stored.swept())
            try:
                yield state
            finally:
                sweeper.cancel()

    door.router.lifespan_context = lifespan
    return lambda: mounted.stop_event.set()  # type: ignore[attr-defined]


def examples() -> list[Path]:
    """The photos of the repository, if this is a checkout of it."""
    return sorted(path for path in EXAMPLES.glob("*") if path.suffix in PHOTO_ENDINGS)


class Page:
    """What the page does; arguments as of ``mount_page``, and the shelf for its results."""

    def __init__(
        self,
        model: Model,
        limits: Limits,
        line: WorkQueue,
        decoder: Decoder,
        stored: UploadStore,
        shelf: ResultCache,
    ):
        self._model, self._limits, self._line = model, limits, line
        self._decoder, self._stored, self._shelf = decoder, stored, shelf

    def blocks(self) -> gr.Blocks:
        """The page as Gradio has it."""
        with gr.Blocks(title="DeepLab", analytics_enabled=False) as page:
            gr.Markdown("# DeepLab\nA photo in, a label for every pixel out. Nothing leaves this machine.")
            with gr.Tab("One photo"):
                self._one()
            with gr.Tab("BatchTab photos"):
                several = BatchTab(
                    self._model, self._limits, self._line, self._decoder, self._stored, self._shelf
                )
                several.blocks()
        return page.queue(default_concurrency_limit=None, max_size=64)

    def _one(self) -> None:
        name = gr.State(None)
        with gr.Row(elem_id="one"):
            with gr.Column(elem_id="given"):
                photo = gr.Image(
                    label="photo",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "webcam", "clipboard"],
                    height=280,
                    elem_id="photo",
                )
                if examples():
                    gr.Examples([[str(path)] for path in examples()], [photo], label="or one of these")
                summary = gr.HTML(note("drop a photo to begin"), elem_id="times")
            with gr.Column(elem_id="tried"):
                pair = gr.Radio(
                    list(PAIRS), value=next(iter(PAIRS)), label="compare left | right", elem_id="pair"
                )
                compare = comparison.comparison()
                pixel = gr.HTML(note("point at the picture for class and confidence"), elem_id="pixel")
                knobs = self._knobs()
                reset = gr.Button("Back to the standard values", elem_id="reset")
                with gr.Row(elem_id="point"):
                    x = gr.Number(0, label="x", precision=0, minimum=0, min_width=80, elem_id="x")
                    y = gr.Number(0, label="y", precision=0, minimum=0, min_width=80, elem_id="y")
            with gr.Column(elem_id="taken"):
                shares = gr.HTML(elem_id="legend")
                files = gr.HTML(elem_id="files")
                text = gr.Code(
                    code(self._model.crf_params, ITERATIONS),
                    language="python",
                    label="copy these as Params",
                    interactive=False,
                    elem_id="code",
                    lines=2,
                    wrap_lines=True,
                    buttons=["copy"],
                )
        outputs = [compare, shares, summary, files, pixel, text]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        photo.change(
            self.label,
            [photo, name, pair, x, y, *knobs],
            [name, *outputs],
            api_visibility="private",
            preprocess=False,
            show_progress_on=[compare],
        )
        again: dict[str, Any] = {
            "fn": self.refine,
            "inputs": [name, pair, x, y, *knobs],
            "outputs": outputs,
            **quiet,
        }
        gr.on([knob.input for knob in knobs], trigger_mode="always_last", **again)
        reset.click(self.standard, None, knobs, **quiet).then(**again)
        pair.input(self.compare, [name, pair], compare, **quiet)
        compare.select(self.click, [name], [x, y, pixel], **quiet)
        gr.on([x.input, y.input], self.point, [name, x, y], pixel, trigger_mode="always_last", **quiet)

    def _knobs(self) -> list[Any]:
        """Sliders for the fields of Params, two in a row, and the normalisation."""
        params, knobs = self._model.crf_params, list[Any]()
        ranges = [
            (f"knob-{field}", title, ends_of(field, params), step, float(getattr(params, field)))
            for field, (title, _, _, step) in KNOBS.items()
        ]
        ranges.append(("knob-iterations", "iterations", (0.0, float(MOST_ITERATIONS)), 1, float(ITERATIONS)))
        for first in range(0, len(ranges), 2):
            with gr.Row():
                for where, title, ends, step, value in ranges[first : first + 2]:
                    knobs.append(
                        gr.Slider(*ends, value, step=step, label=title, min_width=220, elem_id=where)
                    )
        knobs.append(
            gr.Radio(
                list(NORMALIZATIONS),
                value=params.normalization,
                label="normalisation",
                elem_id="knob-normalization",
            )
        )
        return knobs

    async def label(
        self, file: Any, name: str | None, pair: str, x: float | None, y: float | None, *values: Any
    ) -> tuple[Any, ...]:
        """A new photo: network and CRF; ``file`` is as the browser tells of it, and Gradio has not opened
        it."""
        if file is None:
            return (gr.skip(),) * 7
        params, iterations = params_of(values, self._model.crf_params)
        pair = pair if pair in PAIRS else next(iter(PAIRS))

        def work() -> tuple[Any, ...]:
            content = self._stored.read(path_in(file))
            small, size = self._decoder.photo(content, self._limits, min(PAGE_PIXELS, self._limits.pixels))
            plain = self._model.segment(small, crf=False)
            kept = PageResult(plain, self._model.refine(plain, params=params, iterations=iterations), params)
            mine = self._shelf.put(kept, name)
            told = note(times(kept, None if small.shape[:2] == size else size))
            text = code(params, iterations)
            return (
                mine,
                both(kept, mine, pair),
                legend_of(kept),
                told,
                links(mine, FILES),
                self.point(mine, x, y),
                text,
            )

        return await self._work(work)

    async def refine(
        self, name: str | None, pair: str, x: float | None, y: float | None, *values: Any
    ) -> tuple[Any, ...]:
        """Other parameters: the CRF alone, on kept scores; what it leaves as it was is not sent again."""
        params, iterations = params_of(values, self._model.crf_params)
        before = self._shelf.get(name)
        if not isinstance(before, PageResult) or name is None:
            if name is not None:
                gr.Warning("this photo is no longer kept; drop it again")
            return *(gr.skip() for _ in range(5)), code(params, iterations)

        def work() -> tuple[Any, ...]:
            result = self._model.refine(before.plain, params=params, iterations=iterations)
            kept = replace(before, params=params, refined=result)
            self._shelf.put(kept, name)
            told, text = note(times(kept)), code(params, iterations)
            return refined(kept, pair), legend_of(kept), told, gr.skip(), self.point(name, x, y), text

        return await self._work(work)

    def standard(self) -> tuple[Any, ...]:
        """The values that belong to the weights, in the order of the sliders."""
        params = self._model.crf_params
        return *(getattr(params, field) for field in KNOBS), ITERATIONS, params.normalization

    def compare(self, name: str | None, pair: str) -> Any:
        """Other pictures in the before/after slider."""
        kept = self._shelf.get(name)
        return both(kept, name, pair) if isinstance(kept, PageResult) and name else gr.skip()

    def point(self, name: str | None, x: float | None, y: float | None) -> Any:
        """Class and confidence at a pixel."""
        kept = self._shelf.get(name)
        return note(kept.at(int(x or 0), int(y or 0))) if isinstance(kept, PageResult) else gr.skip()

    def click(self, name: str | None, event: gr.SelectData) -> tuple[Any, ...]:
        """The pixel that was clicked."""
        x, y = int(event.index[0]), int(event.index[1])
        return x, y, self.point(name, x, y)

    async def _work(self, job: Callable[[], T]) -> T:
        """Do a job in line with everybody else's; what goes wrong is shown as a note on the page."""
        try:
            with self._line.place() as place:
                return await place.run(job, seconds=self._limits.seconds)
        except (HTTPError, MemoryError) as error:
            raise gr.Error(str(error) or "out of memory", print_exception=False) from None


def ends_of(field: str, standard: Params) -> tuple[float, float]:
    """Least and most of the slider for a field of Params; the weights' own value is on it."""
    value = float(getattr(standard, field))
    return min(KNOBS[field][1], value), max(KNOBS[field][2], value)


def params_of(values: tuple[Any, ...], standard: Params) -> tuple[Params, int]:
    """Parameters and iterations from the sliders' values; gr.Error tells what cannot be used, or is on no
    slider."""
    *numbers, iterations, normalization = values
    try:
        params = Params(**dict(zip(KNOBS, map(float, numbers), strict=True)), normalization=normalization)
        steps = int(iterations)
        ranges = [(field, getattr(params, field), *ends_of(field, standard)) for field in KNOBS]
        for field, value, least, most in [*ranges, ("iterations", steps, 0, MOST_ITERATIONS)]:
            if not least <= value <= most:
                raise ValueError(f"got {field} = {value:g}, wanted {least:g} to {most:g}")
    except (TypeError, ValueError, OverflowError) as error:
        raise gr.Error(str(error), print_exception=False) from None
    return params, steps
