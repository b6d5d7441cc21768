"""The command line. Options of its commands are dataclasses; heavy modules load when needed."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, UseAppendAction, arg

OK, FAILED, INTERRUPTED = 0, 1, 130


@dataclass(frozen=True)
class Segment:
    """Label every pixel of photos: ids as a palette PNG, an overlay with a legend, and a table of classes."""

    photos: Positional[tuple[Path, ...]]
    """Photos and folders of photos."""
    out: Path = Path("segmented")
    """Folder for the results."""
    weights: Path | None = None
    """A .safetensors file with its card beside it; by default the weights that come with the package."""
    crf: bool = True
    """Refine the boundaries with the fully connected CRF."""
    compare: bool = False
    """Also write one picture with photo, network, and network + CRF side by side."""


@dataclass(frozen=True)
class Evaluate:
    """Score the network, without and with the CRF, on a split of a folder in VOC's layout."""

    data: Path
    """Folder in the layout of PASCAL VOC."""
    split: str = "val"
    """Name of the list in ImageSets/Segmentation."""
    weights: Path | None = None
    """A .safetensors file with its card beside it; by default the weights that come with the package."""
    crf: bool = True
    """Score with the CRF, too."""
    boundary: tuple[int, ...] = (10,)
    """Widths in pixels of the bands around void borders that are scored besides."""
    out: Path | None = None
    """Write the figures to this JSON file, and as a table to the same name ending in .md."""


@dataclass(frozen=True)
class Train:
    """Train on a folder in VOC's layout; a run that was stopped goes on where it was."""

    recipe: Positional[Path]
    """A TOML file, as in recipes/."""
    out: Path
    """Folder for the cache, the log, checkpoints and weights."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Change a key of the recipe, e.g. --set data=DIR; may be repeated."""


@dataclass(frozen=True)
class Describe:
    """Show the layers of a network of the paper: sizes, holes, fields of view, parameters, multiplications."""

    variant: Positional[str] = "deeplab-largefov"
    """Name of the network."""
    classes: int = 21
    """How many, background included."""
    size: tuple[int, int] = (321, 321)
    """Height and width of the input."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 all done, 1 something failed, 2 wrong usage, 130 interrupted."""
    options: Segment | Evaluate | Train | Describe = tyro.extras.subcommand_cli_from_dict(
        {"segment": Segment, "evaluate": Evaluate, "train": Train, "describe": Describe},
        prog="deeplab",
        description="A photo in, a label for every pixel out.",
        args=arguments,
    )
    try:
        if isinstance(options, Segment):
            return segment(options)
        if isinstance(options, Evaluate):
            return evaluate(options)
        return train(options) if isinstance(options, Train) else describe(options)
    except KeyboardInterrupt:
        complain("stopped; what was written is whole")
        return INTERRUPTED
    except (ValueError, OSError, MemoryError, FloatingPointError) as error:
        complain(str(error) or "out of memory")
        return FAILED


def complain(message: str) -> None:
    """One line on the error stream, above a progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(f"deeplab: error: {' '.join(message.split())}", file=sys.stderr)


def segment(options: Segment) -> int:
    """Segment photos; one that fails is reported and the others go on."""
    from rich.console import Console
    from tqdm import tqdm

    from deeplab.jobs import ClassTable, plan, write_results
    from deeplab.segment import load

    jobs, complaints = plan(options.photos, options.out)
    for line in complaints:
        complain(line)
    if not jobs:
        if not complaints:
            complain("no photos given; wanted photos or folders of photos")
        return FAILED
    model = load(weights=options.weights)
    options.out.mkdir(parents=True, exist_ok=True)
    table, done = ClassTable(), 0
    try:
        for job in tqdm(jobs, unit="photo", disable=None):
            try:
                table.add(job.photo, write_results(job, model, crf=options.crf, compare=options.compare))
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


def evaluate(options: Evaluate) -> int:
    """Score without and with the CRF, print the table, and write it if asked."""
    from rich.console import Console
    from tqdm import tqdm

    from deeplab.datasets import voc
    from deeplab.scoreboard import markdown, score, table
    from deeplab.segment import load
    from deeplab.weights import write_whole

    pairs = voc(options.data, options.split)
    model = load(weights=options.weights)
    board = score(model, tqdm(pairs, unit="photo", disable=None), crf=options.crf, boundary=options.boundary)
    board |= {"split": options.split, "photos": len(pairs)}
    Console().print(table(board))
    if options.out is not None:
        write_whole(options.out, (json.dumps(board, indent=2, ensure_ascii=False) + "\n").encode())
        write_whole(options.out.with_suffix(".md"), markdown(board).encode())
        print(f"written: {options.out} and {options.out.with_suffix('.md')}")
    return OK


def train(options: Train) -> int:
    """Train by a recipe and say where the weights are."""
    from deeplab import training

    weights = training.train(training.read_recipe(options.recipe, options.set), options.out)
    print(f"weights: {weights}, card: {weights.with_suffix('.json')}")
    return OK


def describe(options: Describe) -> int:
    """Print a variant's layers as a table."""
    from rich.console import Console
    from rich.table import Table

    from deeplab.description import describe as layers_of

    height, width = options.size
    if min(height, width, options.classes - 1) < 1:
        raise ValueError(f"got {height}×{width} and {options.classes} classes, wanted sizes above 0 and 2 classes")
    layers = layers_of(options.variant, classes=options.classes, height=height, width=width)
    table = Table(title=f"{options.variant}, {options.classes} classes", show_footer=True)
    table.add_column("layer", footer="all")
    totals = f"{sum(row.parameters for row in layers):,}", f"{sum(row.multiplications for row in layers) / 1e9:.2f}"
    for name, footer in (
        ("kernel", ""), ("stride", ""), ("hole", ""), ("output stride", ""), ("field of view", ""), ("channels", ""),
        ("height×width", ""), ("parameters", totals[0]), ("10⁹ multiplications", totals[1]),
    ):  # fmt: skip
        table.add_column(name, footer=footer, justify="right")
    for row in layers:
        table.add_row(
            row.name, f"{row.kernel}×{row.kernel}", str(row.stride), str(row.atrous_rate), str(row.output_stride),
            str(row.field_of_view), str(row.channels), f"{row.height}×{row.width}", f"{row.parameters:,}",
            f"{row.multiplications / 1e9:.2f}",
        )  # fmt: skip
    console = Console()
    console.print(table) if console.is_terminal else Console(width=140).print(table)
    return OK


def entry() -> None:
    """The console script."""
    sys.exit(main())
