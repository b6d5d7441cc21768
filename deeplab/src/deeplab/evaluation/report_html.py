"""The page of an evaluation report: plain HTML that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from deeplab.classes import palette
from deeplab.evaluation import score_tables
from deeplab.evaluation.benchmark import PhotoScore, Report
from deeplab.tables import Rows

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1e1e1e; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #eee; }
th { vertical-align: bottom; background: #f6f6f6; } th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0 2rem; }
figcaption, dt, dd { font-size: .9rem; } figcaption, dd { color: #555; }
.scroll { overflow-x: auto; }
.swatch { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .9em; border: 1px solid #888; }
"""

MEANINGS = {
    "mIoU-K": "mean over K classes of the pixels in common over the pixels in either, from one confusion matrix over "
    "all photos at the labels' own size; void (255) takes no part. Classes that are neither in the labels nor "
    "predicted are left out (n/a) unless the row says that they count as zero.",
    "class recall": "mean over the classes in the labels of the share of their pixels that is found.",
    "frequency-weighted IoU": "IoU weighted with each class's share of the labelled pixels.",
    "…, 10 px": "the same figure within 10 pixels of the void border around objects (the trimap of the DeepLab paper). "
    "A class counts as soon as the band holds one pixel of it, so curves of a small set have steps.",
    "boundary F1": "contour points that have a partner of their class within 0.75 % of the image diagonal: the "
    "harmonic mean of precision and recall; averaged over a photo's classes, then over photos (SegNet).",
    "expected calibration error": "how far confidence and accuracy are apart: 15 bins, averaged over pixels.",
}


@dataclass(frozen=True)
class GalleryPicture:
    """A photo of the gallery, as the page shows it."""

    file: str
    """Relative to the page."""
    score: PhotoScore
    classes: tuple[int, ...]
    """Ids that are seen in it."""


def page(
    board: Report, charts: dict[str, str], gallery: Sequence[GalleryPicture], files: Sequence[str]
) -> str:
    """The whole page.

    Args:
        board: the scores.
        charts: title by file, relative to the page.
        gallery: the worst photos, worst first.
        files: other files beside the page, to be linked.
    """
    where = f" of {board.about['split']}" if "split" in board.about else ""
    title = f"Evaluation: {board.about['photos']} photos{where}"
    links = ", ".join(f'<a href="{escape(file)}">{escape(file)}</a>' for file in files)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>Percent, unless said otherwise. All numbers: {links}.</p>",
        _table(score_tables.headline(board, short=True)),
        *(
            _section(title, f'<figure><img src="{file}" alt="{escape(title)}"></figure>')
            for file, title in charts.items()
        ),
        _section("Every class", _table(score_tables.classes(board))),
    ]
    if gallery:
        last = list(board.ways)[-1]
        pictures = "".join(_picture(shown, board.class_names) for shown in gallery)
        parts.append(_section(f"The worst photos by mean IoU, {last}", pictures))
    parts.append(_section("What the figures mean", _definitions(MEANINGS)))
    parts.append(
        _section(
            "How they were measured", _definitions({key: _plain(value) for key, value in board.about.items()})
        )
    )
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>{body}</body></html>\n'


def _section(title: str, content: str) -> str:
    return f"\n<h2>{escape(title)}</h2>\n{content}\n"


def _table(rows: Rows) -> str:
    head, *lines = ([escape(cell) for cell in row] for row in rows)
    body = "\n".join(f"<tr><td>{'</td><td>'.join(line)}</td></tr>" for line in lines)
    return f'<div class="scroll"><table><tr><th>{"</th><th>".join(head)}</th></tr>\n{body}</table></div>'


def _definitions(terms: dict[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(term)}</dt><dd>{escape(text)}</dd>' for term, text in terms.items())}</dl>"


def _picture(shown: GalleryPicture, class_names: Sequence[str]) -> str:
    scores = ", ".join(f"{way} {100 * value:.1f}" for way, value in shown.score.mean_iou.items())
    colours = palette()
    key = "".join(
        f'<span class="swatch" style="background: rgb{tuple(colours[place].tolist())}"></span>'
        f"{escape(class_names[place] if place < len(class_names) else 'void')}"
        for place in shown.classes
        if place > 0  # the overlay leaves id 0 as it is
    )
    caption = f"{escape(shown.score.name)}: mean IoU {escape(scores)}. {key}"
    return (
        f'<figure><a href="{shown.file}"><img src="{shown.file}" alt="{escape(shown.score.name)}" loading="lazy"></a>'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return "none" if value is None else str(value)
