"""``deeplab check-data``: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from deeplab.commands.common import FAILED, OK

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from deeplab.datasets.check import Report
    from deeplab.datasets.problems import Problem

WARNED = 3
SHOWN = 8


@dataclass(frozen=True)
class CheckData:
    """Open every photo with its labels; show what is there, and name each bad file with its cure.

    Exit code 0: nothing is wrong; 1: errors; 3: warnings only.
    """

    data: Positional[Path]
    """A data set: VOC or CVAT layout, COCO, folders images and masks, labelme."""
    split: tuple[str, ...] = ()
    """Names of the parts to check; by default all."""
    out: Path | None = None
    """Write everything to this JSON file."""


def check_data(options: CheckData) -> int:
    """Check a data set, print what is there and what is wrong, and write it if asked."""
    from rich.console import Console
    from tqdm import tqdm

    from deeplab.datasets.check import check

    with tqdm(unit="pair", disable=None) as bar:

        def watch(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = check(options.data, options.split, watch=watch)
    console = Console()
    console = console if console.is_terminal else Console(width=140)
    console.print(_contents(report))
    for faults in _by_kind(report.faults):
        _print_kind(console, faults, options.data)
    errors, warned = report.count("error"), report.count("warning")
    print(
        f"{options.data}: {report.layout}, {len(report.class_names)} classes, {errors} errors, {warned} warnings"
    )
    if options.out is not None:
        from deeplab.files import write_whole

        content = asdict(report) | {"errors": errors, "warnings": warned}
        write_whole(options.out, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        print(f"written: {options.out}")
    return FAILED if errors else WARNED if warned else OK


def _contents(report: Report) -> Table:
    """What is in each split: pairs, sizes, void, and each class."""
    from rich.table import Table

    table = Table("", "", title=report.root, box=None)
    for part in report.splits:
        table.add_column(part.name, justify="right")
        table.add_column("", justify="right")
    sizes = []
    for part in report.splits:
        common = part.sizes[0] if part.sizes else None
        sizes += [f"{common.height}×{common.width}" if common else "–", f"of {len(part.sizes)} sizes"]
    table.add_row("", "pairs", *(cell for part in report.splits for cell in ("", str(part.pairs))))
    table.add_row("", "most frequent size (H×W)", *sizes)
    table.add_row(
        "", "void, % of pixels", *(cell for part in report.splits for cell in (f"{100 * part.void:.2f}", ""))
    )
    table.add_row(
        "id", "class", *(cell for _ in report.splits for cell in ("% of pixels", "photos")), style="bold"
    )
    totals = [sum(each.pixels for each in part.classes) for part in report.splits]
    for number, name in enumerate(report.class_names):
        cells = []
        for part, total in zip(report.splits, totals, strict=True):
            here = part.classes[number]
            cells += [f"{100 * here.pixels / total:.2f}" if here.pixels else "–", str(here.photos)]
        table.add_row(str(number), name, *cells)
    return table


def _by_kind(faults: tuple[Problem, ...]) -> list[list[Problem]]:
    """Faults of one severity and kind together, in the order given."""
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for fault in faults:
        kinds.setdefault((fault.severity, fault.kind), []).append(fault)
    return list(kinds.values())


def _print_kind(console: Console, faults: list[Problem], root: Path) -> None:
    """The files of one kind of fault, the first ones at least, and the cure."""
    first, cures = faults[0], {fault.cure for fault in faults}
    style = "bold red" if first.severity == "error" else "bold yellow"
    console.print(
        f"\n{first.severity}: {first.kind} ({len(faults)})", style=style, markup=False, highlight=False
    )
    for fault in faults[:SHOWN]:
        file = fault.file.removeprefix(f"{root}/")
        cure = "" if len(cures) == 1 else f"; {fault.cure}"
        console.print(f"  {file}: {fault.what}{cure}", markup=False, highlight=False, soft_wrap=True)
    if len(faults) > SHOWN:
        console.print(
            f"  … and {len(faults) - SHOWN} more; --out FILE.json writes all", markup=False, highlight=False
        )
    if len(cures) == 1 and first.cure:
        console.print(f"  cure: {first.cure}", markup=False, highlight=False, soft_wrap=True)
