"""The page's tab for several photos: label a whole folder, see overlays and shares, save one zip."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from deeplab.photos import PHOTO_ENDINGS
from deeplab.serving.decode import shrink
from deeplab.serving.limits import HTTPError
from deeplab.serving.page_html import legend, links, note
from deeplab.serving.page_services import PageServices, upload_path
from deeplab.serving.result_cache import Archive, Batch

MAX_PHOTOS = 50
MAX_OVERLAYS = 12  # overlays that the page shows; the zip has all
THUMBNAIL_PIXELS = 480**2
RETRY_SECONDS = 0.5  # time between two attempts to get a slot in the work queue


class BatchTab:
    """The tab for several photos: its components, and the functions that answer their events.

    Args:
        services: what the tabs share.
    """

    def __init__(self, services: PageServices):
        self._services = services

    def build(self) -> None:
        """Make the components and their events; called inside of ``gr.Tab``."""
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                photos = gr.File(
                    label=f"photos, at most {MAX_PHOTOS}",
                    file_count="multiple",
                    file_types=list(PHOTO_ENDINGS),
                    elem_id="photos",
                )
                folder = gr.UploadButton(
                    "… or all photos of a folder", file_count="directory", size="sm", elem_id="folder"
                )
                crf = gr.Checkbox(True, label="refine with the CRF")
                start = gr.Button("Label the photos", variant="primary", elem_id="start")
                status = gr.HTML(
                    note(
                        "You get one zip file: class ids and overlay of each photo, and a table of classes."
                    ),
                    elem_id="batch-status",
                )
                files = gr.HTML(elem_id="batch-files")
            with gr.Column(scale=3, min_width=300):
                gallery = gr.Gallery(
                    label="overlays", columns=3, format="jpeg", object_fit="contain", elem_id="gallery"
                )
                shares = gr.HTML(elem_id="batch-legend")
        private: dict[str, Any] = {"api_visibility": "private", "preprocess": False}
        folder.upload(self.photos_in, folder, photos, show_progress="hidden", **private)
        start.click(
            self.label, [photos, crf], [gallery, shares, status, files], show_progress_on=[gallery], **private
        )

    async def label(
        self,
        files: Any,
        crf: bool,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio requires this default)
    ) -> tuple[Any, ...]:
        """Label several photos.

        Args:
            files: the uploads as the browser sends them.
            crf: whether to refine with the CRF.
            progress: progress bar of the page.

        Returns:
            Overlays, legend, a line about what was done and what failed, and the link to the zip file.
        """
        paths = self._paths(files)
        if not 0 < len(paths) <= MAX_PHOTOS:
            raise gr.Error(
                f"got {len(paths)} photos, wanted 1 to {MAX_PHOTOS}; deeplab segment FOLDER takes any number",
                print_exception=False,
            )
        batch = _LabelledBatch(self._services, crf=bool(crf))
        failed = list[str]()
        with batch.archive, self._services.uploads.protect(paths):
            for path in progress.tqdm(paths, unit="photos"):
                try:
                    await self._run(lambda path=path: batch.add(path))  # type: ignore[misc]
                except (HTTPError, MemoryError) as error:
                    failed.append(f"{path.name}: {error}")
        done = len(paths) - len(failed)
        status = note("; ".join([f"{done} of {len(paths)} photos labelled", *batch.notes(), *failed]))
        if not done:
            return [], "", status, ""
        name = self._services.results.put(Batch(batch.archive.content()))
        return batch.overlays, batch.legend_html(done), status, links(name, {"labels.zip": "labels, zip"})

    async def _run(self, job: Callable[[], None]) -> None:
        """Run a job as soon as the work queue has a slot, within the time of one request."""
        seconds = self._services.limits.seconds
        end = time.monotonic() + seconds
        while True:
            try:
                with self._services.queue.slot() as slot:
                    return await slot.run(job, seconds=seconds)
            except HTTPError as error:
                if error.kind != "busy" or time.monotonic() > end:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    def photos_in(self, files: Any) -> list[str]:
        """Return those files of an uploaded folder that may be photos, sorted by name."""
        photos = [path for path in self._paths(files) if path.suffix.lower() in PHOTO_ENDINGS]
        return [str(path) for path in sorted(photos, key=lambda path: path.name)]

    def _paths(self, files: Any) -> list[Path]:
        """Paths of the uploads that the browser names; gr.Error for anything else."""
        try:
            return [self._services.uploads.resolve(upload_path(file)) for file in (files or [])]
        except (HTTPError, TypeError) as error:
            raise gr.Error(str(error), print_exception=False) from None


class _LabelledBatch:
    """The results of several photos while they are labelled."""

    def __init__(self, services: PageServices, *, crf: bool):
        self._services = services
        self._crf = crf
        self._shares = dict[str, float]()  # sum over the photos
        self._shrunk = 0
        self.archive = Archive()
        self.overlays = list[tuple[np.ndarray, str]]()

    def add(self, path: Path) -> None:
        """Label one photo; runs on a worker thread."""
        services = self._services
        content = services.uploads.read(str(path))
        photo, size = services.decoder.photo(content, services.limits, services.limits.pixels)
        self._shrunk += photo.shape[:2] != size
        result = services.model.segment(photo, crf=self._crf)
        name = self.archive.add(path.stem, result)
        if len(self.overlays) < MAX_OVERLAYS:
            self.overlays.append((shrink(result.overlay(), THUMBNAIL_PIXELS), name))
        for label, share in result.shares().items():
            self._shares[label] = self._shares.get(label, 0.0) + share

    def notes(self) -> list[str]:
        """What the user should know of the results."""
        megapixels = self._services.limits.pixels / 1e6
        return (
            [f"{self._shrunk} shrunk to {megapixels:g} megapixels, as are their labels"]
            if self._shrunk
            else []
        )

    def legend_html(self, photos: int) -> str:
        """The legend with the mean share of each class over so many photos."""
        means = {label: share / photos for label, share in self._shares.items()}
        return legend({"share": means}, self._services.model.class_names)
