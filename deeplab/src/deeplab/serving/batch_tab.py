"""The page's tab for several photos: a folder in, overlays, shares and one zip out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from deeplab.model.segmentation import Model
from deeplab.photos import PHOTO_ENDINGS
from deeplab.serving.decode import shrunk
from deeplab.serving.decoder_process import Decoder
from deeplab.serving.limits import HTTPError, Limits
from deeplab.serving.page_html import legend, links, note
from deeplab.serving.queue import WorkQueue
from deeplab.serving.result_cache import Archive, Batch, ResultCache
from deeplab.serving.upload_store import UploadStore

MOST, SHOWN, THUMBNAIL = 50, 12, 480


class BatchTab:
    """What the tab does; arguments as of ``app.Page``."""

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

    def blocks(self) -> None:
        """The tab as Gradio has it; called within it."""
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                photos = gr.File(
                    label=f"photos, at most {MOST}",
                    file_count="multiple",
                    file_types=list(PHOTO_ENDINGS),
                    elem_id="photos",
                )
                folder = gr.UploadButton(
                    "… or all photos of a folder", file_count="directory", size="sm", elem_id="folder"
                )
                crf = gr.Checkbox(True, label="refine with the CRF")
                start = gr.Button("Label them", variant="primary", elem_id="start")
                told = gr.HTML(
                    note("ids and overlay of each photo, and a table of the classes, in one zip"),
                    elem_id="told",
                )
                files = gr.HTML(elem_id="batch-files")
            with gr.Column(scale=3, min_width=300):
                gallery = gr.Gallery(
                    label="overlays", columns=3, format="jpeg", object_fit="contain", elem_id="gallery"
                )
                shares = gr.HTML(elem_id="batch-legend")
        folder.upload(
            self.photos_of, folder, photos, show_progress="hidden", api_visibility="private", preprocess=False
        )
        start.click(
            self.label,
            [photos, crf],
            [gallery, shares, told, files],
            api_visibility="private",
            preprocess=False,
            show_progress_on=[gallery],
        )

    async def label(
        self,
        files: Any,
        crf: bool,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio's way)
    ) -> tuple[Any, ...]:
        """BatchTab photos: pictures, shares over all, what failed, and a zip."""
        paths = self._paths(files)
        if not 0 < len(paths) <= MOST:
            raise gr.Error(
                f"got {len(paths)} photos, wanted 1 to {MOST}; deeplab segment FOLDER takes any number",
                print_exception=False,
            )
        archive, shown, total = Archive(), list[tuple[np.ndarray, str]](), dict[str, float]()
        failed, small = list[str](), list[str]()

        def work(path: Path) -> None:
            photo, size = self._decoder.photo(self._stored.read(str(path)), self._limits, self._limits.pixels)
            if photo.shape[:2] != size:
                small.append(path.name)
            result = self._model.segment(photo, crf=bool(crf))
            stored = archive.add(path.stem, result)
            if len(shown) < SHOWN:
                shown.append((shrunk(result.overlay(), THUMBNAIL**2), stored))
            for label, share in result.shares().items():
                total[label] = total.get(label, 0.0) + share

        with archive, self._stored.held(paths):
            for path in progress.tqdm(paths, unit="photos"):
                try:
                    await self._patiently(lambda path=path: work(path))  # type: ignore[misc]
                except (HTTPError, MemoryError) as error:
                    failed.append(f"{path.name}: {error}")
        done = len(paths) - len(failed)
        most = f"{self._limits.pixels / 1e6:g} megapixels"
        shrunk_too = [f"{len(small)} shrunk to {most}, as are their labels"] if small else []
        told = "; ".join([f"{done} of {len(paths)} photos labelled", *shrunk_too, *failed])
        if not done:
            return [], "", note(told), ""
        name = self._shelf.put(Batch(archive.content()))
        table = legend(
            {"share": {label: share / done for label, share in total.items()}}, self._model.class_names
        )
        return shown, table, note(told), links(name, {"labels.zip": "labels, zip"})

    async def _patiently(self, job: Callable[[], None]) -> None:
        """Do a job as soon as there is a place in line, for as long as one request may take."""
        end = time.monotonic() + self._limits.seconds
        while True:
            try:
                with self._line.place() as place:
                    return await place.run(job, seconds=self._limits.seconds)
            except HTTPError as refusal:
                if refusal.kind != "busy" or time.monotonic() > end:
                    raise
                await asyncio.sleep(0.5)

    def photos_of(self, files: Any) -> list[str]:
        """Those files of an uploaded folder that may be photos, sorted by name."""
        found = [path for path in self._paths(files) if path.suffix.lower() in PHOTO_ENDINGS]
        return [str(path) for path in sorted(found, key=lambda path: path.name)]

    def _paths(self, files: Any) -> list[Path]:
        """Where the uploads lie that the browser named; gr.Error for what is none."""
        try:
            return [self._stored.path_of(path_in(file)) for file in (files or [])]
        except (HTTPError, TypeError) as error:
            raise gr.Error(str(error), print_exception=False) from None


def path_in(file: Any) -> Any:
    """The path in a file as the browser tells of it, ``{"path": …}``; None if there is none."""
    return file.get("path") if isinstance(file, dict) else None
