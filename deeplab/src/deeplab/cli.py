"""The command line. Options of its commands are dataclasses; heavy modules load when needed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

if TYPE_CHECKING:
    from deeplab.segment import Model

OK, FAILED, INTERRUPTED = 0, 1, 130


@dataclass(frozen=True)
class Engine:
    """Which network, and what it runs on."""

    weights: str | None = None
    """A .safetensors file with its card, hf-hub:owner/name, or a .caffemodel; by default those of the package."""
    variant: str | None = None
    """Name of the network, where the weights' file leaves it open."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 …"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bfloat16 where the device has it in hardware; the same labels but for 0.1 % of the pixels."""
    compile: bool = False
    """Run the network through torch.compile: slow to start, for thousands of photos of few sizes."""


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
    scales: tuple[float, ...] = (1.0,)
    """Factors on height and width at which the network looks; their probabilities are averaged."""
    mirror: bool = False
    """Look at a mirrored copy, too."""
    tile: int | None = None
    """Look through windows of so many pixels; by default only where memory asks for it. Same result."""
    compare: bool = False
    """Also write one picture with photo, network, and network + CRF side by side."""


@dataclass(frozen=True)
class Evaluate:
    """Score the network, without and with the CRF, on a split of a folder in VOC's layout."""

    data: Path
    """Folder in the layout of PASCAL VOC."""
    split: str = "val"
    """Name of the list in ImageSets/Segmentation."""
    engine: OmitArgPrefixes[Engine] = field(default_factory=lambda: Engine())
    crf: bool = True
    """Score with the CRF, too."""
    scales: tuple[float, ...] = (1.0,)
    """Factors on height and width at which the network looks; their probabilities are averaged."""
    mirror: bool = False
    """Look at a mirrored copy, too."""
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
class Convert:
    """Turn weights of another program (Caffe, torchvision, timm, Keras) into .safetensors with a card."""

    file: Positional[str]
    """A .caffemodel, .safetensors or .npz file, or "imagenet" for ImageNet's VGG-16 from the hub."""
    out: Path
    """The file to write, ending in .safetensors; its card goes beside it."""
    variant: str | None = None
    """Name of the network; by default what the file's fc6 fits."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, id order; by default VOC's."""


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
    options: Segment | Evaluate | Train | Convert | Describe = tyro.extras.subcommand_cli_from_dict(
        {"segment": Segment, "evaluate": Evaluate, "train": Train, "convert": Convert, "describe": Describe},
        prog="deeplab",
        description="A photo in, a label for every pixel out.",
        args=arguments,
    )
    try:
        if isinstance(options, Segment):
            return segment(options)
        if isinstance(options, Evaluate):
            return evaluate(options)
        if isinstance(options, Train):
            return train(options)
        return convert(options) if isinstance(options, Convert) else describe(options)
    except KeyboardInterrupt:
        complain("stopped; what was written is whole")
        return INTERRUPTED
    except (ValueError, OSError, MemoryError, FloatingPointError, ModuleNotFoundError) as error:
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
                table.add(job.photo, write_results(job, model, crf=options.crf, compare=options.compare, **looks))
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
    from deeplab.weights import write_whole

    pairs = voc(options.data, options.split)
    model, looks = model_of(options.engine), {"scales": options.scales, "mirror": options.mirror}
    bar = tqdm(pairs, unit="photo", disable=None)
    board = score(model, bar, crf=options.crf, boundary=options.boundary, **looks)
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


def convert(options: Convert) -> int:
    """Write weights of another program as ours and say what did not carry over."""
    from deeplab.loading import convert_named
    from deeplab.weights import save_weights

    if options.out.suffix != ".safetensors":
        raise ValueError(f"got {options.out}, wanted a file ending in .safetensors")
    found = convert_named(options.file, options.variant, class_names=options.class_names or None)
    save_weights(options.out, found.network, found.card)
    print(f"{options.out}, card {options.out.with_suffix('.json')}: {found.summary()}")
    return OK


def model_of(engine: Engine) -> Model:
    """The model that options ask for; what its weights lack is said in one line."""
    import warnings

    from deeplab.loading import load

    with warnings.catch_warnings(record=True) as told:
        model = load(**asdict(engine))
    for warning in told:
        print(f"deeplab: note: {warning.message}", file=sys.stderr)
    return model


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
