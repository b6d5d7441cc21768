"""The results of a search for the CRF's parameters: tables, charts, and a caveat on the scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from deeplab.classes import WELL_POPULATED
from deeplab.crf_search.evaluate_params import ParamsEvaluator
from deeplab.crf_search.grid import Grid, best_of
from deeplab.evaluation.charts import new_figure, png_of
from deeplab.evaluation.scoring import Scores
from deeplab.tables import Rows, comma_separated
from densecrf import Params

MAX_SHOWN = 10
"""How many of the best settings the short table shows."""
NO_CRF = Params(appearance_weight=0, smoothness_weight=0)
"""Parameters with which the CRF changes nothing."""
TICKS = tuple(digit * 10.0**power for power in range(-2, 4) for digit in (1, 2, 5))
BEST_COLOUR = "#d62728"
"""Colour of the frame or ring around the best setting."""
SYMBOLS = {
    "appearance_weight": "w1",
    "appearance_xy_std": "σα",
    "appearance_rgb_std": "σβ",
    "smoothness_weight": "w2",
    "smoothness_xy_std": "σγ",
    "normalization": "normalisation",
}


def figures(scores: Scores) -> dict[str, float]:
    """Get mIoU-7 (if the data has its classes), mean IoU over all classes, and pixel accuracy in percent.

    They are not rounded: neighbours on a grid differ by less than ``Scores.summary`` shows.
    """
    seven = {"mIoU-7": scores.mean_iou_of()} if set(WELL_POPULATED) <= set(scores.class_names) else {}
    values = seven | {
        f"mIoU-{len(scores.class_names)}": scores.mean_iou,
        "pixel accuracy": scores.pixel_accuracy,
    }
    return {name: 100 * value for name, value in values.items()}


def table_csv(ranked: Mapping[Params, Scores]) -> bytes:
    """Make a CSV file of every setting with its scores in percent, in the order given."""
    rows: Rows = []
    for rank, (params, scores) in enumerate(ranked.items(), 1):
        values = asdict(params) | {name: f"{value:.4f}" for name, value in figures(scores).items()}
        rows = rows or [["rank", *values]]
        rows.append([str(rank), *(_number(value) for value in values.values())])
    return comma_separated(rows)


def short_rows(evaluator: ParamsEvaluator, defaults: Params, best: Sequence[Params]) -> Rows:
    """Make a table of the best settings next to no CRF and the default parameters, in percent.

    Args:
        evaluator: scores the settings.
        defaults: parameters that are used without a search.
        best: settings, best first; at most ten are shown.
    """
    ranked = {str(rank): params for rank, params in enumerate(best[:MAX_SHOWN], 1)}
    named = {"no CRF": NO_CRF, "default": defaults} | ranked
    scores = evaluator.scores(named.values())
    rows: Rows = []
    for name, params in named.items():
        values = figures(scores[params])
        rows = rows or [["", *SYMBOLS.values(), *values]]
        if params == NO_CRF:
            numbers = ["–"] * len(SYMBOLS)
        else:
            numbers = [_number(getattr(params, key)) for key in SYMBOLS]
        rows.append([name, *numbers, *(f"{value:.2f}" for value in values.values())])
    return rows


def tuning_caveat(tuned: Sequence[str], split: str, reported: Collection[str], report_split: str) -> str:
    """Say which photos the settings were tuned on, and whether the scores are of the same ones.

    Args:
        tuned: names of the photos that the settings were tuned on.
        split: their split.
        reported: names of the photos that are scored.
        report_split: their split.
    """
    chosen = f"{_photos(len(tuned))} of '{split}'"
    shared = set(tuned) & set(reported)
    if shared == set(tuned) == set(reported):
        return (
            f"Tuned and scored on the same {chosen}, so the scores are optimistic; --report-split NAME "
            "scores the best parameters on another split."
        )
    caveat = f"Tuned on {chosen}; scored on {_photos(len(reported))} of '{report_split}', "
    if not shared:
        return f"{caveat}none of them used for tuning."
    verb = "was" if len(shared) == 1 else "were"
    return f"{caveat}of which {len(shared)} {verb} used for tuning, so the scores are optimistic."


def heat_map(grid: Grid, table: Mapping[Params, float], title: str) -> bytes:
    """Draw the scores over σα and σβ, a panel for each w⁽¹⁾ of the grid; the best has a frame.

    Args:
        grid: the coarse grid; other settings are left out.
        table: scores, 0–1.
        title: what the scores are.

    Returns:
        The bytes of a PNG.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    weights, xy_stds, rgb_stds = grid.axes.values()
    values = _on_grid(grid, table)
    columns = min(len(weights), 3)
    rows = -(-len(weights) // columns)
    panel_width = 1.2 + 0.48 * len(xy_stds)
    panel_height = 1.0 + 0.36 * len(rgb_stds)
    figure = new_figure(max(4.5, panel_width * columns + 1), max(2.8, panel_height * rows + 0.6))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    best = np.unravel_index(np.nanargmax(values), values.shape)
    picture: Any = None
    for index, panel in enumerate(panels):
        if index >= len(weights):
            panel.set_visible(False)
            continue
        picture = _draw_panel(panel, values[index], float(np.nanmin(values)), float(np.nanmax(values)))
        panel.set_xticks(range(len(xy_stds)), [_number(value) for value in xy_stds])
        panel.set_yticks(range(len(rgb_stds)), [_number(value) for value in rgb_stds])
        panel.set_title(f"w1 = {_number(weights[index])}", fontsize=10)
        if index == best[0]:
            panel.add_patch(_frame(int(best[2]), int(best[1])))
    figure.colorbar(picture, ax=list(panels), label=f"{title}, percent", fraction=0.03, pad=0.02)
    figure.suptitle(f"{title} on the coarse grid; frame: best", fontsize=11)
    return png_of(figure)


def scatter_plot(table: Mapping[Params, float], title: str) -> bytes:
    """Draw the scores of settings on no grid against each parameter; the best has a ring.

    Args:
        table: scores, 0–1, in the order the settings were tried.
        title: what the scores are.

    Returns:
        The bytes of a PNG.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    figure = new_figure(10.0, 3.6)
    best = best_of(table)
    scores = [100 * score for score in table.values()]
    labels = {
        "appearance_weight": "w1",
        "appearance_xy_std": "σα, pixels",
        "appearance_rgb_std": "σβ, levels",
    }
    for position, (key, label) in enumerate(labels.items(), 1):
        panel = figure.add_subplot(1, 3, position)
        values = [getattr(params, key) for params in table]
        panel.scatter(values, scores, c=np.arange(len(table)), cmap="viridis", s=18)
        panel.scatter(getattr(best, key), 100 * table[best], s=90, facecolor="none", edgecolor=BEST_COLOUR)
        panel.set_xscale("log")
        panel.set_xticks([tick for tick in TICKS if min(values) <= tick <= max(values)])
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
        panel.set_xlabel(label)
        panel.set_ylabel(f"{title}, percent")
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    figure.suptitle("Settings in the order they were tried, from dark to light; ring: best", fontsize=11)
    return png_of(figure)


def _on_grid(grid: Grid, table: Mapping[Params, float]) -> np.ndarray:
    """Scores in percent by weight, σβ and σα; NaN for settings without a score."""
    scores = {
        (params.appearance_weight, params.appearance_rgb_std, params.appearance_xy_std): 100 * score
        for params, score in table.items()
    }
    weights, xy_stds, rgb_stds = grid.axes.values()
    return np.array(
        [[[scores.get((w, rgb, xy), np.nan) for xy in xy_stds] for rgb in rgb_stds] for w in weights]
    )


def _draw_panel(panel: Any, values: np.ndarray, low: float, high: float) -> Any:
    """Scores (σβ, σα) as a picture with numbers in its cells; low and high are the ends of the colours."""
    picture = panel.imshow(values, cmap="viridis", vmin=low, vmax=high, origin="lower", aspect="auto")
    panel.set_xlabel("σα, pixels")
    panel.set_ylabel("σβ, levels")
    digits = 1 if high - low > 2 else 2
    for row, column in np.ndindex(*values.shape):
        value = values[row, column]
        colour = "white" if value - low < 0.55 * (high - low) else "black"
        text = f"{value:.{digits}f}"
        panel.text(column, row, text, ha="center", va="center", fontsize=6.5, color=colour)
    return picture


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _photos(count: int) -> str:
    return "1 photo" if count == 1 else f"{count} photos"


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    corner = column - 0.5, row - 0.5
    return Rectangle(corner, 1, 1, fill=False, edgecolor=BEST_COLOUR, linewidth=2.2, clip_on=False)
