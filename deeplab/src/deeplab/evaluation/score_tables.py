"""Scores as tables for people: terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich.console import Group

from deeplab.evaluation.benchmark import MethodScores, Report
from deeplab.tables import NO_VALUE, Rows, markdown_table, terminal_table

MAX_WIDTHS = 5
"""How many widths of boundary bands a short table shows."""
MAX_PHOTOS = 5
"""How many of the worst photos the terminal shows."""


def figures(report: Report) -> dict[str, Any]:
    """Convert scores for JSON: percent with two decimals, null where there is nothing to score."""
    rows = {}
    for method, measured in report.methods.items():
        scores = measured.scores
        rows[method] = {
            "summary": _without_nan(scores.summary()),
            "further": _without_nan(_further(measured)),
            "iou": {name: _percent(value) for name, value in scores.iou.items()},
            "recall": {name: _percent(value) for name, value in scores.recall.items()},
        }
        if scores.boundary_overlap is not None:
            iou = scores.boundary_iou.items()
            rows[method]["boundary iou"] = {name: _percent(value) for name, value in iou}
    return {"scores": rows, **report.about}


def headline(report: Report, *, short: bool = False) -> Rows:
    """Make the table of headline figures in percent, a column for each method, boundary bands last.

    Args:
        report: the scores.
        short: whether to show only some of many boundary bands, evenly spread.
    """
    methods = figures(report)["scores"]
    widths = _spread(_widths(report)) if short else _widths(report)
    shown = tuple(f", {width} px" for width in widths)
    whole: Rows = []
    bands: Rows = []
    for group in ("summary", "further"):
        for name in next(iter(methods.values()))[group]:
            row = [name, *(_text(values[group][name]) for values in methods.values())]
            if not name.endswith(" px"):
                whole.append(row)
            elif name.endswith(shown):
                bands.append(row)
    return [["", *methods], *whole, *bands]


def classes(report: Report) -> Rows:
    """Make the table of classes: share of the labels, IoU, recall and, if measured, boundary IoU."""
    methods = figures(report)["scores"]
    confusion = next(iter(report.methods.values())).scores.confusion
    share = confusion.sum(1) / max(1, confusion.sum())
    measures = {"iou": "IoU", "recall": "recall", "boundary iou": "boundary IoU"}
    measures = {key: label for key, label in measures.items() if key in next(iter(methods.values()))}
    heads = [f"{label} %, {method}" for label in measures.values() for method in methods]
    rows = [["class", "share of labels %", *heads]]
    for number, name in enumerate(report.class_names):
        values = [methods[method][group][name] for group in measures for method in methods]
        rows.append([name, _text(_percent(share[number])), *map(_text, values)])
    return rows


def photos(report: Report, *, worst: int | None = None) -> Rows:
    """Make the table of photos: mean IoU and pixel accuracy by method, in percent.

    Args:
        report: the scores.
        worst: number of photos, those with the lowest mean IoU of the last method first; by default all in
            the order of the data set.
    """
    methods = list(report.methods)
    chosen = list(report.photos)
    if worst is not None:
        chosen = [photo for photo in chosen if math.isfinite(photo.mean_iou[methods[-1]])]
        chosen = sorted(chosen, key=lambda photo: photo.mean_iou[methods[-1]])[:worst]
    heads = [f"{label} %, {method}" for label in ("mean IoU", "pixel accuracy") for method in methods]
    rows = [["photo", *heads]]
    for photo in chosen:
        values = [measure[method] for measure in (photo.mean_iou, photo.pixel_accuracy) for method in methods]
        rows.append([photo.name, *(_text(_percent(value)) for value in values)])
    return rows


def confusion(report: Report) -> Rows:
    """Make the table of pixels by method, true class (rows) and predicted class (columns)."""
    rows = [["way", "true class", *report.class_names]]
    for method, measured in report.methods.items():
        for name, line in zip(report.class_names, measured.scores.confusion.tolist(), strict=True):
            rows.append([method, name, *map(str, line)])
    return rows


def terminal(report: Report) -> Group:
    """Make the terminal's tables: headline figures with some of many bands, classes and worst photos."""
    tables = [terminal_table(headline(report, short=True)), terminal_table(classes(report))]
    if len(report.photos) > 1:
        tables.append(terminal_table(photos(report, worst=MAX_PHOTOS), "the worst photos"))
    return Group(*tables)


def markdown(report: Report) -> str:
    """Make Markdown of the headline figures and the classes, under a line on what was measured."""
    about = report.about
    head = f"{about['photos']} photos of `{about.get('split', 'a data set')}`, percent. CRF: {about['crf']}."
    return "\n\n".join([head, *(markdown_table(rows) for rows in (headline(report), classes(report)))]) + "\n"


def _further(measured: MethodScores) -> dict[str, float]:
    """The headline figures beside ``Scores.summary``."""
    scores = measured.scores
    name = f"mIoU-{len(scores.class_names)}, absent classes counted as zero"
    rows: dict[str, float] = {
        name: scores.mean_iou_with("counted as zero"),
        "class recall": scores.mean_recall,
        "frequency-weighted IoU": scores.frequency_weighted_iou,
    }
    if scores.boundary_f1_by_photo is not None:
        rows["boundary F1"] = scores.boundary_f1
    if scores.boundary_overlap is not None:
        rows["mean boundary IoU"] = scores.mean_boundary_iou
    if scores.boundary_accuracy_by_photo is not None:
        rows["mean boundary accuracy (mBA)"] = scores.mean_boundary_accuracy
    if measured.reliability is not None:
        rows["expected calibration error"] = measured.reliability.error
    rows = {name: round(100 * value, 2) for name, value in rows.items()}
    return rows | {"classes in the mean": scores.classes_scored}


def _widths(report: Report) -> list[int]:
    return sorted(next(iter(report.methods.values())).scores.bands)


def _spread(widths: list[int]) -> list[int]:
    """At most ``MAX_WIDTHS`` of the widths, evenly spread."""
    if len(widths) <= MAX_WIDTHS:
        return widths
    return [widths[index] for index in np.linspace(0, len(widths) - 1, MAX_WIDTHS).round().astype(int)]


def _percent(value: float) -> float | None:
    return round(100 * float(value), 2) if math.isfinite(value) else None


def _without_nan(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _text(value: float | None) -> str:
    if value is None:
        return NO_VALUE
    return str(value) if isinstance(value, int) else f"{value:.2f}"
