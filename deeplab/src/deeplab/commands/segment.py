"""``deeplab segment``: label photos."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from deeplab.commands.engine import FAILED, OK, Engine, complain, model_of


@dataclass(frozen=True)
class Segment:
    """Label every pixel of photos: ids as a palette PNG, an overlay with a legend, and a table of classes."""

    photos: Positional[tuple[Path, ...]]
    """Photos and folders of photos."""
    out: Path = Path("segmented")
    """Folder for the results."""
    engine: OmitArgPrefixes[Engine] = field(default_factory=lambda: Engine())
    crf: bool = True
    """Refine the boundaries with the fully connected CRF."""
    crf_params: Path | None = None
    """JSON file with fields of densecrf.Params, as deeplab search writes it; by default those of the weights."""
    scales: tuple[float, ...] = (1.0,)
    """Factors on height and width at which the network looks; their probabilities are averaged."""
    mirror: bool = False
    """Look at a mirrored copy, too."""
    tile: int | None = None
    """Look through windows of so many pixels; by default only where memory asks for it. Same result."""
    compare: bool = False
    """Also write one picture with photo, network, and network + CRF side by side."""


def segment(options: Segment) -> int:
    """Segment photos; one that fails is reported and the others go on."""
    from rich.console import Console
    from tqdm import tqdm

    from deeplab.jobs import ClassTable, plan, write_results
    from densecrf.params import read_params

    if options.crf_params is not None and not options.crf:
        raise ValueError("got --crf-params and --no-crf, wanted one of them")
    crf = options.crf if options.crf_params is None else read_params(options.crf_params)
    jobs, complaints = plan(options.photos, options.out)
    for line in complaints:
        complain(line)
    if not jobs:
        if not complaints:
            complain("no photos given; wanted photos or folders of photos")
        return FAILED
    model = model_of(options.engine)
    looks = {"scales": options.scales, "mirror": options.mirror, "tile": options.tile}
    options.out.mkdir(parents=True, exist_ok=True)
    table, done = ClassTable(), 0
    try:
        for job in tqdm(jobs, unit="photo", disable=None):
            try:
                table.add(job.photo, write_results(job, model, crf=crf, compare=options.compare, **looks))
                done += 1
            except (ValueError, OSError, MemoryError) as error:
                text = str(error) or "out of memory"
                complain(text if text.startswith(str(job.photo)) else f"{job.photo}: {text}")
    finally:
        table.write(options.out / "classes.csv")
    if done:
        Console().print(table.render())
    print(f"{done} of {len(jobs)} photos labelled; ids, overlays and classes.csv are in {options.out}/")
    return OK if done == len(jobs) and not complaints else FAILED
