"""Scores as a folder to look at: a page, tables, charts, and the worst photos."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.drawing import overlay, side_by_side
from deeplab.evaluation import score_tables
from deeplab.evaluation.benchmark import ExamplePhoto, Measures, Report
from deeplab.evaluation.charts import band_chart, class_chart, confusion_chart, reliability_chart
from deeplab.evaluation.report_html import GalleryPicture, page
from deeplab.files import write_whole
from deeplab.optional import require
from deeplab.tables import comma_separated

QUALITY = 88  # of the gallery's JPEG files


def write_report(folder: str | Path, board: Report) -> Path:
    """Write index.html, scores.json, classes.csv, confusion.csv, photos.csv and pictures, each whole, the
    page last.

    Args:
        folder: made if it is not there; files of an earlier report are replaced.
        board: the scores; its ``worst`` photos make the gallery.

    Returns:
        The path of index.html. It needs no network, and the folder can be moved.

    Raises:
        ModuleNotFoundError: without matplotlib; says how to get it.
        OSError: if something cannot be written.
    """
    require("matplotlib", "a report")
    folder = Path(folder)
    numbers = score_tables.figures(board) | {"reliability": _reliability(board.ways)}
    files: dict[str, bytes | str] = {
        "scores.json": json.dumps(numbers, indent=2, ensure_ascii=False) + "\n",
        "classes.csv": comma_separated(score_tables.classes(board)),
        "confusion.csv": comma_separated(score_tables.confusion(board)),
        "photos.csv": comma_separated(score_tables.photos(board)),
    }
    charts = {
        "class-iou.png": ("IoU of every class", class_chart(board)),
        "trimap.png": ("Near boundaries", band_chart(board)),
        "reliability.png": ("Is the confidence honest?", reliability_chart(board)),
    }
    for way, measures in board.ways.items():
        name = "confusion-" + way.replace(" + ", "-").lower()
        charts[f"{name}.png"] = (f"What is taken for what: {way}", confusion_chart(measures.scores))
    drawn = {name: (title, picture) for name, (title, picture) in charts.items() if picture is not None}
    gallery = []
    for place, shown in enumerate(board.worst):
        name = f"worst/{place + 1:02d}.jpg"
        picture, classes = _sheet(shown)
        write_whole(folder / name, picture)
        gallery.append(GalleryPicture(name, shown.score, classes))
    for name, content in {**files, **{name: picture for name, (_, picture) in drawn.items()}}.items():
        write_whole(folder / name, content)
    index = folder / "index.html"
    write_whole(index, page(board, {name: title for name, (title, _) in drawn.items()}, gallery, list(files)))
    return index


def _sheet(shown: ExamplePhoto) -> tuple[bytes, tuple[int, ...]]:
    """Photo, labels and predictions side by side as a JPEG, and the ids that are seen in it."""
    photo, truth = shown.pair.read_photo(), shown.pair.read_labels()
    maps = {"labels": truth, **shown.labels}
    sheet = side_by_side({"photo": photo, **{title: overlay(photo, ids) for title, ids in maps.items()}})
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue(), tuple(sorted({int(place) for ids in maps.values() for place in np.unique(ids)}))


def _reliability(ways: Mapping[str, Measures]) -> dict[str, list[dict[str, Any]]]:
    """The reliability bins by way; confidence and accuracy as shares, null in an empty bin."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for way, measures in ways.items():
        if (found := measures.reliability) is None:
            continue
        columns = zip(found.pixels.tolist(), found.confidence.tolist(), found.accuracy.tolist(), strict=True)
        rows[way] = [
            {
                "up to": round((place + 1) / len(found.pixels), 4),
                "pixels": pixels,
                "confidence": round(confidence, 4) if math.isfinite(confidence) else None,
                "accuracy": round(accuracy, 4) if math.isfinite(accuracy) else None,
            }
            for place, (pixels, confidence, accuracy) in enumerate(columns)
        ]
    return rows
