"""Scores as rows for people: terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich.console import Group

from deeplab.evaluation.benchmark import Measures, Report
from deeplab.tables import NO_VALUE, Rows, markdown_table, terminal_table

MOST_WIDTHS = 5  # of the boundary bands, that a short table shows
MOST_PHOTOS = 5  # of the worst ones, that the terminal shows


def figures(board: Report) -> dict[str, Any]:
    """The scores as JSON can hold them: percent with two decimals, null where there is nothing to score."""
    rows = {}
    for way, measures in board.ways.items():
        scores = measures.scores
        rows[way] = {
            "summary": _without_nan(scores.summary()),
            "further": _without_nan(_further(measures)),
            "iou": {name: _percent(value) for name, value in scores.iou.items()},
            "recall": {name: _percent(value) for name, value in scores.recall.items()},
        }
    return {"scores": rows, **board.about}


def headline(board: Report, *, short: bool = False) -> Rows:
    """The headline figures, a column for each way of predicting; percent. Those of the boundary bands come
    last.

    Args:
        board: the scores.
        short: of many boundary bands show only some, evenly spread.
    """
    ways = figures(board)["scores"]
    whole, near = [], []
    shown = tuple(f", {width} px" for width in (_spread(_widths(board)) if short else _widths(board)))
    for group in ("summary", "further"):
        for name in next(iter(ways.values()))[group]:
            row = [name, *(_text(way[group][name]) for way in ways.values())]
            if not name.endswith(" px"):
                whole.append(row)
            elif name.endswith(shown):
                near.append(row)
    return [["", *ways], *whole, *near]


def classes(board: Report) -> Rows:
    """IoU and recall of every class by way of predicting, with its share of the labelled pixels; percent."""
    ways = figures(board)["scores"]
    confusion = next(iter(board.ways.values())).scores.confusion
    share = confusion.sum(1) / max(1, confusion.sum())
    measures = [(label, group) for group, label in (("iou", "IoU"), ("recall", "recall"))]
    rows = [["class", "share of labels %", *(f"{label} %, {way}" for label, _ in measures for way in ways)]]
    for place, name in enumerate(board.class_names):
        values = [ways[way][group][name] for _, group in measures for way in ways]
        rows.append([name, _text(_percent(share[place])), *map(_text, values)])
    return rows


def photos(board: Report, *, worst: int | None = None) -> Rows:
    """Mean IoU and pixel accuracy of every photo by way of predicting; percent.

    Args:
        board: the scores.
        worst: only so many, those with the lowest mean IoU in the last way first; by default all, as in the
            data set.
    """
    ways = list(board.ways)
    chosen = list(board.photos)
    if worst is not None:
        chosen = [photo for photo in chosen if math.isfinite(photo.mean_iou[ways[-1]])]
        chosen = sorted(chosen, key=lambda photo: photo.mean_iou[ways[-1]])[:worst]
    rows = [["photo", *(f"mean IoU %, {way}" for way in ways), *(f"pixel accuracy %, {way}" for way in ways)]]
    for photo in chosen:
        values = [measure[way] for measure in (photo.mean_iou, photo.pixel_accuracy) for way in ways]
        rows.append([photo.name, *(_text(_percent(value)) for value in values)])
    return rows


def confusion(board: Report) -> Rows:
    """Pixels by way of predicting, true class (rows) and predicted class (columns)."""
    rows = [["way", "true class", *board.class_names]]
    for way, measures in board.ways.items():
        for name, line in zip(board.class_names, measures.scores.confusion.tolist(), strict=True):
            rows.append([way, name, *map(str, line)])
    return rows


def terminal(board: Report) -> Group:
    """The headline figures, the classes and the worst photos; of many boundary bands only some."""
    tables = [terminal_table(headline(board, short=True)), terminal_table(classes(board))]
    if len(board.photos) > 1:
        tables.append(terminal_table(photos(board, worst=MOST_PHOTOS), "the worst photos"))
    return Group(*tables)


def markdown(board: Report) -> str:
    """The headline figures and the classes as Markdown, with what was measured above them."""
    about = board.about
    head = f"{about['photos']} photos of `{about.get('split', 'a data set')}`, percent. CRF: {about['crf']}."
    return "\n\n".join([head, *(markdown_table(rows) for rows in (headline(board), classes(board)))]) + "\n"


def _further(measures: Measures) -> dict[str, float]:
    scores = measures.scores
    rows: dict[str, float] = {
        f"mIoU-{len(scores.class_names)}, absent classes counted as zero": scores.mean_iou_with(
            "counted as zero"
        ),
        "class recall": scores.mean_recall,
        "frequency-weighted IoU": scores.frequency_weighted_iou,
    }
    if scores.contours is not None:
        rows["boundary F1"] = scores.boundary_f1
    if measures.reliability is not None:
        rows["expected calibration error"] = measures.reliability.error
    rows = {name: round(100 * value, 2) for name, value in rows.items()}
    return rows | {"classes in the mean": scores.classes_scored}


def _widths(board: Report) -> list[int]:
    return sorted(next(iter(board.ways.values())).scores.bands)


def _spread(widths: list[int]) -> list[int]:
    if len(widths) <= MOST_WIDTHS:
        return widths
    return [widths[place] for place in np.linspace(0, len(widths) - 1, MOST_WIDTHS).round().astype(int)]


def _percent(value: float) -> float | None:
    return round(100 * float(value), 2) if math.isfinite(value) else None


def _without_nan(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _text(value: float | None) -> str:
    return NO_VALUE if value is None else str(value) if isinstance(value, int) else f"{value:.2f}"
