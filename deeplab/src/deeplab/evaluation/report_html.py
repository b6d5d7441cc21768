"""The page of an evaluation report: plain HTML that needs no network, made from a template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from deeplab.classes import palette
from deeplab.evaluation import score_tables
from deeplab.evaluation.benchmark import PhotoScore, Report

MEANINGS = {
    "mIoU-K": "Mean over K classes of the intersection over union, from one confusion matrix over all photos "
    "at the size of their labels; void (255) does not count. Classes that are neither in the labels nor "
    "predicted are left out (n/a), unless the row says that they count as zero.",
    "class recall": "Share of a class's labelled pixels that are predicted correctly, averaged over the "
    "classes in the labels.",
    "frequency-weighted IoU": "IoU weighted with each class's share of the labelled pixels.",
    "…, 10 px": "The same figure within 10 pixels of the void border around objects (the trimap of the "
    "DeepLab paper). A class counts as soon as the band holds one pixel of it, so the curves of a small set "
    "have steps.",
    "boundary F1": "Harmonic mean of precision and recall of boundary points. A point is matched if the "
    "other boundary of its class is within 0.75 % of the image diagonal. Averaged over the classes of a "
    "photo, then over photos (SegNet).",
    "mean boundary IoU": "IoU of the pixels of a class within 2 % of the image diagonal of the class's own "
    "contour, in the labels and in the prediction, from counts over all photos, averaged over classes "
    "(Cheng et al. 2021).",
    "mean boundary accuracy (mBA)": "Share of correct pixels near the boundaries of the labels, averaged "
    "over five radii from 1 pixel to (H + W) / 300, then over photos (CascadePSP).",
    "expected calibration error": "Difference between confidence and accuracy in 15 bins, averaged over "
    "pixels.",
}
CONDITION_NAMES = {"crf": "CRF", "looks": "test-time augmentation"}
"""Names on the page for keys of ``Report.about``."""


@dataclass(frozen=True)
class GalleryPicture:
    """One picture of the gallery of worst photos."""

    file: str
    """Path of the picture, relative to the page."""
    score: PhotoScore
    ids: tuple[int, ...]
    """Class ids that the picture shows."""


def render_page(
    report: Report, charts: dict[str, str], gallery: Sequence[GalleryPicture], files: Sequence[str]
) -> str:
    """Render the page as HTML.

    Args:
        report: the scores.
        charts: titles of the charts by file, relative to the page.
        gallery: pictures of the worst photos, worst first.
        files: other files next to the page, for its links.
    """
    split = f" of {report.about['split']}" if "split" in report.about else ""
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=f"Evaluation: {report.about['photos']} photos{split}",
            files=files,
            headline=score_tables.headline(report, short=True),
            charts=charts,
            classes=score_tables.classes(report),
            last_method=list(report.methods)[-1],
            gallery=[_figure(picture, report.class_names) for picture in gallery],
            meanings=MEANINGS,
            conditions={CONDITION_NAMES.get(key, key): _plain(value) for key, value in report.about.items()},
        )
    )


@cache
def _environment() -> Environment:
    """The templates of this package; everything that is put into them is escaped."""
    return Environment(
        loader=PackageLoader("deeplab.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _figure(picture: GalleryPicture, class_names: Sequence[str]) -> dict[str, Any]:
    """File, name, scores and legend of a picture of the gallery."""
    scores = ", ".join(f"{method} {100 * value:.1f}" for method, value in picture.score.mean_iou.items())
    colours = palette()
    legend = [
        (
            f"rgb{tuple(colours[number].tolist())}",
            class_names[number] if number < len(class_names) else "void",
        )
        for number in picture.ids
        if number > 0  # the overlay does not colour id 0
    ]
    return {"file": picture.file, "name": picture.score.name, "scores": scores, "legend": legend}


def _plain(value: Any) -> str:
    """A value of ``Report.about`` as text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return "none" if value is None else str(value)
