"""Scores as pictures: confusion, classes, boundary bands and calibration. matplotlib is loaded when one is
drawn."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from deeplab.evaluation.benchmark import Report
from deeplab.evaluation.scoring import Scores
from deeplab.optional import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

COLOURS = ("#0072B2", "#D55E00", "#009E73")  # of the ways of predicting; told apart by the colour-blind, too
MOST_NUMBERED = 25  # classes, up to which the cells of a confusion picture can hold numbers
DPI = 110


def confusion_chart(scores: Scores) -> bytes:
    """The confusion matrix as a heat map, a row for each true class, in percent of that class's pixels.

    Returns:
        The bytes of a PNG. Rows of classes without labelled pixels are hatched.
    """
    names, counts = scores.class_names, scores.confusion
    total = counts.sum(1, keepdims=True)
    share = np.divide(100 * counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    side = max(4.6, 0.36 * len(names) + 2)
    figure = new_figure(side + 0.8, side)
    axes = figure.add_subplot()
    axes.set_facecolor("#e4e4e4")
    for place in np.flatnonzero(total[:, 0] == 0):
        axes.axhspan(
            place - 0.5, place + 0.5, facecolor="#f2f2f2", edgecolor="#c8c8c8", hatch="////", linewidth=0
        )
    picture = axes.imshow(np.ma.masked_invalid(share), cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    hatched = "\n(hatched rows: not in the labels)" if (total == 0).any() else ""
    axes.set_xlabel(f"predicted class{hatched}")
    axes.set_ylabel("true class")
    if len(names) <= MOST_NUMBERED:
        for row, column in zip(*np.nonzero(np.nan_to_num(share) >= 0.5), strict=True):
            value = share[row, column]
            ink = "white" if value > 55 else "#222222"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=7)
    axes.set_title("Percent of each true class", fontsize=10)
    figure.colorbar(picture, ax=axes, fraction=0.035, pad=0.02)
    return png_of(figure)


def class_chart(board: Report) -> bytes:
    """The IoU of every class as bars, one for each way of predicting, best class first.

    Returns:
        The bytes of a PNG. Classes that are neither in the labels nor predicted are not in it, but counted.
    """
    ways = board.ways
    values = np.array([list(measures.scores.iou.values()) for measures in ways.values()]) * 100
    order = np.argsort(-np.nan_to_num(values[-1], nan=-1.0), kind="stable")
    order = order[np.isfinite(values).any(axis=0)[order]]
    absent = values.shape[1] - len(order)
    figure = new_figure(8.0, 1.4 + (0.14 + 0.16 * len(ways)) * len(order))
    axes = figure.add_subplot()
    thick = 0.8 / len(ways)
    for place, (way, measures) in enumerate(ways.items()):
        heights = np.arange(len(order)) + (place - (len(ways) - 1) / 2) * thick
        label = f"{way}: mean {100 * measures.scores.mean_iou:.1f}"
        axes.barh(
            heights,
            np.nan_to_num(values[place][order]),
            thick,
            color=COLOURS[place % len(COLOURS)],
            label=label,
        )
        for height, value in zip(heights, values[place][order], strict=True):
            text = "n/a" if np.isnan(value) else f"{value:.1f}"
            axes.text(np.nan_to_num(value) + 0.8, height, text, va="center", fontsize=7, color="#444444")
    axes.set_yticks(range(len(order)), [board.class_names[place] for place in order])
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0, 108)
    left_out = (
        f"; {absent} classes that are neither in the labels nor predicted are left out" if absent else ""
    )
    axes.set_xlabel(f"IoU, percent{left_out}")
    _legend(axes, "lower right")
    _tidy(axes, grid="x")
    return png_of(figure)


def band_chart(board: Report) -> bytes | None:
    """Mean IoU and pixel accuracy against the width of the boundary band, as in the paper's Figure 5.

    Returns:
        The bytes of a PNG; None if no band of two widths or more has a pixel.
    """
    first = next(iter(board.ways.values())).scores
    widths = [width for width, matrix in sorted(first.bands.items()) if matrix.any()]
    if len(widths) < 2:
        return None
    figure = new_figure(9.0, 3.8)
    for place, (title, measure) in enumerate(
        (("Mean IoU", "mean_iou"), ("Pixel accuracy", "pixel_accuracy"))
    ):
        axes = figure.add_subplot(1, 2, place + 1)
        for number, (way, measures) in enumerate(board.ways.items()):
            values = [100 * getattr(measures.scores.boundary(width), measure) for width in widths]
            colour = COLOURS[number % len(COLOURS)]
            whole = 100 * getattr(measures.scores, measure)
            axes.plot(widths, values, marker="o", markersize=3.5, color=colour, label=way)
            axes.axhline(whole, color=colour, linewidth=0.8, linestyle=":")
        axes.set_title(f"{title}, percent (dotted: whole photos)", fontsize=10)
        axes.set_xlabel("pixels from the void border, at most")
        axes.set_xlim(0, widths[-1] * 1.03)
        _legend(axes, "lower right")
        _tidy(axes, grid="both")
    return png_of(figure)


def reliability_chart(board: Report) -> bytes | None:
    """Accuracy against confidence for each way of predicting, and below it how many pixels have which
    confidence.

    Returns:
        The bytes of a PNG; None if no way has probabilities.
    """
    ways = {
        way: measures.reliability for way, measures in board.ways.items() if measures.reliability is not None
    }
    if not ways:
        return None
    figure = new_figure(4.4 * len(ways), 5.2)
    grid = figure.add_gridspec(2, len(ways), height_ratios=(3, 1))
    for place, (way, found) in enumerate(ways.items()):
        count = len(found.pixels)
        left = np.arange(count) / count
        axes, below = figure.add_subplot(grid[0, place]), figure.add_subplot(grid[1, place])
        there = found.pixels > 0
        colour, accuracy = COLOURS[place % len(COLOURS)], np.nan_to_num(found.accuracy)
        axes.bar(left, accuracy, 1 / count, align="edge", color=colour, edgecolor="white", label="accuracy")
        gap = np.where(there, np.nan_to_num(found.confidence) - accuracy, 0)
        axes.bar(
            left,
            gap,
            1 / count,
            accuracy,
            align="edge",
            facecolor="none",
            edgecolor="#aa3377",
            hatch="////",
            linewidth=0.6,
            label="confidence less accuracy",
        )
        axes.plot([0, 1], [0, 1], color="#444444", linestyle="--", linewidth=1, label="honest")
        tilt = "over" if found.bias > 0 else "under"
        title = f"{way}\nerror {100 * found.error:.1f} %, {abs(100 * found.bias):.1f} points {tilt}confident"
        axes.set_title(title if there.any() else way, fontsize=10)
        axes.set_ylabel("share that is right")
        axes.set_ylim(0, 1)
        _legend(axes, "upper left")
        below.bar(
            left, 100 * found.pixels / max(1, found.pixels.sum()), 1 / count, align="edge", color="#888888"
        )
        below.set_ylim(0, 100)
        below.set_ylabel("% of pixels")
        below.set_xlabel("confidence (probability of the chosen class)")
        for part in (axes, below):
            part.set_xlim(0, 1)
            _tidy(part, grid="y")
    return png_of(figure)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches; ModuleNotFoundError if matplotlib is not installed."""
    require("matplotlib", "a chart")
    from matplotlib.figure import Figure  # needs no window, unlike pyplot

    return Figure(figsize=(width, height), layout="constrained")


def _tidy(axes: Any, *, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _legend(axes: Any, place: str) -> None:
    axes.legend(loc=place, fontsize=8, frameon=True, framealpha=0.9, edgecolor="none")


def png_of(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
