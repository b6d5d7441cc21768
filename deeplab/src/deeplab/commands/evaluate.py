"""``deeplab evaluate``: evaluate a network, or label maps of another program, on labelled photos."""

from __future__ import annotations

import json
import sys
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
    """Evaluate a network with and without the CRF, or label maps of another program, on labelled photos."""

    data: Path
    """Folder of the data set, in any layout that check-data accepts, such as PASCAL VOC."""
    split: str = "val"
    """Split to evaluate on."""
    binary: bool = False
    """Take black and white masks as they are: 0 is background, the other level the object."""
    line_width: float = 0.0
    """Width in pixels of annotated lines, and diameter of points; at 0 they are errors."""
    engine: OmitArgPrefixes[ModelOptions] = field(default_factory=lambda: ModelOptions())
    crf: bool = True
    """Evaluate the result of the CRF as well."""
    scales: tuple[float, ...] = (1.0,)
    """Scales of the photo (factors on --size) over which the probabilities are averaged."""
    mirror: bool = False
    """Average over the mirrored photo as well."""
    size: int | None = None
    """Longer side in pixels to which larger photos are downscaled for the network; 0 for full size.
    By default the size on the model card."""
    boundary: Annotated[tuple[str, ...] | None, arg(metavar="PX[,PX]...")] = None
    """Widths in pixels of bands around void borders to evaluate separately: 1,5,10 or 1 5 10 or 1-40.
    By default 10; with --report, nine widths from 1 to 40."""
    boundary_f1: bool = False
    """Compute the boundary F1 as well."""
    boundary_iou: bool = False
    """Compute the boundary IoU as well."""
    boundary_accuracy: bool = False
    """Compute the mean boundary accuracy (mBA) as well."""
    predictions: Path | None = None
    """Folder of label maps to evaluate instead of a network: PNG files with the names of the photos,
    with class ids or in the format of the data set's masks."""
    out: Path | None = None
    """JSON file for the results; a table is also written, to the same name ending in .md."""
    report: Path | None = None
    """Folder for an HTML report with tables, charts and the worst photos."""
    worst: int = 8
    """Number of the worst photos in the report."""


def evaluate(options: Evaluate) -> int:
    """Evaluate, print the tables, and write the files that the options request."""
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
    """Evaluate the network or the label maps."""
    from deeplab.datasets.label_scan import usable
    from deeplab.datasets.opening import open_dataset
    from deeplab.evaluation.benchmark import score, score_folder

    widths = _widths(options)
    dataset = open_dataset(options.data, options.split, binary=options.binary, line_width=options.line_width)
    dataset = usable(
        dataset,
        f"{options.data}, split {options.split}",
        is_strict=True,
        photos="decoded" if options.predictions is None else "none",
        on_problem=lambda message: print(f"deeplab: note: {message}", file=sys.stderr),
    )
    shared: dict[str, Any] = {
        "boundary": widths,
        "boundary_f1": options.boundary_f1,
        "boundary_iou": options.boundary_iou,
        "boundary_accuracy": options.boundary_accuracy,
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
