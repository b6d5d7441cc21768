"""``deeplab search``: find the CRF's parameters for a network and photos."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import OmitArgPrefixes

from deeplab.commands.common import OK, ModelOptions, load_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deeplab.crf_search.evaluate_params import ParamsEvaluator
    from deeplab.crf_search.grid import Grid
    from deeplab.model.segmentation import Model
    from densecrf import Params


@dataclass(frozen=True)
class Search:
    """Find the CRF's w1, σα and σβ by their mean IoU on labelled photos, as in the paper: coarse grid, then
    finer.

    w2 and σγ stay at 3. The network runs once; a search that was stopped goes on where it was.
    """

    data: Path
    """Folder of photos with labels."""
    out: Path
    """Folder for params.json, table.csv, heat-map.png (or optuna.png), summary.md and what was computed so
    far."""
    split: str = "val"
    """Name of the split to tune on."""
    engine: OmitArgPrefixes[ModelOptions] = field(default_factory=lambda: ModelOptions())
    scores: Path | None = None
    """Class scores in 8 bits (.npz) to search on, in place of a network's."""
    method: Literal["grid", "optuna"] = "grid"
    """Coarse-to-fine grid, or Optuna's sampler on logarithmic ranges."""
    photos: int = 100
    """How many to tune on, drawn at random; all if there are no more."""
    metric: Literal["mIoU", "mIoU-7"] = "mIoU"
    """Mean IoU over all classes, or over the seven that deeplab evaluate calls mIoU-7."""
    appearance_weight: tuple[float, ...] = ()
    """Values of w1; for Optuna the ends of its range. By default 5 to 10, for Optuna 1 and 20."""
    appearance_xy_std: tuple[float, ...] = ()
    """Values of σα in pixels, likewise. By default 50 to 100 in steps of 10, for Optuna 10 and 200."""
    appearance_rgb_std: tuple[float, ...] = ()
    """Values of σβ in levels, likewise. By default 3 to 10, for Optuna 1 and 30."""
    rounds: int = 2
    """Refinements around the best of the grid, each with half the step."""
    trials: int = 100
    """Settings that Optuna tries."""
    normalization: Literal["symmetric", "after", "before", "none"] = "after"
    """How kernels are normalised; "after" as in the paper's release."""
    seed: int = 0
    """Of the choice of photos, and of Optuna."""
    workers: int | None = None
    """Photos looked at at a time; by default one for each processor."""
    report_split: str | None = None
    """Score the best, the default and no CRF on all photos of this split, too."""


def search(options: Search) -> int:
    """Search, and write parameters, tables and a picture."""
    from deeplab.files import lock_file
    from deeplab.optional import require

    require("matplotlib", "a search")  # before an hour's work, not after it
    if options.scores is not None and options.engine.weights is not None:
        raise ValueError("got --scores and --weights, wanted one of them")
    options.out.mkdir(parents=True, exist_ok=True)
    with open(options.out / ".lock", "ab") as file:
        lock_file(
            file,
            f"{options.out}: another search works in this folder; wait for it, or name another with --out",
        )
        return _searched(options)


def _searched(options: Search) -> int:
    import json
    from dataclasses import asdict

    from rich.console import Console

    from deeplab.crf_search.grid import best_of, outside
    from deeplab.crf_search.report import cloud, heat_map, short_rows, table_csv, worth
    from deeplab.files import write_whole
    from deeplab.tables import markdown_table, terminal_table

    out, grid = options.out, _grid(options)
    model = None if options.scores is not None else load_model(options.engine)
    how: dict[str, Any] = {"metric": options.metric, "method": options.method, **asdict(grid)}
    how |= (
        {"rounds": options.rounds}
        if options.method == "grid"
        else {"trials": options.trials, "seed": options.seed}
    )
    how |= {"normalization": options.normalization}
    tuned, defaults = _trials(options, model, options.split, options.photos, out, how)
    others = None
    if options.report_split is not None:
        folder = out / f"report-{options.report_split}"
        others, _ = _trials(options, model, options.report_split, None, folder, {})
    table = _search(options, tuned, grid)
    best = best_of(table)
    ranked = tuned.scores(sorted(table, key=lambda params: -table[params]))
    write_whole(out / "params.json", json.dumps(asdict(best), indent=2) + "\n")
    write_whole(out / "table.csv", table_csv(ranked))
    if options.method == "grid":
        picture, drawn = "heat-map.png", heat_map(grid, table, options.metric)
    else:
        picture, drawn = "optuna.png", cloud(table, options.metric)
    write_whole(out / picture, drawn)
    told = worth(tuned.names, options.split, tuned.names, options.split)
    if edges := outside(best, grid):
        told += f" {' and '.join(edges)} came out at an end of the values or beyond it; wider ones may hold better."
    title = f"'{options.split}', best {options.metric} first, percent"
    parts = [(title, short_rows(tuned, defaults, list(ranked)), told)]
    if others is not None:
        told = worth(tuned.names, options.split, others.names, str(options.report_split))
        parts.append((f"'{options.report_split}', percent", short_rows(others, defaults, [best]), told))
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    for title, rows, told in parts:
        console.print(terminal_table(rows, title))
        print(told)
    text = "\n\n".join(f"## {title}\n\n{markdown_table(rows)}\n\n{told}" for title, rows, told in parts)
    write_whole(out / "summary.md", f"{text}\n")
    print(f"written: params.json, table.csv, {picture} and summary.md in {out}/")
    return OK


def _grid(options: Search) -> Grid:
    """The values asked for, in place of the default ones of the method."""
    from deeplab.crf_search.grid import SPAN, Grid

    default = Grid() if options.method == "grid" else SPAN
    return Grid(**{name: getattr(options, name) or values for name, values in default.axes.items()})


def _trials(
    options: Search, model: Model | None, split: str, count: int | None, folder: Path, how: dict[str, Any]
) -> tuple[ParamsEvaluator, Params]:
    """A split's photos with their scores, ready to be tried on, and the parameters where nobody searches."""
    from deeplab.classes import WELL_POPULATED
    from deeplab.crf_search.evaluate_params import ParamsEvaluator
    from deeplab.crf_search.grid import choose
    from deeplab.crf_search.score_cache import CachedScores, FileScores, ScoreSource
    from deeplab.datasets.opening import open_dataset
    from deeplab.files import check_settings

    dataset = open_dataset(options.data, split)
    if options.metric == "mIoU-7" and not set(WELL_POPULATED) <= set(dataset.class_names):
        raise ValueError(
            f"{options.data}: lacks classes of mIoU-7 ({', '.join(WELL_POPULATED)}); wanted --metric mIoU"
        )
    source: ScoreSource
    if model is not None:
        source = CachedScores(model, dataset, split, options.out / "scores" / split)
    else:
        assert options.scores is not None
        source = FileScores(options.scores, dataset)
    pairs = list(dataset) if count is None else choose(dataset, count, options.seed)
    names = [pair.name for pair in pairs]
    check_settings(
        folder / "search.json", {"scores of": source.identity, "split": split, "photos": names, **how}
    )
    source.fill(pairs)
    trials = ParamsEvaluator(
        pairs, source, dataset.class_names, folder / "trials.jsonl", workers=options.workers
    )
    return trials, source.defaults


def _search(options: Search, trials: ParamsEvaluator, grid: Grid) -> dict[Params, float]:
    """The score of every setting that the method looks at."""
    from deeplab.crf_search.grid import by_optuna, coarse_to_fine
    from densecrf import Params

    def measure(settings: Sequence[Params]) -> list[float]:
        found = trials.scores(settings).values()
        return [scores.mean_iou if options.metric == "mIoU" else scores.mean_iou_of() for scores in found]

    base = Params(normalization=options.normalization)
    if options.method == "grid":
        return coarse_to_fine(measure, grid, base, rounds=options.rounds)
    return by_optuna(measure, grid, base, trials=options.trials, seed=options.seed)
