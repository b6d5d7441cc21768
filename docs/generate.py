"""Documentation pages and tables generated from `results/` and from the code each time the docs are built.

From ``results/``: one page per measurement, and the tables of accuracy and speed. From the code: the commands
with their options, and the networks.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deeplab.cli import COMMANDS
from deeplab.cli import main as deeplab_main
from deeplab.network.architecture import VARIANTS
from deeplab.network.layer_table import Layer, describe
from deeplab.tables import Rows, markdown_table
from densecrf.cli import main as densecrf_main

RESULTS = Path(__file__).parents[1] / "results"
MAX_ROWS = 60
MAX_COLUMNS = 7
# Field of view, and mean IoU before and after the CRF on VOC 2012 val: Table 2, and DeepLab v2's Table 1.
PAPER = {
    "deeplab": (128, 59.80, 63.74),
    "deeplab-4x4": (224, 63.41, 67.14),
    "deeplab-7x7": (224, 64.38, 67.64),
    "deeplab-largefov": (224, 62.25, 67.64),
}


def write_all(folder: Path, results: Path = RESULTS) -> None:
    """Write all generated pages; unchanged files are not written again, so that Sphinx does not rebuild them.

    Args:
        folder: where to write.
        results: folder of the measurements.
    """
    pages = {
        folder / "commands.md": commands_page(),
        folder / "parts" / "networks.md": networks(),
        folder / "parts" / "layers.md": layers("deeplab-largefov"),
        folder / "parts" / "accuracy.md": accuracy(results),
        folder / "parts" / "speed.md": crf_speed(results),
        folder / "parts" / "phases.md": crf_phases(results),
    }
    for stem, path in measured(results).items():
        pages[folder / "results" / f"{stem}.md"] = result_page(path)
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for old in set(folder.rglob("*.md")) - set(pages):
        old.unlink()


def measured(results: Path = RESULTS) -> dict[str, Path]:
    """The file of each measurement: .md if it exists, else .json, else .csv."""
    found: dict[str, Path] = {}
    for ending in (".csv", ".json", ".md"):
        found |= {path.stem: path for path in sorted(results.glob(f"*{ending}"))}
    return dict(sorted(found.items()))


def result_page(path: Path) -> str:
    """The page of a measurement."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        title = re.match(r"# (.+)\n", text)
        head, body = (title[1], text[title.end() :]) if title else (path.stem, text)
        body = body.replace("](../docs/", "](/")  # links to pictures work from results/ and from the pages
    elif path.suffix == ".json":
        head, body = path.stem, "\n".join(blocks(json.loads(text)))
    else:
        head, body = path.stem, table([row for row in csv.reader(io.StringIO(text)) if row])
    return f"# {head}\n\nFrom `results/{path.name}`.\n\n{body.strip()}\n"


def blocks(content: Any) -> Iterator[str]:
    """JSON as Markdown: a table of the single values, then one table for each nested key."""
    if isinstance(content, list):
        content = {"": content}
    single = [[key, cell(value)] for key, value in content.items() if is_single(value)]
    if single:
        yield table([["", ""], *single]) + "\n"
    for key, value in content.items():
        if is_single(value):
            continue
        if key:
            yield f"## {key}\n"
        rows, words = grid(value)
        yield table(rows, words) + "\n"


def grid(value: Any) -> tuple[Rows, int]:
    """Nested JSON as one table: a row for each innermost mapping, a column for each of its keys.

    Returns:
        The rows, and how many of the columns are keys.
    """
    lines = list(leaves(value))
    columns = list(dict.fromkeys(key for _, leaf in lines for key in leaf))
    if len(columns) > MAX_COLUMNS or (len(lines) == 1 and not lines[0][0]):  # too wide: one row per number
        lines = [((*path, key), {"": item}) for path, leaf in lines for key, item in leaf.items()]
        columns = [""]
    depth = max((len(path) for path, _ in lines), default=0)
    rows = [["", *[""] * (depth - 1), *columns] if depth else columns]
    for path, leaf in lines:
        rows.append([*path, *[""] * (depth - len(path)), *(cell(leaf.get(key, "")) for key in columns)])
    return rows, depth


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The innermost mappings, each with the keys that lead to it."""
    if isinstance(value, list):
        value = {str(number): item for number, item in enumerate(value, 1)}
    own = {key: item for key, item in value.items() if is_single(item)}
    if own:
        yield path, own
    for key, item in value.items():
        if not is_single(item):
            yield from leaves(item, (*path, key))


def is_single(value: Any) -> bool:
    """Whether a value fits into one cell."""
    if isinstance(value, list):
        return all(is_single(item) and not isinstance(item, list) for item in value)
    return not isinstance(value, Mapping)


def cell(value: Any) -> str:
    """The text of a cell."""
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return (
        {None: "–", True: "yes", False: "no"}.get(value, str(value)) if not isinstance(value, str) else value
    )


def table(rows: Rows, words: int = 1) -> str:
    """Rows as a Markdown table of at most ``MAX_ROWS`` rows.

    Args:
        rows: the head, then the rows.
        words: number of columns with text, aligned to the left; the others hold numbers.
    """
    safe = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in rows]
    more = len(safe) - 1 - MAX_ROWS
    text = markdown_table(safe[: MAX_ROWS + 1]).replace("---:", "---", words - 1)
    return text + (f"\n\n… and {more} more lines in the file." if more > 0 else "")


def accuracy(results: Path = RESULTS) -> str:
    """Make a table of the summaries of all files written by ``deeplab evaluate --out``, in percent."""
    rows: Rows = []
    methods: list[str] = []
    for path in sorted(results.glob("*.json")):
        scores = evaluation_scores(json.loads(path.read_text(encoding="utf-8")))
        methods = list(scores) or methods
        for figure in scores[methods[0]]["summary"] if scores else ():
            values = [f"{scores[method]['summary'][figure]:.2f}" for method in scores]
            rows.append([path.stem, figure, *values])
    if not rows:
        return "No evaluation has been written to `results/` yet.\n"
    rows.insert(0, ["measurement", "figure", *methods])
    width = max(map(len, rows))
    return table([row + [""] * (width - len(row)) for row in rows], words=2) + "\n"


def evaluation_scores(content: Any) -> Mapping[str, Any]:
    """Get the scores by method from the content of a file; empty if it is not of ``deeplab evaluate``."""
    scores = content.get("scores") if isinstance(content, dict) else None
    if not isinstance(scores, dict):
        return {}
    complete = all(isinstance(each, dict) and "summary" in each for each in scores.values())
    return scores if complete else {}


def crf_speed(results: Path = RESULTS) -> str:
    """Seconds of the CRF beside another program's, and how many times as fast it is."""
    path = results / "bench-densecrf.json"
    if not path.is_file():
        return "No times have been written to `results/` yet; `make bench` does.\n"
    content = json.loads(path.read_text(encoding="utf-8"))
    rival = content["rival"]
    rows: Rows = []
    for work, programs in content["seconds"].items():
        theirs = programs[rival]["median s"]
        ours = {name: times["median s"] for name, times in programs.items() if name != rival}
        rows.append([work, f"{theirs:.2f} s", *(f"{s:.2f} s ({theirs / s:.1f}×)" for s in ours.values())])
        head = ["work", rival, *ours]
    return f"{table([head, *rows])}\n\n{content['processor']}, {content['date']}.\n"


def crf_phases(results: Path = RESULTS) -> str:
    """Processor time of the phases of the CRF, for one and two threads."""
    path = results / "bench-densecrf.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    title = next((key for key in content if key.startswith("phases of ")), None)
    if title is None:
        return "No phases have been written to `results/` yet; `make bench` does.\n"
    threads: dict[str, dict[str, dict[str, float]]] = content[title]
    phases = list(dict.fromkeys(phase for rows in threads.values() for phase in rows))
    rows: Rows = []
    for phase in phases:
        figures = [each.get(phase, {}) for each in threads.values()]
        cells = [
            ", ".join(f"{value:g} {unit}" for unit, value in one.items()) if one else "" for one in figures
        ]
        rows.append([phase, *cells])
    text = table([["phase", *threads], *rows])
    return f"{title.removeprefix('phases of ')}; {content['processor']}, {content['date']}.\n\n{text}\n"


def networks() -> str:
    """The six networks side by side, with the paper's numbers."""
    rows: Rows = [
        [
            "network",
            "fc6",
            "atrous rate",
            "field of view, paper",
            "field of view, pixels",
            "parameters",
            "10⁹ multiplications at 321×321",
            "paper's mean IoU",
            "+ CRF",
        ]
    ]
    for name, variant in VARIANTS.items():
        all_layers = describe(name)
        fc8 = next(layer for layer in all_layers if layer.name == "fc8")
        nominal, before, after = PAPER.get(name, ("", "", ""))
        rows.append(
            [
                f"`{name}`",
                f"{variant.head.kernel}×{variant.head.kernel}",
                str(variant.head.atrous_rate),
                str(nominal),
                str(fc8.field_of_view),
                f"{sum(layer.parameters for layer in all_layers):,}",
                f"{sum(layer.multiplications for layer in all_layers) / 1e9:.0f}",
                *(f"{iou:.2f}" if iou else "" for iou in (before, after)),
            ]
        )
    return table(rows) + "\n"


def layers(variant: str) -> str:
    """The layers of one network."""
    head = [
        "layer",
        "kernel",
        "atrous rate",
        "output stride",
        "field of view",
        "channels",
        "height×width",
        "parameters",
    ]

    def row(layer: Layer) -> list[str]:
        return [
            layer.name,
            f"{layer.kernel}×{layer.kernel}" + (f", stride {layer.stride}" if layer.stride > 1 else ""),
            str(layer.atrous_rate),
            str(layer.output_stride),
            str(layer.field_of_view),
            str(layer.channels),
            f"{layer.height}×{layer.width}",
            f"{layer.parameters:,}" if layer.parameters else "",
        ]

    return table([head, *map(row, describe(variant))]) + "\n"


def commands_page() -> str:
    """Every command with its options, as ``--help`` shows them."""
    parts = [
        "# Commands\n\nThe output of `--help` for each command. Exit codes: 0 success, 1 something failed, "
        "2 wrong usage, 3 warnings only (`check-data`), 130 interrupted.\n"
    ]
    for name in COMMANDS:
        parts.append(f"## deeplab {name}\n\n```text\n{help_of(deeplab_main, name)}\n```\n")
    for name in ("refine", "sharpen", "doctor"):
        parts.append(f"## densecrf {name}\n\n```text\n{help_of(densecrf_main, name)}\n```\n")
    return "\n".join(parts)


def help_of(main: Any, *command: str) -> str:
    """The ``--help`` text of a command, without colours, 88 columns wide.

    Args:
        main: the program's main function.
        command: the command's words.
    """
    shown = {"COLUMNS": "88", "NO_COLOR": "1", "TERM": "dumb"}
    kept = {key: os.environ.get(key) for key in shown}
    os.environ.update(shown)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
            main([*command, "--help"])
    finally:
        for key, value in kept.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    return "\n".join(line.rstrip() for line in plain.rstrip().splitlines())


if __name__ == "__main__":
    write_all(Path(__file__).parent / "made")
