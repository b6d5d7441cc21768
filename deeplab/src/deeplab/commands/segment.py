"""``deeplab segment``: label photos."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes, Positional

from deeplab.commands.common import FAILED, OK, ModelOptions, load_model, log_error

if TYPE_CHECKING:
    from deeplab.bulk.jobs import Job, Settings
    from deeplab.bulk.manifest import Manifest
    from deeplab.model.segmentation import Model


@dataclass(frozen=True)
class Segment:
    """Label every pixel of photos: ids as a palette PNG, an overlay with a legend, and a table of classes."""

    photos: Positional[tuple[Path, ...]]
    """Photos, folders of photos, and patterns in quotes such as 'photos/**/*.jpg'."""
    out: Path = Path("segmented")
    """Folder for the results."""
    engine: OmitArgPrefixes[ModelOptions] = field(default_factory=lambda: ModelOptions())
    crf: bool = True
    """Refine the boundaries with the fully connected CRF."""
    crf_params: Path | None = None
    """JSON file with fields of densecrf.Params, as deeplab search writes it; by default those of the
    weights."""
    scales: tuple[float, ...] = (1.0,)
    """Factors on height and width at which the network looks, after --size; their probabilities are
    averaged."""
    mirror: bool = False
    """Look at a mirrored copy, too."""
    tile: int | None = None
    """Look through windows of so many pixels; by default only where memory asks for it. Same result."""
    size: int | None = None
    """Longer side, in pixels, at which the network looks at larger photos; 0 for full size. By default as the
    weights say, 513 for those of the package. The CRF always runs at full size, and so does the network on
    TIFFs in blocks."""
    compare: bool = False
    """Also write one picture with photo, network, and network + CRF side by side."""
    blocks: bool = False
    """Work block by block in 2 GB, whatever a photo's size, and write ids as TIFF; with the extra mosaic,
    TIFFs of 8 megapixels or more are worked on so unasked."""
    levels: tuple[float, float] | None = None
    """In blocks, of more than 8 bits: levels that become black and white; by default zero and all bits in
    use."""
    redo: bool = False
    """Label also those photos anew that the manifest in the folder of results has as done."""
    lanes: int | None = None
    """Photos in work at a time; by default one for each processor, eight at most."""
    shard: str | None = None
    """I/N: only the I-th of N parts of the photos, for N machines that know nothing of each other."""
    ray: tuple[str, ...] | None = None
    """Do the work on a Ray cluster (last on the line): HOST:PORT, auto for the one this machine is
    part of, local or nothing for workers on this machine."""


def segment(options: Segment) -> int:
    """Segment photos in lanes or on a cluster; one that fails is reported and the others go on."""
    from rich.console import Console

    from deeplab.bulk.class_shares import ClassShares
    from deeplab.bulk.jobs import LargeJob, Settings, Shard, plan
    from deeplab.bulk.manifest import Manifest
    from deeplab.large_images.segment import is_large
    from densecrf.params import read_params

    if options.crf_params is not None and not options.crf:
        raise ValueError("got --crf-params and --no-crf, wanted one of them")
    if options.ray is not None and (len(options.ray) > 1 or options.lanes is not None):
        raise ValueError(
            "got --ray with several addresses or --lanes; wanted photos first, then --ray [ADDRESS]"
        )
    crf = options.crf if options.crf_params is None else read_params(options.crf_params)
    settings = Settings(
        crf, options.scales, options.mirror, options.tile, options.size, options.compare, options.levels
    )
    shard = None if options.shard is None else Shard.parse(options.shard)
    jobs, complaints = plan(options.photos, options.out)
    for line in complaints:
        log_error(line)
    if not jobs:
        if not complaints:
            log_error("no photos given; wanted photos or folders of photos")
        return FAILED
    jobs = jobs if shard is None else list(shard.of(jobs, options.out))
    jobs = [LargeJob(job.photo, job.target) if options.blocks or is_large(job.photo) else job for job in jobs]
    model = load_model(options.engine)
    options.out.mkdir(parents=True, exist_ok=True)
    table, csv = (
        ClassShares(),
        "classes.csv" if shard is None else f"classes-{shard.number}-of-{shard.count}.csv",
    )
    with Manifest(options.out, settings.facts(model), shard=shard) as manifest:
        todo = [job for job in jobs if options.redo or not manifest.finished(job, settings.kinds)]
        there = len(jobs) - len(todo)
        if there:
            print(f"{there} of {len(jobs)} were there; --redo would label them anew")
        try:
            failed = _work(options, model, settings, todo, manifest)
        finally:
            for job, row in manifest.rows(jobs):
                table.add(job.photo, row["shares"], row["seconds"])
            table.write(options.out / csv)
    if table.photos:
        Console().print(table.render())
    print(
        f"{len(jobs) - failed} of {len(jobs)} photos labelled; ids, overlays and {csv} are in {options.out}/"
    )
    return OK if not failed and not complaints else FAILED


def _work(options: Segment, model: Model, settings: Settings, todo: list[Job], manifest: Manifest) -> int:
    """Do the jobs here or on a cluster, with a progress bar; returns how many failed."""
    from dataclasses import asdict

    from tqdm import tqdm

    from deeplab.bulk.jobs import LargeJob, Outcome, attempt
    from deeplab.bulk.ray import run_on_ray
    from deeplab.bulk.workers import Workers, run

    failed = 0
    with tqdm(total=len(todo), unit="photo", disable=None if todo else True) as bar:

        def note(outcome: Outcome) -> None:
            nonlocal failed
            manifest.add(outcome, settings.kinds)
            bar.update()
            if outcome.error is not None:
                failed += 1
                log_error(outcome.error)

        for job in todo:
            if isinstance(job, LargeJob):  # here, one at a time: each takes all processors
                note(attempt(job, model, settings))
        todo = [job for job in todo if not isinstance(job, LargeJob)]
        if options.ray is None:

            def work(job: Job, threads: int) -> Outcome:
                return attempt(job, model, settings, threads=threads)

            run(todo, work, note, lanes=Workers.of(len(todo), count=options.lanes))
        else:
            run_on_ray(todo, asdict(options.engine), settings, note, address=next(iter(options.ray), None))
    return failed
