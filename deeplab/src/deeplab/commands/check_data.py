"""``deeplab check-data``: the content of a data set and its problems."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from deeplab.commands.common import FAILED, OK

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from deeplab.datasets.check import Report
    from deeplab.datasets.problems import Problem

ONLY_WARNINGS = 3
MAX_SHOWN = 8


@dataclass(frozen=True)
class CheckData:
    """Open every photo and label file; show what the data set contains, all problems, and how to fix them.

    Exit code 0: no problems; 1: errors; 3: only warnings.
    """

    data: Positional[Path]
    """Folder of the data set: PASCAL VOC, CVAT, COCO, labelme, or the folders images and masks."""
    split: tuple[str, ...] = ()
    """Splits to check; by default all."""
    binary: bool = False
    """Take black and white masks as they are: 0 is background, the other level the object."""
    line_width: float = 0.0
    """Width in pixels of annotated lines, and diameter of points; at 0 they are errors."""
    out: Path | None = None
    """JSON file for the complete report."""


def check_data(options: CheckData) -> int:
    """Check a data set, print its content and its problems, and write them if asked."""
    from rich.console import Console
    from tqdm import tqdm

    from deeplab.datasets.check import check

    with tqdm(unit="sample", disable=None) as bar:

        def callback(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = check(
            options.data,
            options.split,
            binary=options.binary,
            line_width=options.line_width,
            callback=callback,
        )
    console = Console()
    console = console if console.is_terminal else Console(width=140)
    console.print(_contents(report))
    for problems in _by_kind(report.problems):
        _print_kind(console, problems, options.data)
    errors, warnings = report.count("error"), report.count("warning")
    summary = f"{len(report.class_names)} classes, {errors} errors, {warnings} warnings"
    print(f"{options.data}: {report.layout}, {summary}")
    if options.out is not None:
        from deeplab.files import write_whole

        write_whole(options.out, json.dumps(_as_json(report), indent=2, ensure_ascii=False) + "\n")
        print(f"written: {options.out}")
    if errors:
        return FAILED
    return ONLY_WARNINGS if warnings else OK


def _as_json(report: Report) -> dict[str, Any]:
    """The content of the report's file; its keys are a format that other programs read."""
    content = asdict(report)
    splits = [
        {"name": split.pop("name"), "pairs": split.pop("samples"), **split} for split in content["splits"]
    ]
    faults = [{**problem, "cure": problem["fix"]} for problem in content.pop("problems")]
    for fault in faults:
        del fault["fix"]
    counts = {"errors": report.count("error"), "warnings": report.count("warning")}
    return content | {"splits": splits, "faults": faults} | counts


def _contents(report: Report) -> Table:
    """The content of each split: samples, sizes, void, and each class."""
    from rich.table import Table

    table = Table("", "", title=report.root, box=None)
    for split in report.splits:
        table.add_column(split.name, justify="right")
        table.add_column("", justify="right")
    sizes = []
    for split in report.splits:
        common = split.sizes[0] if split.sizes else None
        sizes += [f"{common.height}×{common.width}" if common else "–", f"of {len(split.sizes)} sizes"]
    table.add_row("", "samples", *(cell for split in report.splits for cell in ("", str(split.samples))))
    table.add_row("", "most frequent size (H×W)", *sizes)
    void = (cell for split in report.splits for cell in (f"{100 * split.void:.2f}", ""))
    table.add_row("", "void, % of pixels", *void)
    heads = (cell for _ in report.splits for cell in ("% of pixels", "photos"))
    table.add_row("id", "class", *heads, style="bold")
    totals = [sum(each.pixels for each in split.classes) for split in report.splits]
    for number, name in enumerate(report.class_names):
        cells = []
        for split, total in zip(report.splits, totals, strict=True):
            count = split.classes[number]
            share = f"{100 * count.pixels / total:.2f}" if count.pixels else "–"
            cells += [share, str(count.photos)]
        table.add_row(str(number), name, *cells)
    return table


def _by_kind(problems: tuple[Problem, ...]) -> list[list[Problem]]:
    """Problems of one severity and kind together, in the order given."""
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.severity, problem.kind), []).append(problem)
    return list(kinds.values())


def _print_kind(console: Console, problems: list[Problem], root: Path) -> None:
    """Print the first files with a kind of problem, and the fix."""
    first = problems[0]
    fixes = {problem.fix for problem in problems}
    style = "bold red" if first.severity == "error" else "bold yellow"
    heading = f"\n{first.severity}: {first.kind} ({len(problems)})"
    console.print(heading, style=style, markup=False, highlight=False)
    lines = []
    for problem in problems[:MAX_SHOWN]:
        fix = "" if len(fixes) == 1 else f"; {problem.fix}"
        lines.append(f"{problem.file.removeprefix(f'{root}/')}: {problem.what}{fix}")
    if len(problems) > MAX_SHOWN:
        lines.append(f"… and {len(problems) - MAX_SHOWN} more; --out FILE.json writes all")
    if len(fixes) == 1 and first.fix:
        lines.append(f"fix: {first.fix}")
    for line in lines:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
