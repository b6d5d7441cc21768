"""The table of scores without and with the CRF, from one pass of the network over a set of photos."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from rich.table import Table

import densecrf
from deeplab.datasets import Pair
from deeplab.evaluation import Scorer
from deeplab.segment import Model


def score(model: Model, pairs: Iterable[Pair], *, crf: bool, boundary: Sequence[int], **looks: Any) -> dict[str, Any]:
    """Score a model on pairs of photos and labels; the network runs once a photo.

    Args:
        model: whose predictions are scored.
        pairs: photos with labels.
        crf: score with the CRF, too.
        boundary: widths in pixels of the bands scored besides.
        looks: ``Model.segment``'s scales, mirror and tile.

    Returns:
        "scores": for each way of predicting its headline figures and the IoU of every class, in percent; and with
        what they were measured.

    Raises:
        ValueError: if labels and photo do not fit; names the photo.
    """
    scorers = {way: Scorer(model.class_names, boundary) for way in ("network", "network + CRF")[: 1 + crf]}
    seconds: dict[str, list[float]] = {}
    for pair in pairs:
        truth = pair.read_labels()
        result = model.segment(pair.photo, crf=False, **looks)
        for scorer in scorers.values():
            if scorer is scorers.get("network + CRF"):
                result = model.refine(result)
            try:
                scorer.add(truth, result.labels)
            except ValueError as error:
                raise ValueError(f"{pair.name}: {error}") from None
        for step, spent in result.seconds.items():
            seconds.setdefault(step, []).append(spent)
    rows = {}
    for way, scorer in scorers.items():
        scores = scorer.scores()
        iou = {name: None if np.isnan(value) else round(100 * value, 2) for name, value in scores.iou.items()}
        rows[way] = {"summary": scores.summary(), "iou": iou}
    return {
        "scores": rows,
        "crf": asdict(model.crf_params) | {"iterations": 10} if crf else None,
        "median seconds a photo": {step: round(float(np.median(spent)), 3) for step, spent in seconds.items()},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "densecrf": densecrf.__version__, "python": platform.python_version()},
    }


def table(board: dict[str, Any]) -> Table:
    """The scores for the terminal: headline figures first, then the classes; percent."""
    made = Table(*_lines(board)[0], box=None)
    for column in made.columns[1:]:
        column.justify = "right"
    for line in _lines(board)[1:]:
        made.add_row(*line)
    return made


def markdown(board: dict[str, Any]) -> str:
    """The same table as Markdown, with what was measured above it."""
    head, *lines = _lines(board)
    rows = ["| " + " | ".join(line) + " |" for line in (head, ["---", *["---:"] * (len(head) - 1)], *lines)]
    about = f"{board['photos']} photos of `{board['split']}`, percent. CRF: {board['crf']}."
    return "\n".join([about, "", *rows]) + "\n"


def _lines(board: dict[str, Any]) -> list[list[str]]:
    ways = board["scores"]
    lines = [["", *ways]]
    for group in ("summary", "iou"):
        names = next(iter(ways.values()))[group]
        for name in names:
            values = [way[group][name] for way in ways.values()]
            lines.append([name, *("n/a" if value is None else f"{value:.2f}" for value in values)])
    return lines
