"""The page's tab for several photos: a folder in, overlays, shares and one zip out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from deeplab.page_parts import legend, links, note
from deeplab.photos import PHOTO_ENDINGS
from deeplab.refusals import Limits, Refusal
from deeplab.segment import Model
from deeplab.shelf import Archive, Batch, Shelf
from deeplab.uploads import photo_from_bytes, shrunk
from deeplab.workers import Workers

MOST, SHOWN, THUMBNAIL = 50, 12, 480


class Several:
    """What the tab does; arguments as in ``app.mount_page``, and the shelf for its results."""

    def __init__(self, model: Model, limits: Limits, line: Workers, shelf: Shelf):
        self._model, self._limits, self._line, self._shelf = model, limits, line, shelf

    def blocks(self) -> None:
        """The tab as Gradio has it; called within it."""
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                photos = gr.File(
                    label=f"photos, at most {MOST}", file_count="multiple", file_types=list(PHOTO_ENDINGS),
                    elem_id="photos",
                )  # fmt: skip
                folder = gr.UploadButton(
                    "… or all photos of a folder", file_count="directory", size="sm", elem_id="folder"
                )
                crf = gr.Checkbox(True, label="refine with the CRF")
                start = gr.Button("Label them", variant="primary", elem_id="start")
                told = gr.HTML(
                    note("ids and overlay of each photo, and a table of the classes, in one zip"), elem_id="told"
                )
                files = gr.HTML(elem_id="batch-files")
            with gr.Column(scale=3, min_width=300):
                gallery = gr.Gallery(
                    label="overlays", columns=3, format="jpeg", object_fit="contain", elem_id="gallery"
                )
                shares = gr.HTML(elem_id="batch-legend")
        folder.upload(photos_of, folder, photos, show_progress="hidden", api_visibility="private")
        start.click(
            self.label, [photos, crf], [gallery, shares, told, files], api_visibility="private",
            show_progress_on=[gallery],
        )  # fmt: skip

    async def label(
        self, paths: list[str] | None, crf: bool, progress: gr.Progress = gr.Progress()  # noqa: B008 (Gradio's way)
    ) -> tuple[Any, ...]:  # fmt: skip
        """Several photos: pictures, shares over all, what failed, and a zip."""
        if not paths or len(paths) > MOST:
            raise gr.Error(
                f"got {len(paths or [])} photos, wanted 1 to {MOST}; deeplab segment FOLDER takes any number",
                print_exception=False,
            )
        archive, shown, failed, total = Archive(), list[tuple[np.ndarray, str]](), list[str](), dict[str, float]()

        def work(path: Path) -> None:
            result = self._model.segment(photo_from_bytes(path.read_bytes(), self._limits), crf=crf)
            stored = archive.add(path.stem, result)
            if len(shown) < SHOWN:
                shown.append((shrunk(result.overlay(), THUMBNAIL**2), stored))
            for label, share in result.shares().items():
                total[label] = total.get(label, 0.0) + share

        with archive:
            for path in progress.tqdm(list(map(Path, paths)), unit="photos"):
                try:
                    await self._patiently(lambda path=path: work(path))  # type: ignore[misc]
                except (Refusal, MemoryError) as error:
                    failed.append(f"{path.name}: {error}")
        done = len(paths) - len(failed)
        told = "; ".join([f"{done} of {len(paths)} photos labelled", *failed])
        if not done:
            return [], "", note(told), ""
        name = self._shelf.put(Batch(archive.content()))
        table = legend({"share": {label: share / done for label, share in total.items()}}, self._model.class_names)
        return shown, table, note(told), links(name, {"labels.zip": "labels, zip"})

    async def _patiently(self, job: Callable[[], None]) -> None:
        """Do a job as soon as there is a place in line, for as long as one request may take."""
        end = time.monotonic() + self._limits.seconds
        while True:
            try:
                with self._line.place() as place:
                    return await place.run(job, seconds=self._limits.seconds)
            except Refusal as refusal:
                if refusal.kind != "busy" or time.monotonic() > end:
                    raise
                await asyncio.sleep(0.5)


def photos_of(paths: list[str] | None) -> list[str]:
    """Those files of an uploaded folder that may be photos, sorted by name."""
    found = [path for path in paths or [] if Path(path).suffix.lower() in PHOTO_ENDINGS]
    return sorted(found, key=lambda path: Path(path).name)
