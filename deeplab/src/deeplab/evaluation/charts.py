"""Charts of scores: confusion matrix, classes, boundary bands and calibration, drawn with matplotlib."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from deeplab.evaluation.benchmark import Report
from deeplab.evaluation.calibration import Reliability
from deeplab.evaluation.scoring import Scores
from deeplab.optional import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

COLOURS = ("#0072B2", "#D55E00", "#009E73")
"""Colours of the methods, also distinct for colour-blind readers."""
MAX_NUMBERED = 25
"""Confusion matrices of more classes have no numbers in their cells."""
DPI = 110


def confusion_chart(scores: Scores) -> bytes:
    """Draw the confusion matrix as a heat map, a row for each true class, in percent of that class's pixels.

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
    for row in np.flatnonzero(total[:, 0] == 0):
        axes.axhspan(row - 0.5, row + 0.5, fc="#f2f2f2", ec="#c8c8c8", hatch="////", linewidth=0)
    picture = axes.imshow(np.ma.masked_invalid(share), cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    hatched = "\n(hatched rows: not in the labels)" if (total == 0).any() else ""
    axes.set_xlabel(f"predicted class{hatched}")
    axes.set_ylabel("true class")
    if len(names) <= MAX_NUMBERED:
        for row, column in zip(*np.nonzero(np.nan_to_num(share) >= 0.5), strict=True):
            value = share[row, column]
            colour = "white" if value > 55 else "#222222"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=7)
    axes.set_title("Percent of each true class", fontsize=10)
    figure.colorbar(picture, ax=axes, fraction=0.035, pad=0.02)
    return png_of(figure)


def class_chart(report: Report) -> bytes:
    """Draw the IoU of every class as bars, one for each method, best class first.

    Returns:
        The bytes of a PNG. Classes that are neither in the labels nor predicted are left out and counted.
    """
    methods = report.methods
    values = np.array([list(measured.scores.iou.values()) for measured in methods.values()]) * 100
    order = np.argsort(-np.nan_to_num(values[-1], nan=-1.0), kind="stable")
    order = order[np.isfinite(values).any(axis=0)[order]]
    absent = values.shape[1] - len(order)
    figure = new_figure(8.0, 1.4 + (0.14 + 0.16 * len(methods)) * len(order))
    axes = figure.add_subplot()
    thickness = 0.8 / len(methods)
    for index, (method, measured) in enumerate(methods.items()):
        heights = np.arange(len(order)) + (index - (len(methods) - 1) / 2) * thickness
        label = f"{method}: mean {100 * measured.scores.mean_iou:.1f}"
        colour = COLOURS[index % len(COLOURS)]
        axes.barh(heights, np.nan_to_num(values[index][order]), thickness, color=colour, label=label)
        for height, value in zip(heights, values[index][order], strict=True):
            text = "n/a" if np.isnan(value) else f"{value:.1f}"
            axes.text(np.nan_to_num(value) + 0.8, height, text, va="center", fontsize=7, color="#444444")
    axes.set_yticks(range(len(order)), [report.class_names[number] for number in order])
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0, 108)
    left_out = f"; {absent} classes neither in the labels nor predicted are left out" if absent else ""
    axes.set_xlabel(f"IoU, percent{left_out}")
    _add_legend(axes, "lower right")
    _tidy(axes, grid="x")
    return png_of(figure)


def band_chart(report: Report) -> bytes | None:
    """Draw mean IoU and pixel accuracy against the width of the boundary band, as in the paper's Figure 5.

    Returns:
        The bytes of a PNG; None if fewer than two bands have a pixel.
    """
    first = next(iter(report.methods.values())).scores
    widths = [width for width, matrix in sorted(first.bands.items()) if matrix.any()]
    if len(widths) < 2:
        return None
    figure = new_figure(9.0, 3.8)
    measures = {"Mean IoU": "mean_iou", "Pixel accuracy": "pixel_accuracy"}
    for position, (title, measure) in enumerate(measures.items(), 1):
        axes = figure.add_subplot(1, 2, position)
        for index, (method, measured) in enumerate(report.methods.items()):
            values = [100 * getattr(measured.scores.boundary(width), measure) for width in widths]
            colour = COLOURS[index % len(COLOURS)]
            whole = 100 * getattr(measured.scores, measure)
            axes.plot(widths, values, marker="o", markersize=3.5, color=colour, label=method)
            axes.axhline(whole, color=colour, linewidth=0.8, linestyle=":")
        axes.set_title(f"{title}, percent (dotted: whole photos)", fontsize=10)
        axes.set_xlabel("largest distance from the void border, pixels")
        axes.set_xlim(0, widths[-1] * 1.03)
        _add_legend(axes, "lower right")
        _tidy(axes, grid="both")
    return png_of(figure)


def reliability_chart(report: Report) -> bytes | None:
    """Draw accuracy against confidence for each method, and the distribution of the confidence below it.

    Returns:
        The bytes of a PNG; None if no method has probabilities.
    """
    methods = {
        method: measured.reliability
        for method, measured in report.methods.items()
        if measured.reliability is not None
    }
    if not methods:
        return None
    figure = new_figure(4.4 * len(methods), 5.2)
    grid = figure.add_gridspec(2, len(methods), height_ratios=(3, 1))
    for index, (method, bins) in enumerate(methods.items()):
        upper = figure.add_subplot(grid[0, index])
        lower = figure.add_subplot(grid[1, index])
        _draw_accuracy(upper, method, bins, COLOURS[index % len(COLOURS)])
        _draw_distribution(lower, bins)
        for axes in (upper, lower):
            axes.set_xlim(0, 1)
            _tidy(axes, grid="y")
    return png_of(figure)


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure.

    Args:
        width: width in inches.
        height: height in inches.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    require("matplotlib", "a chart")
    from matplotlib.figure import Figure  # needs no window, unlike pyplot

    return Figure(figsize=(width, height), layout="constrained")


def png_of(figure: Figure) -> bytes:
    """Save a figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _draw_accuracy(axes: Any, method: str, bins: Reliability, colour: str) -> None:
    """Accuracy by confidence as bars, with the gap to the diagonal of a perfectly calibrated method."""
    count = len(bins.pixels)
    left = np.arange(count) / count
    filled = bins.pixels > 0
    accuracy = np.nan_to_num(bins.accuracy)
    axes.bar(left, accuracy, 1 / count, align="edge", color=colour, edgecolor="white", label="accuracy")
    gap = np.where(filled, np.nan_to_num(bins.confidence) - accuracy, 0)
    style = {"facecolor": "none", "edgecolor": "#aa3377", "hatch": "////", "linewidth": 0.6}
    axes.bar(left, gap, 1 / count, accuracy, align="edge", label="confidence − accuracy", **style)
    axes.plot([0, 1], [0, 1], color="#444444", linestyle="--", linewidth=1, label="perfect calibration")
    direction = "over" if bins.bias > 0 else "under"
    bias = f"{abs(100 * bins.bias):.1f} points {direction}confident"
    title = f"{method}\nerror {100 * bins.error:.1f} %, {bias}"
    axes.set_title(title if filled.any() else method, fontsize=10)
    axes.set_ylabel("share of correct pixels")
    axes.set_ylim(0, 1)
    _add_legend(axes, "upper left")


def _draw_distribution(axes: Any, bins: Reliability) -> None:
    """Share of the pixels in each bin of confidence."""
    count = len(bins.pixels)
    share = 100 * bins.pixels / max(1, bins.pixels.sum())
    axes.bar(np.arange(count) / count, share, 1 / count, align="edge", color="#888888")
    axes.set_ylim(0, 100)
    axes.set_ylabel("% of pixels")
    axes.set_xlabel("confidence (probability of the predicted class)")


def _tidy(axes: Any, *, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _add_legend(axes: Any, location: str) -> None:
    axes.legend(loc=location, fontsize=8, frameon=True, framealpha=0.9, edgecolor="none")
