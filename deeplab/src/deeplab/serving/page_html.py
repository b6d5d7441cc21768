"""Pieces of the page: its legend, links, notes, and the parameters as Python."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import fields

from deeplab.classes import palette
from deeplab.serving.result_cache import CRF, NETWORK, PageResult
from densecrf import Params

CSS = """
.gradio-container { max-width: 1280px !important; margin: auto; overflow: clip !important; } /* clip: lets it stick */
#legend table, #batch-legend table { border-collapse: collapse; width: 100%; margin: 0; border: 0; }
#legend tr, #legend thead, #batch-legend tr, #batch-legend thead { border: 0; }
#legend th, #legend td, #batch-legend th, #batch-legend td { text-align: right; padding: .25rem .4rem; border: 0;
  border-bottom: 1px solid var(--border-color-primary); }
.legend th:first-child, .legend td:first-child { text-align: left !important; white-space: nowrap; }
.legend i { display: inline-block; width: 1em; height: 1em; margin-right: .5em; vertical-align: -.12em;
  border: 1px solid var(--body-text-color); }
.files a { display: inline-block; margin: .2rem .4rem .2rem 0; padding: .45rem .8rem; border-radius: .4rem;
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color) !important;
  border: 1px solid var(--border-color-primary); text-decoration: none !important; }
.files a:focus-visible, .files a:hover { outline: 2px solid var(--color-accent); }
.note { min-height: 1.6em; margin: 0 !important; }
#one { display: grid; grid-template: auto 1fr / 2fr 3fr; }
#one > .column { min-width: 0 !important; }
#tried { grid-area: 1 / 2 / 3 / 3; }
#compare { position: sticky; top: 0; z-index: 5; background: var(--body-background-fill); }
@media (max-width: 800px) {
  .gradio-container { padding: .5rem !important; }
  #one { grid-template: none / minmax(0, 1fr); }
  #tried { grid-area: auto; }
}
"""
FILES = {
    "ids.png": "class ids, PNG",
    "overlay.png": "overlay, PNG",
    "probabilities.npz": "probabilities, npz",
    "params.json": "parameters, JSON",
}


def legend(shares: Mapping[str, Mapping[str, float]], class_names: tuple[str, ...]) -> str:
    """A table of the classes in the picture with their colours and their share of the pixels, largest first.

    Args:
        shares: title of a column to the share of each class, 0–1; the last column orders the rows. Classes
            that have less than 0.05 % everywhere are left out.
        class_names: K names, id order; their place gives the colour.
    """
    *_, last = shares.values()
    names = [name for name in class_names if any(column.get(name, 0) >= 0.0005 for column in shares.values())]
    names.sort(key=lambda name: -last.get(name, 0))
    head = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in ("class", *shares))
    colours = palette()
    rows = []
    for name in names:
        red, green, blue = colours[class_names.index(name)]
        swatch = f'<i style="background: rgb({red} {green} {blue})"></i>'
        cells = "".join(f"<td>{100 * column.get(name, 0):.1f} %</td>" for column in shares.values())
        rows.append(f"<tr><td>{swatch}{html.escape(name)}</td>{cells}</tr>")
    return f'<table class="legend"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def legend_of(kept: PageResult) -> str:
    """The legend of a photo, without and with the CRF."""
    return legend({NETWORK: kept.plain.shares(), CRF: kept.refined.shares()}, kept.plain.class_names)


def links(name: str, files: Mapping[str, str]) -> str:
    """Links that save the files of what is kept under a name; ``files`` from name to title."""
    found = (
        f'<a href="../kept/{name}/{file}" download="{file}">{title}</a>' for file, title in files.items()
    )
    return f'<p class="files">{" ".join(found)}</p>'


def note(text: str) -> str:
    """A line of text that is read aloud where a program for that runs."""
    return f'<p class="note" aria-live="polite">{html.escape(text)}</p>'


def times(kept: PageResult, shrunk_from: tuple[int, int] | None = None) -> str:
    """How large the photo is and how long it took; ``shrunk_from`` is the height and width that it had."""
    height, width = kept.plain.labels.shape
    size = f"{width}×{height}"
    if shrunk_from is not None:
        size = f"shrunk from {shrunk_from[1]}×{shrunk_from[0]} to {size}"
    seconds = kept.refined.seconds
    return f"{size} · network {1000 * seconds['network']:.0f} ms · CRF {1000 * seconds['CRF']:.0f} ms"


def code(params: Params, iterations: int) -> str:
    """The parameters as Python, those that are not the default ones."""
    default = Params()
    changed = [
        f"{field.name}={getattr(params, field.name)!r}"
        for field in fields(Params)
        if getattr(params, field.name) != getattr(default, field.name)
    ]
    steps = f", iterations={iterations}" if iterations != 10 else ""
    return f"params = densecrf.Params({', '.join(changed)})\nresult = model.segment(photo, crf=params{steps})"
