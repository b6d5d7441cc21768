"""``deeplab evaluate``: score a network, or another program's label maps, on labelled photos."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, arg

from deeplab.commands.common import OK, ModelOptions, load_model

if TYPE_CHECKING:
    from deeplab.evaluation.benchmark import Report

REPORT_WIDTHS = (1, 2, 3, 5, 10, 15, 20, 30, 40)
MAX_WIDTH = 1000


@dataclass(frozen=True)
class Evaluate:
    """Score the network, with and without the CRF, or another program's label maps, on labelled photos."""

    data: Path
    """Folder of a data set, e.g. in the layout of PASCAL VOC."""
    split: str = "val"
    """Name of the split to score on."""
    engine: OmitArgPrefixes[ModelOptions] = field(default_factory=lambda: ModelOptions())
    crf: bool = True
    """Score with the CRF as well."""
    scales: tuple[float, ...] = (1.0,)
    """Scales of the photo, after --size, over which the network's probabilities are averaged."""
    mirror: bool = False
    """Average over a mirrored copy of the photo as well."""
    size: int | None = None
    """Length of the longer side in pixels to which larger photos are reduced for the network; 0 for full
    size. By default the size in the weights' file."""
    boundary: Annotated[tuple[str, ...] | None, arg(metavar="PX[,PX]...")] = None
    """Widths in pixels of the bands around void borders that are scored as well: 1,5,10 or 1 5 10 or 1-40. By
    default 10, and for a report the curve from 1 to 40."""
    boundary_f1: bool = False
    """Measure the boundary F1 as well."""
    predictions: Path | None = None
    """Folder of PNG files of class ids, one named as each photo, to score instead of a network."""
    out: Path | None = None
    """JSON file for the figures; a table of them is written to the same name ending in .md."""
    report: Path | None = None
    """Folder for a report with a page, tables, charts and the worst photos."""
    worst: int = 8
    """Number of the worst photos in the report."""


def evaluate(options: Evaluate) -> int:
    """Score, print the tables, and write what the options ask for."""
    from rich.console import Console

    from deeplab.evaluation.score_tables import figures, markdown, terminal
    from deeplab.files import write_whole
    from deeplab.optional import require

    _validate(options)
    if options.report is not None:  # fail now, not after an hour of work
        require("matplotlib", "--report")
        options.report.mkdir(parents=True, exist_ok=True)
    report = _score(options)
    Console().print(terminal(report))
    if options.out is not None:
        write_whole(options.out, json.dumps(figures(report), indent=2, ensure_ascii=False) + "\n")
        write_whole(options.out.with_suffix(".md"), markdown(report))
        print(f"written: {options.out} and {options.out.with_suffix('.md')}")
    if options.report is not None:
        from deeplab.evaluation.report import write_report

        print(f"written: {write_report(options.report, report)}")
    return OK


def _score(options: Evaluate) -> Report:
    """Score the network or the label maps."""
    from deeplab.datasets.opening import open_dataset
    from deeplab.evaluation.benchmark import score, score_folder

    dataset = open_dataset(options.data, options.split)
    shared: dict[str, Any] = {
        "boundary": _widths(options),
        "boundary_f1": options.boundary_f1,
        "worst": options.worst if options.report is not None else 0,
        "progress": True,
    }
    if options.predictions is not None:
        report = score_folder(options.predictions, dataset, **shared)
    else:
        model = load_model(options.engine)
        size = model.card.size if options.size is None else options.size
        augmentation: dict[str, Any] = {"scales": options.scales, "mirror": options.mirror, "size": size}
        report = score(model, dataset, crf=options.crf, **shared, **augmentation)
    return replace(report, about=report.about | {"split": options.split})


def _validate(options: Evaluate) -> None:
    if options.predictions is not None:
        defaults = replace(options, engine=ModelOptions(), crf=True, scales=(1.0,), mirror=False, size=None)
        if defaults != options:
            raise ValueError(
                "--predictions scores files; options of the network, its augmentation and the CRF cannot be "
                "combined with it"
            )
    if options.worst < 0:
        raise ValueError(f"got --worst {options.worst}, wanted 0 or more")
    if options.report is not None and options.report.exists() and not options.report.is_dir():
        raise ValueError(f"got --report {options.report}, which is a file; wanted a folder")
    if options.out is not None and (options.out.is_dir() or options.out.suffix == ".md"):
        raise ValueError(f"got --out {options.out}, wanted the name of a JSON file")


def _widths(options: Evaluate) -> tuple[int, ...]:
    """Widths from arguments such as "1,5,10", "20" and "1-40"; sorted, without duplicates."""
    if options.boundary is None:
        return REPORT_WIDTHS if options.report is not None else (10,)
    widths: set[int] = set()
    for part in ",".join(options.boundary).split(","):
        first, _, last = part.strip().partition("-")
        last = last or first
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= MAX_WIDTH):
            raise ValueError(
                f"got --boundary {part!r}, wanted whole pixels from 1 to {MAX_WIDTH}: 1,5,10 or 1 5 10 or "
                "1-40"
            )
        widths |= set(range(int(first), int(last) + 1))
    return tuple(sorted(widths))
