"""Segmentation of large images in bounded memory; an interrupted run resumes where it stopped."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import densecrf
from deeplab.drawing import overlay, png, with_legend
from deeplab.files import check_settings, write_whole
from deeplab.large_images.block_segmenter import BlockSegmenter
from deeplab.large_images.geo_tags import geo_tags_of
from deeplab.large_images.label_tiff import copy_as_tiff, write_labels
from deeplab.large_images.layout import BASE_BYTES, Layout
from deeplab.large_images.tiff import LargeTiff, UnsupportedTiffError
from deeplab.model.segmentation import Model
from deeplab.optional import is_installed
from deeplab.photos import PhotoError, opened
from densecrf import memory

MEMORY_LIMIT = 2_000_000_000
"""Default for the memory of the whole process in bytes."""
LARGE_PIXELS = 8_000_000
"""Number of pixels from which a TIFF is segmented in blocks by default."""
OVERLAY_SIDE = 2000
"""Maximum length of the longer side of the overlay in pixels."""
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF files."""
DIGEST_BYTES = 2**16
"""Number of bytes at each end of a file that identify its content."""


@dataclass(frozen=True)
class LargeSegmentation:
    """The result for a large image, whose labels are in a file."""

    labels: Path
    """TIFF of class ids; 255 where the image has no data."""
    class_names: tuple[str, ...]
    """Names of the K classes in the order of ids."""
    counts: np.ndarray
    """(256,) int64: number of pixels of each id."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each step took in this call."""

    def shares(self) -> dict[str, float]:
        """The classes in the image with their shares of its pixels, largest first; the shares sum to 1."""
        counts = self.counts[: len(self.class_names)]
        order = np.argsort(-counts, kind="stable")
        return {self.class_names[i]: float(counts[i] / counts.sum()) for i in order if counts[i] > 0}


def is_large(photo: Path) -> bool:
    """Whether a file is segmented in blocks by default.

    True for TIFFs of 8 megapixels or more, and for those that only tifffile can read. False if tifffile and
    imagecodecs are not installed, and for files that nothing can read.
    """
    if photo.suffix.lower() not in (".tif", ".tiff") or not is_installed("mosaic"):
        return False
    try:
        with opened(photo) as image:
            return image.width * image.height >= LARGE_PIXELS
    except PhotoError:
        pass
    try:
        with LargeTiff(photo):
            return True
    except PhotoError:
        return False


def segment_mosaic(
    photo: str | Path,
    target: str | Path,
    model: Model,
    *,
    crf: bool | densecrf.Params = True,
    iterations: int = 10,
    threads: int | None = None,
    levels: tuple[float, float] | None = None,
    limit: int = MEMORY_LIMIT,
    layout: Layout | None = None,
) -> LargeSegmentation:
    """Label every pixel of a large image.

    First the network runs on windows, whose scores show no seams; then the CRF refines overlapping blocks.
    Finished pieces are kept in TARGET.parts, about 2.3 bytes a pixel at 21 classes; after an interruption the
    same call resumes from there. At the end TARGET.tif (ids: tiled, compressed, with a palette and the
    image's GeoTIFF tags) and TARGET_overlay.png (at most 2000 pixels wide or high, with a legend) are renamed
    into place, and TARGET.parts is removed.

    Args:
        photo: a TIFF with tiles or strips, read in windows (see ``LargeTiff``); or any other image that
            Pillow can decode as a whole.
        target: path of the results without an ending.
        model: network and CRF.
        crf: True, False or parameters, as in ``Model.segment``.
        iterations: number of mean-field steps.
        threads: number of threads of the CRF; None for all processors.
        levels: levels that become black and white in images of more than 8 bits, as in ``LargeTiff``.
        limit: memory in bytes that the whole process may take.
        layout: sizes of windows and blocks; by default the largest within the limit.

    Returns:
        Path of the labels, and number of pixels of each class.

    Raises:
        ModuleNotFoundError: if the extra ``mosaic`` is not installed.
        PhotoError: if the image cannot be used; no files are left then.
        ValueError: if TARGET.parts belongs to other weights, parameters or another image, or a result would
            replace the image.
        MemoryError: if less memory is free.
    """
    photo, target = Path(photo), Path(target)
    params = None if crf is False else model.crf_params if crf is True else crf
    layout = layout or Layout.within(limit, model, params)
    labels_path = target.with_name(f"{target.name}.tif")
    overlay_path = target.with_name(f"{target.name}_overlay.png")
    parts = target.with_name(f"{target.name}.parts")
    if photo.resolve() in (labels_path.resolve(), overlay_path.resolve()):
        raise ValueError(f"{photo}: the results would replace it; wanted another folder for them (--out)")
    memory.require(limit - BASE_BYTES, f"{photo}: a large picture in blocks")
    settings = _settings(model, params, iterations, levels, layout)
    with _open_image(photo, parts, levels, settings) as image:
        segmenter = BlockSegmenter(
            image, model, params, layout, parts, iterations=iterations, threads=threads
        )
        segmenter.run()
        factor = -(-max(image.size) // OVERLAY_SIDE)
        thumbnail = segmenter.thumbnail(factor)
        labels = np.empty(thumbnail.shape[:2], np.uint8)
        write_labels(
            parts / "labels.tif",
            image.size,
            segmenter.label_tiles(factor, labels),
            tile=segmenter.tile,
            class_names=model.class_names,
            geo_tags=geo_tags_of(photo),
        )
    result = LargeSegmentation(labels_path, model.class_names, segmenter.counts, segmenter.seconds)
    write_whole(overlay_path, png(_overlay(thumbnail, labels, result)))
    (parts / "labels.tif").replace(labels_path)
    shutil.rmtree(parts)
    return result


def _overlay(photo: np.ndarray, labels: np.ndarray, result: LargeSegmentation) -> np.ndarray | Image.Image:
    """The reduced photo with its classes in colour; with a legend unless all of it is void."""
    picture = overlay(photo, labels)
    shares = result.shares()
    return with_legend(picture, shares, result.class_names) if shares else picture


def _settings(
    model: Model,
    params: densecrf.Params | None,
    iterations: int,
    levels: tuple[float, float] | None,
    layout: Layout,
) -> dict[str, Any]:
    """Everything that finished pieces depend on, apart from the image."""
    return {
        "weights": model.digest,
        "network": model.card.variant,
        "crf": None if params is None else asdict(params),
        "precision": str(model.predictor.dtype).removeprefix("torch."),
        "iterations": iterations,
        "levels": levels,
        "layout": asdict(layout),
    }


@contextmanager
def _open_image(
    photo: Path, parts: Path, levels: tuple[float, float] | None, settings: Mapping[str, Any]
) -> Iterator[LargeTiff]:
    """Open the image and check that the folder of parts belongs to it; remove the folder if it is damaged."""
    try:
        image = LargeTiff(photo, levels=levels) if _is_tiff(photo) else None
    except UnsupportedTiffError:
        image = None
    with ExitStack() as files:
        if image is not None:
            files.enter_context(image)
        check_settings(parts / "job.json", {"photo": _identity(photo), **settings})
        try:
            yield image or files.enter_context(_open_copy(photo, parts / "photo.tif", levels))
        except PhotoError:
            files.close()
            shutil.rmtree(parts)
            raise


def _open_copy(photo: Path, copy: Path, levels: tuple[float, float] | None) -> LargeTiff:
    """Open a copy of the image that can be read in windows; make it unless it is there and complete."""
    try:
        return LargeTiff(copy, levels=levels)
    except PhotoError:
        copy_as_tiff(photo, copy)
        return LargeTiff(copy, levels=levels)


def _is_tiff(photo: Path) -> bool:
    """Whether a file is a TIFF by its first bytes, since names may be wrong.

    Raises:
        PhotoError: if the file cannot be read.
    """
    try:
        with open(photo, "rb") as file:
            return file.read(4) in TIFF_STARTS
    except OSError:
        with opened(photo):  # raises a PhotoError with the reason in one line
            raise


def _identity(path: Path) -> list[int | str]:
    """Size, time of the last change, and a digest of both ends: they identify a file and its content."""
    status = path.stat()
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(DIGEST_BYTES))
        file.seek(max(0, status.st_size - DIGEST_BYTES))
        digest.update(file.read(DIGEST_BYTES))
    return [status.st_size, status.st_mtime_ns, digest.hexdigest()[:16]]
