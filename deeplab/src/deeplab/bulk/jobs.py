"""Segments one photo of a job and writes its results; problems of that photo become an outcome."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from deeplab.drawing import png, side_by_side, with_legend
from deeplab.files import write_whole
from deeplab.large_images.layout import Layout
from deeplab.large_images.segment import MEMORY_LIMIT, LargeSegmentation, segment_mosaic
from deeplab.model.segmentation import Model, Segmentation
from densecrf import Params

FATAL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of the disk after which no other photo could be written either."""
OUTPUT_SUFFIXES = ("", "_overlay", "_compare")
"""What follows the target's name in the names of the results: ids, overlay, comparison."""


@dataclass(frozen=True)
class Job:
    """One photo and the path of its results."""

    photo: Path
    """Path of the photo."""
    target: Path
    """Path of the results without an ending."""

    def output_files(self, suffixes: Iterable[str] = OUTPUT_SUFFIXES) -> tuple[Path, ...]:
        """Files that are written for the photo: TARGET.png (ids), TARGET_overlay.png, TARGET_compare.png."""
        return tuple(self.target.with_name(f"{self.target.name}{suffix}.png") for suffix in suffixes)


class LargeJob(Job):
    """A photo that is segmented in blocks; see ``deeplab.large_images``."""

    def output_files(self, suffixes: Iterable[str] = OUTPUT_SUFFIXES) -> tuple[Path, ...]:
        """Files that are written, whatever the suffixes: TARGET.tif (ids) and TARGET_overlay.png."""
        return self.target.with_name(f"{self.target.name}.tif"), Job.output_files(self)[1]


@dataclass(frozen=True)
class Settings:
    """Options for every photo of a job. The fields without a description are those of ``Model.segment``."""

    crf: bool | Params = True
    scales: tuple[float, ...] = (1.0,)
    mirror: bool = False
    tile: int | None = None
    size: int | None = None
    compare: bool = False
    """Whether a picture of photo, network and CRF side by side is written as well."""
    levels: tuple[float, float] | None = None
    """Levels that become black and white in images of more than 8 bits that are segmented in blocks."""

    @property
    def output_suffixes(self) -> tuple[str, ...]:
        """The ``OUTPUT_SUFFIXES`` of the files that are written."""
        return OUTPUT_SUFFIXES if self.compare else OUTPUT_SUFFIXES[:2]

    def as_json(self, model: Model) -> dict[str, Any]:
        """Everything the labels depend on, as JSON values.

        Device, precision, windows and additional pictures are left out. Weights are identified by their
        content, since another machine may have them under another name.
        """
        params = model.crf_params if self.crf is True else self.crf
        return {
            "weights": model.digest,
            "variant": model.card.variant,
            "classes": list(model.class_names),
            "crf": asdict(params) if isinstance(params, Params) else None,
            "scales": list(self.scales),
            "mirror": self.mirror,
            "size": model.card.size if self.size is None else self.size,
            **({} if self.levels is None else {"levels": list(self.levels)}),
        }


@dataclass(frozen=True)
class Outcome:
    """The result of one job."""

    job: Job
    shares: dict[str, float] = field(default_factory=dict)
    """Share of the pixels (0–1) of each class in the photo, largest first."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each step took."""
    error: str | None = None
    """Error message in one line if there are no results."""
    worker: str = ""
    """Machine and process, unless it was this process."""


def run_job(job: Job, model: Model, settings: Settings, *, threads: int | None = None) -> Outcome:
    """Segment one photo and write its results; a problem of this photo becomes an outcome with an error.

    Args:
        job: the photo and its target.
        model: network and CRF.
        settings: options.
        threads: number of threads of the CRF; None for all processors. The caller sets torch's own number.

    Raises:
        OSError: if no other photo could be written either, because the disk is full or read-only.
    """
    try:
        write = write_large_results if isinstance(job, LargeJob) else write_results
        result = write(job, model, settings, threads=threads)
    except (ValueError, OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno in FATAL_ERRNOS:
            raise
        text = " ".join((str(error) or "out of memory").split())
        if isinstance(error, MemoryError) and not isinstance(job, LargeJob):
            text += (
                "; --no-crf needs less, and --blocks 2 GB, but then the network sees the photo at full size"
            )
        return Outcome(job, error=text if text.startswith(str(job.photo)) else f"{job.photo}: {text}")
    return Outcome(job, result.shares(), result.seconds)


def write_results(job: Job, model: Model, settings: Settings, *, threads: int | None = None) -> Segmentation:
    """Segment one photo and write its files, each whole or not at all.

    The ids are written last: if they are there, all files are.

    Args:
        job: the photo and its target.
        model: network and CRF.
        settings: options.
        threads: number of threads of the CRF; None for all processors. The caller sets torch's own number.

    Raises:
        PhotoError, ValueError, MemoryError: see ``Model.segment``.
        OSError: if a file cannot be written.
    """
    plain = model.segment(
        job.photo,
        crf=False,
        scales=settings.scales,
        mirror=settings.mirror,
        tile=settings.tile,
        size=settings.size,
    )
    result = plain
    if settings.crf is not False:
        params = None if settings.crf is True else settings.crf
        result = model.refine(plain, params=params, threads=threads)
    started = time.perf_counter()
    ids_path, overlay_path, compare_path = job.output_files()
    write_whole(overlay_path, png(with_legend(result.overlay(), result.shares(), result.class_names)))
    if settings.compare:
        pictures = {"photo": plain.photo, "network": plain.overlay()}
        if settings.crf is not False:
            pictures["network + CRF"] = result.overlay()
        write_whole(compare_path, png(side_by_side(pictures)))
    result.save(ids_path)
    return replace(result, seconds=result.seconds | {"write": time.perf_counter() - started})


def write_large_results(
    job: Job, model: Model, settings: Settings, *, threads: int | None = None
) -> LargeSegmentation:
    """Segment one large image in blocks and write its files.

    Args:
        job: the image and its target.
        model: network and CRF.
        settings: options; several scales, mirrored copies and a size are not possible.
        threads: number of threads of the CRF; None for all processors.

    Raises:
        ValueError: for several scales, mirrored copies or a size.
        PhotoError, MemoryError, ModuleNotFoundError: see ``segment_mosaic``.
    """
    if settings.scales != (1.0,) or settings.mirror or settings.size:
        raise ValueError(
            "in blocks the network sees an image once, at full size; "
            "wanted none of --scales, --mirror and --size"
        )
    params = None if settings.crf is False else model.crf_params if settings.crf is True else settings.crf
    layout = Layout.within(MEMORY_LIMIT, model, params)
    if settings.tile is not None:
        layout = replace(layout, window=-(-settings.tile // 8) * 8)
    return segment_mosaic(
        job.photo, job.target, model, crf=settings.crf, threads=threads, levels=settings.levels, layout=layout
    )
