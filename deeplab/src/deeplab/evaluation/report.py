"""The evaluation report: a folder with a page, tables, charts, and the worst photos."""

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
from deeplab.evaluation.benchmark import ExamplePhoto, MethodScores, Report
from deeplab.evaluation.charts import band_chart, class_chart, confusion_chart, reliability_chart
from deeplab.evaluation.report_html import GalleryPicture, render_page
from deeplab.files import write_whole
from deeplab.optional import require
from deeplab.tables import comma_separated

JPEG_QUALITY = 88
"""Quality of the gallery's pictures."""


def write_report(folder: str | Path, report: Report) -> Path:
    """Write index.html, scores.json, classes.csv, confusion.csv, photos.csv and pictures into a folder.

    Every file is written whole, the page last.

    Args:
        folder: made if it does not exist; files of an earlier report are replaced.
        report: the scores; its ``worst`` photos make the gallery.

    Returns:
        The path of index.html. It needs no network, and the folder can be moved.

    Raises:
        ModuleNotFoundError: without matplotlib; the message says how to install it.
        OSError: if something cannot be written.
    """
    require("matplotlib", "a report")
    folder = Path(folder)
    tables = _tables(report)
    charts = _charts(report)
    gallery = []
    for number, example in enumerate(report.worst, 1):
        name = f"worst/{number:02d}.jpg"
        write_whole(folder / name, _comparison(example))
        gallery.append(GalleryPicture(name, example.score, _ids(example)))
    for name, content in tables.items():
        write_whole(folder / name, content)
    for name, (_, picture) in charts.items():
        write_whole(folder / name, picture)
    index = folder / "index.html"
    titles = {name: title for name, (title, _) in charts.items()}
    write_whole(index, render_page(report, titles, gallery, list(tables)))
    return index


def _tables(report: Report) -> dict[str, bytes | str]:
    """The content of the files of numbers, by name."""
    numbers = score_tables.figures(report) | {"reliability": _reliability(report.methods)}
    return {
        "scores.json": json.dumps(numbers, indent=2, ensure_ascii=False) + "\n",
        "classes.csv": comma_separated(score_tables.classes(report)),
        "confusion.csv": comma_separated(score_tables.confusion(report)),
        "photos.csv": comma_separated(score_tables.photos(report)),
    }


def _charts(report: Report) -> dict[str, tuple[str, bytes]]:
    """The title and the picture of each chart that has something to show, by file name."""
    charts = {
        "class-iou.png": ("IoU of every class", class_chart(report)),
        "trimap.png": ("Scores near boundaries", band_chart(report)),
        "reliability.png": ("Calibration", reliability_chart(report)),
    }
    for method, measured in report.methods.items():
        name = "confusion-" + method.replace(" + ", "-").lower()
        charts[f"{name}.png"] = (f"Confusion matrix: {method}", confusion_chart(measured.scores))
    return {name: (title, picture) for name, (title, picture) in charts.items() if picture is not None}


def _comparison(example: ExamplePhoto) -> bytes:
    """Photo, labels and predictions side by side, as the bytes of a JPEG."""
    photo = example.sample.read_photo()
    maps = {"labels": example.sample.read_labels(), **example.labels}
    sheet = side_by_side({"photo": photo, **{title: overlay(photo, ids) for title, ids in maps.items()}})
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _ids(example: ExamplePhoto) -> tuple[int, ...]:
    """The ids in the labels or any prediction of a photo, sorted."""
    maps = [example.sample.read_labels(), *example.labels.values()]
    return tuple(sorted({int(number) for ids in maps for number in np.unique(ids)}))


def _reliability(methods: Mapping[str, MethodScores]) -> dict[str, list[dict[str, Any]]]:
    """The reliability bins by method; confidence and accuracy as shares, null in an empty bin."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for method, measured in methods.items():
        bins = measured.reliability
        if bins is None:
            continue
        columns = zip(bins.pixels.tolist(), bins.confidence.tolist(), bins.accuracy.tolist(), strict=True)
        rows[method] = [
            {
                "up to": round(number / len(bins.pixels), 4),
                "pixels": pixels,
                "confidence": round(confidence, 4) if math.isfinite(confidence) else None,
                "accuracy": round(accuracy, 4) if math.isfinite(accuracy) else None,
            }
            for number, (pixels, confidence, accuracy) in enumerate(columns, 1)
        ]
    return rows
