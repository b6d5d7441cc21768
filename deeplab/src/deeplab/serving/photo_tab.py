"""The page's tab for one photo: compare network and CRF, move the CRF's sliders, save the results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from deeplab.photos import PHOTO_ENDINGS
from deeplab.serving.comparison import PAIRS, comparison, show_both, show_refined
from deeplab.serving.crf_sliders import ITERATIONS, crf_sliders, params_from_sliders, slider_values
from deeplab.serving.limits import HTTPError
from deeplab.serving.page_html import FILES, code, links, note, result_legend, summary
from deeplab.serving.page_services import PageServices, upload_path
from deeplab.serving.result_cache import PageResult

T = TypeVar("T")
PAGE_PIXELS = 1_000_000  # larger photos are shrunk: their scores are kept, and sliders should answer at once
EXAMPLES = Path(__file__).parents[4] / "examples" / "photos"  # in a checkout; a wheel has none
FIRST_PAIR = next(iter(PAIRS))


@dataclass(frozen=True)
class _Components:
    """Components of the tab that events read or change."""

    photo: Any
    pair: Any
    x: Any
    y: Any
    sliders: list[Any]
    reset: Any
    compare: Any
    legend: Any
    summary: Any
    files: Any
    pixel: Any
    code: Any

    @property
    def outputs(self) -> list[Any]:
        return [self.compare, self.legend, self.summary, self.files, self.pixel, self.code]


class PhotoTab:
    """The tab for one photo: its components, and the functions that answer their events.

    Args:
        services: what the tabs share.
    """

    def __init__(self, services: PageServices):
        self._services = services

    def build(self) -> None:
        """Make the components and their events; called inside of ``gr.Tab``."""
        name = gr.State(None)  # of the result in the cache
        with gr.Row(elem_id="photo-tab"):
            with gr.Column(elem_id="photo-column"):
                photo, summary_line = self._photo_column()
            with gr.Column(elem_id="compare-column"):
                pair = gr.Radio(list(PAIRS), value=FIRST_PAIR, label="compare left | right", elem_id="pair")
                compare = comparison()
                pixel = gr.HTML(note("point at the picture for class and confidence"), elem_id="pixel")
                sliders = crf_sliders(self._services.model.crf_params)
                reset = gr.Button("Reset the parameters", elem_id="reset")
                with gr.Row(elem_id="point"):
                    x = gr.Number(0, label="pixel x", precision=0, minimum=0, min_width=80, elem_id="x")
                    y = gr.Number(0, label="pixel y", precision=0, minimum=0, min_width=80, elem_id="y")
            with gr.Column(elem_id="result-column"):
                legend = gr.HTML(elem_id="legend")
                files = gr.HTML(elem_id="files")
                code_box = self._code_box()
        parts = _Components(
            photo, pair, x, y, sliders, reset, compare, legend, summary_line, files, pixel, code_box
        )
        self._add_events(name, parts)

    def _photo_column(self) -> tuple[Any, Any]:
        photo = gr.Image(
            label="photo",
            type="filepath",
            image_mode=None,
            sources=["upload", "webcam", "clipboard"],
            height=280,
            elem_id="photo",
        )
        if examples():
            gr.Examples([[str(path)] for path in examples()], [photo], label="examples")
        return photo, gr.HTML(note("drop a photo to begin"), elem_id="summary")

    def _code_box(self) -> Any:
        return gr.Code(
            code(self._services.model.crf_params, ITERATIONS),
            language="python",
            label="Python code for these parameters",
            interactive=False,
            elem_id="code",
            lines=2,
            wrap_lines=True,
            buttons=["copy"],
        )

    def _add_events(self, name: Any, parts: _Components) -> None:
        """Connect the components; ``params_from_sliders`` checks the sliders instead of Gradio."""
        values = [parts.pair, parts.x, parts.y, *parts.sliders]
        private: dict[str, Any] = {"api_visibility": "private"}
        quiet: dict[str, Any] = {"show_progress": "hidden", **private}
        parts.photo.change(
            self.label,
            [parts.photo, name, *values],
            [name, *parts.outputs],
            preprocess=False,
            show_progress_on=[parts.compare],
            **private,
        )
        refine: dict[str, Any] = {
            "fn": self.refine,
            "inputs": [name, *values],
            "outputs": parts.outputs,
            "preprocess": False,
            **quiet,
        }
        gr.on([slider.input for slider in parts.sliders], trigger_mode="always_last", **refine)
        parts.reset.click(self.defaults, None, parts.sliders, **quiet).then(**refine)
        parts.pair.input(self.compare, [name, parts.pair], parts.compare, **quiet)
        parts.compare.select(self.click, [name], [parts.x, parts.y, parts.pixel], **quiet)
        point = [name, parts.x, parts.y]
        gr.on(
            [parts.x.input, parts.y.input],
            self.point,
            point,
            parts.pixel,
            trigger_mode="always_last",
            **quiet,
        )

    async def label(
        self, file: Any, name: str | None, pair: Any, x: Any, y: Any, *values: Any
    ) -> tuple[Any, ...]:
        """Label a new photo with network and CRF.

        Args:
            file: the upload as the browser sends it; Gradio has not opened it.
            name: name of the previous result, which is replaced; None for the first photo.
            pair: key of ``PAIRS``.
            x: column of the chosen pixel; None if the box is empty.
            y: row of the chosen pixel; None if the box is empty.
            values: values of the sliders.

        Returns:
            The name of the result, and the outputs of the tab.
        """
        if file is None:
            return (gr.skip(),) * 7
        services = self._services
        params, iterations = params_from_sliders(values, services.model.crf_params)

        def work() -> tuple[Any, ...]:
            content = services.uploads.read(upload_path(file))
            max_pixels = min(PAGE_PIXELS, services.limits.pixels)
            photo, size = services.decoder.photo(content, services.limits, max_pixels)
            plain = services.model.segment(photo, crf=False)
            refined = services.model.refine(plain, params=params, iterations=iterations)
            result = PageResult(plain, refined, params)
            new_name = services.results.put(result, name)
            return (
                new_name,
                show_both(result, new_name, _known_pair(pair)),
                result_legend(result),
                note(summary(result, None if photo.shape[:2] == size else size)),
                links(new_name, FILES),
                self.point(new_name, x, y),
                code(params, iterations),
            )

        return await self._run(work)

    async def refine(self, name: str | None, pair: Any, x: Any, y: Any, *values: Any) -> tuple[Any, ...]:
        """Run the CRF alone with other parameters, on the stored scores of a photo.

        Args:
            name: name of the result; None before the first photo.
            pair: key of ``PAIRS``.
            x: column of the chosen pixel; None if the box is empty.
            y: row of the chosen pixel; None if the box is empty.
            values: values of the sliders.

        Returns:
            The outputs of the tab; those that did not change are skipped.
        """
        services = self._services
        params, iterations = params_from_sliders(values, services.model.crf_params)
        before = services.results.get(name)
        if not isinstance(before, PageResult) or name is None:
            if name is not None:
                gr.Warning("this photo is no longer stored; drop it again")
            return *(gr.skip() for _ in range(5)), code(params, iterations)

        def work() -> tuple[Any, ...]:
            refined = services.model.refine(before.plain, params=params, iterations=iterations)
            result = replace(before, params=params, refined=refined)
            services.results.put(result, name)
            return (
                show_refined(result, _known_pair(pair)),
                result_legend(result),
                note(summary(result)),
                gr.skip(),
                self.point(name, x, y),
                code(params, iterations),
            )

        return await self._run(work)

    def defaults(self) -> tuple[Any, ...]:
        """Return the values of the sliders that belong to the weights."""
        return slider_values(self._services.model.crf_params)

    def compare(self, name: str | None, pair: str) -> Any:
        """Compare another pair of pictures.

        Args:
            name: name of the result; None before the first photo.
            pair: key of ``PAIRS``.

        Returns:
            An update of the comparison.
        """
        result = self._services.results.get(name)
        return show_both(result, name, pair) if isinstance(result, PageResult) and name else gr.skip()

    def point(self, name: str | None, x: Any, y: Any) -> Any:
        """Show class and confidence at a pixel.

        Args:
            name: name of the result; None before the first photo.
            x: column of the pixel; None, for an empty box, counts as 0.
            y: row of the pixel, likewise.

        Returns:
            An update of the line below the picture.
        """
        result = self._services.results.get(name)
        if not isinstance(result, PageResult):
            return gr.skip()
        return note(result.at(_coordinate(x), _coordinate(y)))

    def click(self, name: str | None, event: gr.SelectData) -> tuple[Any, ...]:
        """Choose the pixel of a click on the picture.

        Args:
            name: name of the result; None before the first photo.
            event: the click; its index is (x, y).

        Returns:
            x, y, and an update of the line below the picture.
        """
        x, y = (int(value) for value in event.index[:2])
        return x, y, self.point(name, x, y)

    async def _run(self, job: Callable[[], T]) -> T:
        """Run a job in the work queue; the page shows an error as a note."""
        try:
            with self._services.queue.slot() as slot:
                return await slot.run(job, seconds=self._services.limits.seconds)
        except (HTTPError, MemoryError) as error:
            raise gr.Error(str(error) or "out of memory", print_exception=False) from None


def examples() -> list[Path]:
    """Return the example photos of the repository; none if the package was installed without it."""
    return sorted(path for path in EXAMPLES.glob("*") if path.suffix in PHOTO_ENDINGS)


def _known_pair(pair: Any) -> str:
    return pair if isinstance(pair, str) and pair in PAIRS else FIRST_PAIR


def _coordinate(value: Any) -> int:
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    return int(value) if is_number else 0
