"""What a search for the CRF's parameters found: tables, pictures, and a plain word on what the scores are
worth."""

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

SHOWN = 10
"""How many of the best settings the short table has."""
NO_CRF = Params(appearance_weight=0, smoothness_weight=0)
"""Parameters with which the CRF changes nothing."""
TICKS = tuple(digit * 10.0**power for power in range(-2, 4) for digit in (1, 2, 5))
SIGNS = {
    "appearance_weight": "w1",
    "appearance_xy_std": "σα",
    "appearance_rgb_std": "σβ",
    "smoothness_weight": "w2",
    "smoothness_xy_std": "σγ",
    "normalization": "normalisation",
}


def figures(scores: Scores) -> dict[str, float]:
    """Mean IoU over the seven well-populated classes (where the data has them) and over all, and pixel
    accuracy.

    Percent, as they are; ``Scores.summary`` rounds more than neighbours on a grid differ.
    """
    seven = {"mIoU-7": scores.mean_iou_of()} if set(WELL_POPULATED) <= set(scores.class_names) else {}
    found = seven | {
        f"mIoU-{len(scores.class_names)}": scores.mean_iou,
        "pixel accuracy": scores.pixel_accuracy,
    }
    return {name: 100 * value for name, value in found.items()}


def table_csv(ranked: Mapping[Params, Scores]) -> bytes:
    """Every setting with its scores in percent as the bytes of a CSV file, in the order given."""
    rows: Rows = []
    for rank, (params, scores) in enumerate(ranked.items(), 1):
        values = asdict(params) | {name: f"{value:.4f}" for name, value in figures(scores).items()}
        rows = rows or [["rank", *values]]
        rows.append([str(rank), *(_number(value) for value in values.values())])
    return comma_separated(rows)


def short_rows(trials: ParamsEvaluator, defaults: Params, best: Sequence[Params]) -> Rows:
    """The best settings beside no CRF and its default parameters; percent.

    Args:
        trials: that score them.
        defaults: parameters where nobody searches.
        best: settings, best first; no more than ten are shown.
    """
    named = {"no CRF": NO_CRF, "default": defaults} | {
        str(rank): one for rank, one in enumerate(best[:SHOWN], 1)
    }
    found = trials.scores(named.values())
    rows: Rows = []
    for name, params in named.items():
        values = figures(found[params])
        rows = rows or [["", *SIGNS.values(), *values]]
        signs = ["–"] * len(SIGNS) if params == NO_CRF else [_number(getattr(params, key)) for key in SIGNS]
        rows.append([name, *signs, *(f"{value:.2f}" for value in values.values())])
    return rows


def worth(tuned: Sequence[str], split: str, reported: Collection[str], report_split: str) -> str:
    """A sentence on which photos were tuned on and which the scores are of.

    Args:
        tuned: names of the photos that the settings were chosen by.
        split: that they are of.
        reported: names of the photos that are scored.
        report_split: that those are of.
    """
    chosen = f"{_photos(len(tuned))} of '{split}'"
    shared = set(tuned) & set(reported)
    if shared == set(tuned) == set(reported):
        return (
            f"Tuned on {chosen}, and the scores are of the same photos: they are optimistic. "
            "--report-split NAME scores the best on others."
        )
    told = f"Tuned on {chosen}; the scores are of {_photos(len(reported))} of '{report_split}', "
    if not shared:
        return f"{told}none of them the same."
    return (
        f"{told}of which {len(shared)} {'is' if len(shared) == 1 else 'are'} the same: they are optimistic."
    )


def heat_map(grid: Grid, table: Mapping[Params, float], title: str) -> bytes:
    """The scores over σα and σβ, a field for each w⁽¹⁾ of the grid, as the bytes of a PNG; the best has a
    frame.

    Args:
        grid: that was searched; settings that are not on it are left out.
        table: scores, 0–1.
        title: what the scores are.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    weights, xy_stds, rgb_stds = grid.axes.values()
    places = {
        (p.appearance_weight, p.appearance_rgb_std, p.appearance_xy_std): 100 * score
        for p, score in table.items()
    }
    values = np.array(
        [[[places.get((w, rgb, xy), np.nan) for xy in xy_stds] for rgb in rgb_stds] for w in weights]
    )
    columns = min(len(weights), 3)
    lines = -(-len(weights) // columns)
    wide, tall = 1.2 + 0.48 * len(xy_stds), 1.0 + 0.36 * len(rgb_stds)
    figure = new_figure(max(4.5, wide * columns + 1), max(2.8, tall * lines + 0.6))
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    low, high = np.nanmin(values), np.nanmax(values)
    best = np.unravel_index(np.nanargmax(values), values.shape)
    picture: Any = None
    for place, panel in enumerate(panels):
        if place >= len(weights):
            panel.set_visible(False)
            continue
        picture = panel.imshow(
            values[place], cmap="viridis", vmin=low, vmax=high, origin="lower", aspect="auto"
        )
        panel.set_xticks(range(len(xy_stds)), [_number(value) for value in xy_stds])
        panel.set_yticks(range(len(rgb_stds)), [_number(value) for value in rgb_stds])
        panel.set_title(f"w1 = {_number(weights[place])}", fontsize=10)
        panel.set_xlabel("σα, pixels")
        panel.set_ylabel("σβ, levels")
        for row, column in np.ndindex(*values[place].shape):
            value = values[place, row, column]
            dark, digits = value - low < 0.55 * (high - low), 1 if high - low > 2 else 2
            panel.text(
                column,
                row,
                f"{value:.{digits}f}",
                ha="center",
                va="center",
                fontsize=6.5,
                color="white" if dark else "black",
            )
        if place == best[0]:
            panel.add_patch(_frame(int(best[2]), int(best[1])))
    figure.colorbar(picture, ax=list(panels), label=f"{title}, percent", fraction=0.03, pad=0.02)
    figure.suptitle(f"{title} on the coarse grid; frame: best", fontsize=11)
    return png_of(figure)


def cloud(table: Mapping[Params, float], title: str) -> bytes:
    """The scores of settings on no grid against each parameter, as the bytes of a PNG; the best has a ring.

    Args:
        table: scores, 0–1.
        title: what the scores are.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    figure = new_figure(10.0, 3.6)
    best = best_of(table)
    order = np.arange(len(table))
    for place, (key, label) in enumerate(
        (("weight", "w1"), ("xy_std", "σα, pixels"), ("rgb_std", "σβ, levels"))
    ):
        panel = figure.add_subplot(1, 3, place + 1)
        values = [getattr(params, f"appearance_{key}") for params in table]
        panel.scatter(values, [100 * score for score in table.values()], c=order, cmap="viridis", s=18)
        panel.scatter(
            getattr(best, f"appearance_{key}"), 100 * table[best], s=90, facecolor="none", edgecolor="#d62728"
        )
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


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _photos(count: int) -> str:
    return "1 photo" if count == 1 else f"{count} photos"


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(
        (column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#d62728", linewidth=2.2, clip_on=False
    )
