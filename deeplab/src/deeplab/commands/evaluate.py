"""``deeplab evaluate``: score a network, or somebody's label maps, on labelled photos."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, arg

from deeplab.commands.common import OK, ModelOptions, load_model

REPORT_WIDTHS = (1, 2, 3, 5, 10, 15, 20, 30, 40)
WIDEST = 1000


@dataclass(frozen=True)
class Evaluate:
    """Score the network, without and with the CRF, on a split of a data set; or the label maps of another
    program."""

    data: Path
    """Folder of a data set, e.g. in the layout of PASCAL VOC."""
    split: str = "val"
    """Name of the part that is scored."""
    engine: OmitArgPrefixes[ModelOptions] = field(default_factory=lambda: ModelOptions())
    crf: bool = True
    """Score with the CRF, too."""
    scales: tuple[float, ...] = (1.0,)
    """Factors on height and width at which the network looks, after --size; their probabilities are
    averaged."""
    mirror: bool = False
    """Look at a mirrored copy, too."""
    size: int | None = None
    """Longer side, in pixels, at which the network looks at larger photos; 0 for full size; by default as the
    weights say."""
    boundary: Annotated[tuple[str, ...] | None, arg(metavar="PX[,PX]...")] = None
    """Widths in pixels of the bands around void borders that are scored besides: 1,5,10 or 1 5 10 or 1-40. By
    default 10, and for a report the curve from 1 to 40."""
    boundary_f1: bool = False
    """Measure the boundary F1, too."""
    predictions: Path | None = None
    """Score the PNG files of class ids in this folder, one named as each photo, in place of a network."""
    out: Path | None = None
    """Write the figures to this JSON file, and as a table to the same name ending in .md."""
    report: Path | None = None
    """Write a folder with a page, tables, charts and the worst photos."""
    worst: int = 8
    """How many of the worst photos the report shows."""


def evaluate(options: Evaluate) -> int:
    """Score without and with the CRF, print the tables, and write what is asked for."""
    from rich.console import Console

    from deeplab.datasets.opening import open_dataset
    from deeplab.evaluation.benchmark import score, score_folder
    from deeplab.evaluation.score_tables import figures, markdown, terminal
    from deeplab.files import write_whole
    from deeplab.optional import require

    _require_sense(options)
    if options.report is not None:  # what cannot be written is found now, not after an hour
        require("matplotlib", "--report")
        options.report.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(options.data, options.split)
    shared: dict[str, Any] = {
        "boundary": _widths(options),
        "boundary_f1": options.boundary_f1,
        "worst": options.worst if options.report is not None else 0,
        "progress": True,
    }
    if options.predictions is not None:
        board = score_folder(options.predictions, dataset, **shared)
    else:
        model = load_model(options.engine)
        size = model.card.size if options.size is None else options.size
        looks: dict[str, Any] = {"scales": options.scales, "mirror": options.mirror, "size": size}
        board = score(model, dataset, crf=options.crf, **shared, **looks)
    board = replace(board, about=board.about | {"split": options.split})
    Console().print(terminal(board))
    if options.out is not None:
        write_whole(options.out, json.dumps(figures(board), indent=2, ensure_ascii=False) + "\n")
        write_whole(options.out.with_suffix(".md"), markdown(board))
        print(f"written: {options.out} and {options.out.with_suffix('.md')}")
    if options.report is not None:
        from deeplab.evaluation.report import write_report

        print(f"written: {write_report(options.report, board)}")
    return OK


def _require_sense(options: Evaluate) -> None:
    if options.predictions is not None:
        network = replace(options, engine=ModelOptions(), crf=True, scales=(1.0,), mirror=False, size=None)
        if network != options:
            raise ValueError(
                "--predictions scores files; options of the network, its looks and the CRF do not go with it"
            )
    if options.worst < 0:
        raise ValueError(f"got --worst {options.worst}, wanted 0 or more")
    if options.report is not None and options.report.exists() and not options.report.is_dir():
        raise ValueError(f"got --report {options.report}, which is a file; wanted a folder")
    if options.out is not None and (options.out.is_dir() or options.out.suffix == ".md"):
        raise ValueError(f"got --out {options.out}, wanted the name of a JSON file")


def _widths(options: Evaluate) -> tuple[int, ...]:
    """Widths from words such as "1,5,10", "20" and "1-40"; sorted, each once."""
    if options.boundary is None:
        return REPORT_WIDTHS if options.report is not None else (10,)
    widths: set[int] = set()
    for part in ",".join(options.boundary).split(","):
        first, _, last = part.strip().partition("-")
        last = last or first
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= WIDEST):
            raise ValueError(
                f"got --boundary {part!r}, wanted whole pixels from 1 to {WIDEST}: 1,5,10 or 1 5 10 or 1-40"
            )
        widths |= set(range(int(first), int(last) + 1))
    return tuple(sorted(widths))
