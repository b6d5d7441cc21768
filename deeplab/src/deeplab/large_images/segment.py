"""Large pictures to label maps: in bounded memory; killed and started again it goes on."""

from __future__ import annotations

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
from deeplab.large_images.blocks import BASE, Blocks, Layout
from deeplab.large_images.label_tiff import lay_down, write_labels
from deeplab.large_images.tiff import LargeTiff, NotInWindows, geo_tags_of, identity_of
from deeplab.model.segmentation import Model
from deeplab.optional import is_installed
from deeplab.photos import PhotoError, opened
from densecrf import memory

MEMORY = 2_000_000_000
"""Bytes that the whole process may take."""
LARGE = 8_000_000
"""Pixels from which on a TIFF is worked on in blocks."""
OVERLAY_SIDE = 2000
"""Pixels that the longer side of the overlay has at most."""
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class LargeSegmentation:
    """What was found in a large picture, whose labels are in a file."""

    labels: Path
    """The TIFF of class ids; 255 where there is no picture."""
    class_names: tuple[str, ...]
    counts: np.ndarray
    """(256,) int64: pixels of each id."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each step took, this time."""

    def shares(self) -> dict[str, float]:
        """The classes in the picture and the share of its pixels each takes, largest first; sums to 1."""
        counts = self.counts[: len(self.class_names)]
        order = np.argsort(-counts, kind="stable")
        return {self.class_names[i]: float(counts[i] / counts.sum()) for i in order if counts[i] > 0}


def is_large(photo: Path) -> bool:
    """Whether a photo is worked on in blocks unasked: a TIFF from 8 megapixels on, or of a kind that Pillow
    lacks.

    False where tifffile and imagecodecs are not installed, and for files that nothing can read.
    """
    if photo.suffix.lower() not in (".tif", ".tiff") or not is_installed("mosaic"):
        return False
    try:
        with opened(photo) as image:
            return image.width * image.height >= LARGE
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
    limit: int = MEMORY,
    layout: Layout | None = None,
) -> LargeSegmentation:
    """Label every pixel of a large picture.

    First the network looks at windows whose scores show no seam, then the CRF refines blocks that overlap.
    What is done is kept in TARGET.parts, some 2.3 bytes a pixel at 21 classes; if the program is killed, the
    same call goes on from there. At the end TARGET.tif (ids: tiled, compressed, with a palette and the
    picture's geographic tags) and TARGET_overlay.png (at most 2000 pixels wide or high, with a legend) appear
    whole, and TARGET.parts goes.

    Args:
        photo: a TIFF with tiles or strips, read in windows (see ``LargeTiff``); or what else Pillow can
            decode as a whole.
        target: path of the results, without an ending.
        model: network and CRF.
        crf: as in ``Model.segment``.
        iterations: mean-field steps.
        threads: for the CRF.
        levels: of more than 8 bits, as ``LargeTiff`` has it.
        limit: bytes that the whole process may take.
        layout: sizes of windows and blocks; by default the largest within the limit.

    Returns:
        Where the labels are, and how many pixels have each.

    Raises:
        ModuleNotFoundError: without the extra ``mosaic``.
        PhotoError: if the picture cannot be used; nothing is left then.
        ValueError: if TARGET.parts belongs to other weights, parameters or another picture, or a result would
            replace the picture.
        MemoryError: if there is less memory than that.
    """
    photo, target = Path(photo), Path(target)
    params = None if crf is False else model.crf_params if crf is True else crf
    layout = layout or Layout.within(limit, model, params)
    out, parts = target.with_name(f"{target.name}.tif"), target.with_name(f"{target.name}.parts")
    if photo.resolve() in (out.resolve(), target.with_name(f"{target.name}_overlay.png").resolve()):
        raise ValueError(f"{photo}: the results would replace it; wanted another folder for them (--out)")
    memory.require(limit - BASE, f"{photo}: a large picture in blocks")
    facts = {
        "weights": model.digest,
        "network": model.card.variant,
        "crf": None if params is None else asdict(params),
        "precision": str(model.predictor.dtype).removeprefix("torch."),
        "iterations": iterations,
        "levels": levels,
        "layout": asdict(layout),
    }
    with _opened(photo, parts, levels, facts) as mosaic:
        blocks = Blocks(mosaic, model, params, layout, parts, iterations=iterations, threads=threads)
        blocks.work()
        factor = -(-max(mosaic.size) // OVERLAY_SIDE)
        small = blocks.reduced(factor)
        labels = np.empty(small.shape[:2], np.uint8)
        write_labels(
            parts / "labels.tif",
            mosaic.size,
            blocks.tiles(factor, labels),
            tile=blocks.tile,
            class_names=model.class_names,
            geo_tags=geo_tags_of(photo),
        )
    result = LargeSegmentation(out, model.class_names, blocks.counts, blocks.seconds)
    picture: np.ndarray | Image.Image = overlay(small, labels)
    if result.shares():
        picture = with_legend(overlay(small, labels), result.shares(), model.class_names)
    write_whole(target.with_name(f"{target.name}_overlay.png"), png(picture))
    (parts / "labels.tif").replace(out)
    shutil.rmtree(parts)
    return result


@contextmanager
def _opened(
    photo: Path, parts: Path, levels: tuple[float, float] | None, facts: Mapping[str, Any]
) -> Iterator[LargeTiff]:
    """The picture, and its claim to the folder of parts, which goes if the picture turns out to be
    damaged."""
    try:
        mosaic = LargeTiff(photo, levels=levels) if _is_tiff(photo) else None
    except NotInWindows:
        mosaic = None
    with ExitStack() as files:
        if mosaic is not None:
            files.enter_context(mosaic)
        check_settings(parts / "job.json", {"photo": identity_of(photo), **facts})
        try:
            yield mosaic or files.enter_context(_laid_down(photo, parts / "photo.tif", levels))
        except PhotoError:
            files.close()
            shutil.rmtree(parts)
            raise


def _laid_down(photo: Path, copy: Path, levels: tuple[float, float] | None) -> LargeTiff:
    """A copy of a picture that is read in windows, made unless it is there and whole."""
    try:
        return LargeTiff(copy, levels=levels)
    except PhotoError:
        lay_down(photo, copy)
        return LargeTiff(copy, levels=levels)


def _is_tiff(photo: Path) -> bool:
    """By its first bytes, as names may err; PhotoError if it is no file that can be read."""
    try:
        with open(photo, "rb") as file:
            return file.read(4) in TIFF_STARTS
    except OSError:
        with opened(photo):  # says in one line what is wrong
            raise
