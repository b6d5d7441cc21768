"""``deeplab segment``: label photos."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes, Positional

from deeplab.commands.common import FAILED, OK, ModelOptions, load_model, log_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from deeplab.bulk.inputs import Shard
    from deeplab.bulk.jobs import Job, Outcome, Settings
    from deeplab.bulk.manifest import Manifest
    from deeplab.model.segmentation import Model


@dataclass(frozen=True)
class Segment:
    """Label every pixel of photos; write class ids (palette PNG), overlays and a table of classes."""

    photos: Positional[tuple[Path, ...]]
    """Photos, folders of photos, or quoted patterns such as 'photos/**/*.jpg'."""
    out: Path = Path("segmented")
    """Folder for the results."""
    engine: OmitArgPrefixes[ModelOptions] = field(default_factory=lambda: ModelOptions())
    crf: bool = True
    """Refine the boundaries with the fully connected CRF."""
    crf_params: Path | None = None
    """JSON file with fields of densecrf.Params, as written by deeplab search.
    By default the parameters on the model card."""
    scales: tuple[float, ...] = (1.0,)
    """Scales of the photo (factors on --size) over which the probabilities are averaged."""
    mirror: bool = False
    """Average over the mirrored photo as well."""
    tile: int | None = None
    """Side in pixels of the tiles in which the network processes a photo; the result is the same.
    By default, tiles are used only if a photo does not fit into memory."""
    size: int | None = None
    """Longer side in pixels to which larger photos are downscaled for the network; 0 for full size.
    By default the size on the model card (513 for the included weights).
    The CRF always runs at full size; with --blocks, so does the network."""
    compare: bool = False
    """Also write an image with photo, network, and network + CRF side by side."""
    blocks: bool = False
    """Process photos in blocks, which needs 2 GB of memory for any size, and write class ids as TIFF.
    This is the default for TIFFs of 8 megapixels or more if the extra mosaic is installed."""
    levels: tuple[float, float] | None = None
    """Values that become black and white in images of more than 8 bits that are processed in blocks.
    By default zero and the largest value of the bits in use."""
    redo: bool = False
    """Label photos again even if they are finished according to the manifest in the output folder."""
    lanes: int | None = None
    """Number of workers, each of which processes one photo at a time.
    By default one per processor, at most eight."""
    shard: str | None = None
    """I/N: label only part I of N, to divide the photos among N machines without a cluster."""
    ray: tuple[str, ...] | None = None
    """Use a Ray cluster (must be the last option): HOST:PORT, or auto for the cluster of this machine;
    local or no address for workers on this machine."""


def segment(options: Segment) -> int:
    """Segment photos with several workers or on a cluster; report the photos that fail."""
    from deeplab.bulk.inputs import Shard, plan
    from deeplab.bulk.jobs import LargeJob
    from deeplab.large_images.segment import is_large

    settings = _settings(options)
    shard = None if options.shard is None else Shard.parse(options.shard)
    jobs, errors = plan(options.photos, options.out)
    for error in errors:
        log_error(error)
    if not jobs:
        if not errors:
            log_error("no photos given; wanted photos or folders of photos")
        return FAILED
    if shard is not None:
        jobs = list(shard.select(jobs, options.out))
    jobs = [LargeJob(job.photo, job.target) if options.blocks or is_large(job.photo) else job for job in jobs]
    failed = _label(options, settings, shard, jobs)
    return OK if not failed and not errors else FAILED


def _settings(options: Segment) -> Settings:
    """Check options that exclude each other, and collect those that apply to every photo."""
    from deeplab.bulk.jobs import Settings
    from densecrf.params import read_params

    if options.crf_params is not None and not options.crf:
        raise ValueError("got --crf-params and --no-crf, wanted one of them")
    if options.ray is not None and (len(options.ray) > 1 or options.lanes is not None):
        raise ValueError(
            "got --ray with several addresses or --lanes; wanted photos first, then --ray [ADDRESS]"
        )
    return Settings(
        crf=options.crf if options.crf_params is None else read_params(options.crf_params),
        scales=options.scales,
        mirror=options.mirror,
        tile=options.tile,
        size=options.size,
        compare=options.compare,
        levels=options.levels,
    )


def _label(options: Segment, settings: Settings, shard: Shard | None, jobs: list[Job]) -> int:
    """Label the photos that are not finished, and write the table of all; returns how many photos failed."""
    from rich.console import Console

    from deeplab.bulk.class_shares import ClassShares
    from deeplab.bulk.manifest import Manifest

    model = load_model(options.engine)
    options.out.mkdir(parents=True, exist_ok=True)
    table = ClassShares()
    csv = "classes.csv" if shard is None else f"classes-{shard.number}-of-{shard.count}.csv"
    with Manifest(options.out, settings.as_json(model), shard=shard) as manifest:
        pending = [
            job for job in jobs if options.redo or not manifest.finished(job, settings.output_suffixes)
        ]
        finished = len(jobs) - len(pending)
        if finished:
            print(f"{finished} of {len(jobs)} photos already labelled; --redo labels them again")
        try:
            failed = _run_jobs(options, model, settings, pending, manifest)
        finally:
            for job, row in manifest.rows(jobs):
                table.add(job.photo, row["shares"], row["seconds"])
            table.write(options.out / csv)
    if table.photos:
        Console().print(table.render())
    labelled = len(jobs) - failed
    print(f"{labelled} of {len(jobs)} photos labelled; ids, overlays and {csv} are in {options.out}/")
    return failed


def _run_jobs(options: Segment, model: Model, settings: Settings, jobs: list[Job], manifest: Manifest) -> int:
    """Do the jobs with a progress bar; returns how many failed."""
    from tqdm import tqdm

    from deeplab.bulk.jobs import LargeJob, run_job

    failed = 0
    with tqdm(total=len(jobs), unit="photo", disable=None if jobs else True) as bar:

        def record(outcome: Outcome) -> None:
            nonlocal failed
            manifest.add(outcome, settings.output_suffixes)
            bar.update()
            if outcome.error is not None:
                failed += 1
                log_error(outcome.error)

        for job in jobs:
            if isinstance(job, LargeJob):  # one at a time in this process: each uses all processors
                record(run_job(job, model, settings))
        _run_small_jobs(
            options, model, settings, [job for job in jobs if not isinstance(job, LargeJob)], record
        )
    return failed


def _run_small_jobs(
    options: Segment,
    model: Model,
    settings: Settings,
    jobs: list[Job],
    record: Callable[[Outcome], None],
) -> None:
    """Do jobs that fit into memory, in worker threads or on a cluster."""
    from dataclasses import asdict

    from deeplab.bulk.jobs import run_job
    from deeplab.bulk.memory_limiter import estimate_bytes
    from deeplab.bulk.ray import run_on_ray
    from deeplab.bulk.workers import Workers, run

    if options.ray is not None:
        address = next(iter(options.ray), None)
        run_on_ray(jobs, asdict(options.engine), settings, record, address=address)
        return

    def work(job: Job, threads: int) -> Outcome:
        return run_job(job, model, settings, threads=threads)

    def memory_of(job: Job) -> int:
        return estimate_bytes(job.photo, settings, model)

    run(jobs, work, record, workers=Workers.of(len(jobs), count=options.lanes), memory_of=memory_of)
