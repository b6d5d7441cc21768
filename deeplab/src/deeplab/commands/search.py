"""``deeplab search``: find CRF parameters for a network on labelled photos."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import OmitArgPrefixes

from deeplab.commands.common import OK, ModelOptions, load_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deeplab.crf_search.evaluate_params import ParamsEvaluator
    from deeplab.crf_search.grid import Grid
    from deeplab.crf_search.score_cache import ScoreSource
    from deeplab.datasets.samples import Dataset
    from deeplab.model.segmentation import Model
    from deeplab.tables import Rows
    from densecrf import Params


@dataclass(frozen=True)
class Search:
    """Find the CRF parameters with the best mean IoU on labelled photos by a coarse-to-fine grid.

    w1, σα and σβ are searched; w2 and σγ stay at 3. The network runs once for each photo.
    The same command resumes an interrupted search.
    """

    data: Path
    """Folder of the data set, in any layout that check-data accepts."""
    out: Path
    """Folder for params.json, table.csv, summary.md, heat-map.png (or optuna.png) and the cache."""
    split: str = "val"
    """Split to tune on."""
    binary: bool = False
    """Take black and white masks as they are: 0 is background, the other level the object."""
    line_width: float = 0.0
    """Width in pixels of annotated lines, and diameter of points; at 0 they are errors."""
    engine: OmitArgPrefixes[ModelOptions] = field(default_factory=lambda: ModelOptions())
    scores: Path | None = None
    """File of 8-bit class scores (.npz) to use instead of a network."""
    method: Literal["grid", "optuna"] = "grid"
    """grid: coarse-to-fine; optuna: the sampler of Optuna on logarithmic ranges."""
    photos: int = 100
    """Number of photos to tune on, chosen at random; all if the split has fewer."""
    metric: Literal["mIoU", "mIoU-7"] = "mIoU"
    """mIoU: over all classes; mIoU-7: over the seven VOC classes with enough training photos."""
    appearance_weight: tuple[float, ...] = ()
    """Values of w1 (for optuna, the ends of the range). By default 5 to 10 (optuna: 1 and 20)."""
    appearance_xy_std: tuple[float, ...] = ()
    """Values of σα in pixels, likewise. By default 50 to 100 in steps of 10 (optuna: 10 and 200)."""
    appearance_rgb_std: tuple[float, ...] = ()
    """Values of σβ in levels, likewise. By default 3 to 10 (optuna: 1 and 30)."""
    rounds: int = 2
    """Number of refinements around the best setting, each with half the step size."""
    trials: int = 100
    """Number of settings that Optuna tries."""
    normalization: Literal["symmetric", "after", "before", "none"] = "after"
    """Normalization of the kernels; "after" as in the paper's release."""
    seed: int = 0
    """Random seed for the choice of photos and for Optuna."""
    workers: int | None = None
    """Number of photos processed at a time; by default one per processor."""
    report_split: str | None = None
    """Another split, on which the best parameters, the default ones and no CRF are evaluated as well."""


def search(options: Search) -> int:
    """Search, and write the parameters, tables and a chart."""
    from deeplab.files import lock_file
    from deeplab.optional import require

    require("matplotlib", "a search")  # fail now, not after an hour of work
    if options.scores is not None and options.engine.weights is not None:
        raise ValueError("got --scores and --weights, wanted one of them")
    options.out.mkdir(parents=True, exist_ok=True)
    with open(options.out / ".lock", "ab") as file:
        lock_file(
            file,
            f"{options.out}: another search works in this folder; wait for it, or name another with --out",
        )
        return _search(options)


@dataclass(frozen=True)
class _Section:
    """One table of the summary."""

    title: str
    rows: Rows
    caveat: str


def _search(options: Search) -> int:
    """Search in a folder that this process has locked."""
    from deeplab.crf_search.grid import best_of
    from deeplab.crf_search.report import table_csv
    from deeplab.files import write_whole

    grid = _grid(options)
    model = None if options.scores is not None else load_model(options.engine)
    evaluator, defaults = _evaluator(
        options, model, options.split, options.photos, options.out, _settings(options, grid)
    )
    others = None
    if options.report_split is not None:
        folder = options.out / f"report-{options.report_split}"
        others, _ = _evaluator(options, model, options.report_split, None, folder, {})
    table = _scores(options, evaluator, grid)
    best = best_of(table)
    ranked = evaluator.scores(sorted(table, key=lambda params: -table[params]))
    write_whole(options.out / "params.json", json.dumps(asdict(best), indent=2) + "\n")
    write_whole(options.out / "table.csv", table_csv(ranked))
    chart = _write_chart(options, grid, table)
    sections = [_tuned_section(options, evaluator, defaults, list(ranked), grid)]
    if others is not None:
        sections.append(_other_section(options, evaluator, others, defaults, best))
    _write_summary(options.out, sections)
    print(f"written: params.json, table.csv, {chart} and summary.md in {options.out}/")
    return OK


def _grid(options: Search) -> Grid:
    """The values of the options, or else the default ones of the method."""
    from deeplab.crf_search.grid import SPAN, Grid

    default = Grid() if options.method == "grid" else SPAN
    return Grid(**{name: getattr(options, name) or values for name, values in default.axes.items()})


def _settings(options: Search, grid: Grid) -> dict[str, Any]:
    """What the results of a search depend on beside the photos and their scores."""
    settings: dict[str, Any] = {"metric": options.metric, "method": options.method, **asdict(grid)}
    if options.method == "grid":
        settings["rounds"] = options.rounds
    else:
        settings |= {"trials": options.trials, "seed": options.seed}
    return settings | {"normalization": options.normalization}


def _evaluator(
    options: Search,
    model: Model | None,
    split: str,
    count: int | None,
    folder: Path,
    settings: dict[str, Any],
) -> tuple[ParamsEvaluator, Params]:
    """Prepare the photos of a split and their scores.

    Args:
        options: options of the command.
        model: the network; None to read scores from a file.
        split: name of the split.
        count: number of photos, drawn at random; None for all.
        folder: folder of the results.
        settings: what the results depend on beside the photos and their scores.

    Returns:
        An evaluator of parameters on these photos, and the parameters without a search.
    """
    from deeplab.classes import WELL_POPULATED
    from deeplab.crf_search.evaluate_params import ParamsEvaluator
    from deeplab.crf_search.grid import draw_samples
    from deeplab.datasets.label_scan import usable
    from deeplab.datasets.opening import open_dataset
    from deeplab.files import check_settings

    dataset = open_dataset(options.data, split, binary=options.binary, line_width=options.line_width)
    dataset = usable(dataset, f"{options.data}, split {split}", is_strict=True)
    if options.metric == "mIoU-7" and not set(WELL_POPULATED) <= set(dataset.class_names):
        raise ValueError(
            f"{options.data}: lacks classes of mIoU-7 ({', '.join(WELL_POPULATED)}); wanted --metric mIoU"
        )
    source = _score_source(options, model, dataset, split)
    samples = list(dataset) if count is None else draw_samples(dataset, count, options.seed)
    names = [sample.name for sample in samples]
    identity = {"scores of": source.identity, "split": split, "photos": names}
    check_settings(folder / "search.json", {**identity, **settings})
    source.fill(samples)
    evaluator = ParamsEvaluator(
        samples, source, dataset.class_names, folder / "trials.jsonl", workers=options.workers
    )
    return evaluator, source.defaults


def _score_source(options: Search, model: Model | None, dataset: Dataset, split: str) -> ScoreSource:
    from deeplab.crf_search.score_cache import CachedScores, FileScores

    if model is not None:
        return CachedScores(model, dataset, split, options.out / "scores" / split)
    assert options.scores is not None
    return FileScores(options.scores, dataset)


def _scores(options: Search, evaluator: ParamsEvaluator, grid: Grid) -> dict[Params, float]:
    """The score of every setting that the method tries."""
    from deeplab.crf_search.grid import by_optuna, coarse_to_fine
    from densecrf import Params

    def measure(settings: Sequence[Params]) -> list[float]:
        results = evaluator.scores(settings).values()
        return [scores.mean_iou if options.metric == "mIoU" else scores.mean_iou_of() for scores in results]

    base = Params(normalization=options.normalization)
    if options.method == "grid":
        return coarse_to_fine(measure, grid, base, rounds=options.rounds)
    return by_optuna(measure, grid, base, trials=options.trials, seed=options.seed)


def _write_chart(options: Search, grid: Grid, table: dict[Params, float]) -> str:
    """Write the chart of the method and return its name."""
    from deeplab.crf_search.report import heat_map, scatter_plot
    from deeplab.files import write_whole

    if options.method == "grid":
        name = "heat-map.png"
        picture = heat_map(grid, table, options.metric)
    else:
        name = "optuna.png"
        picture = scatter_plot(table, options.metric)
    write_whole(options.out / name, picture)
    return name


def _tuned_section(
    options: Search, evaluator: ParamsEvaluator, defaults: Params, ranked: Sequence[Params], grid: Grid
) -> _Section:
    """The scores on the photos that were tuned on."""
    from deeplab.crf_search.grid import at_grid_edge
    from deeplab.crf_search.report import short_rows, tuning_caveat

    caveat = tuning_caveat(evaluator.names, options.split, evaluator.names, options.split)
    if edges := at_grid_edge(ranked[0], grid):
        verb = "is" if len(edges) == 1 else "are"
        caveat += (
            f" The best {' and '.join(edges)} {verb} at the end of the searched range: try a wider range."
        )
    title = f"'{options.split}', best {options.metric} first, percent"
    return _Section(title, short_rows(evaluator, defaults, ranked), caveat)


def _other_section(
    options: Search, evaluator: ParamsEvaluator, others: ParamsEvaluator, defaults: Params, best: Params
) -> _Section:
    """The scores on the photos of --report-split."""
    from deeplab.crf_search.report import short_rows, tuning_caveat

    caveat = tuning_caveat(evaluator.names, options.split, others.names, str(options.report_split))
    title = f"'{options.report_split}', percent"
    return _Section(title, short_rows(others, defaults, [best]), caveat)


def _write_summary(folder: Path, sections: Sequence[_Section]) -> None:
    """Print the tables, and write them to summary.md."""
    from rich.console import Console

    from deeplab.files import write_whole
    from deeplab.tables import markdown_table, terminal_table

    console = Console()
    console = console if console.is_terminal else Console(width=120)
    for section in sections:
        console.print(terminal_table(section.rows, section.title))
        print(section.caveat)
    text = "\n\n".join(f"## {s.title}\n\n{markdown_table(s.rows)}\n\n{s.caveat}" for s in sections)
    write_whole(folder / "summary.md", f"{text}\n")
