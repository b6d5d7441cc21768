"""HTML of the page: legend, links, notes, style; and the parameters of the CRF as Python code."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import fields

from jinja2 import Environment

from deeplab.classes import palette
from deeplab.serving.result_cache import CRF, NETWORK, PageResult
from densecrf import Params

CSS = """
.gradio-container { max-width: 1280px !important; margin: auto;
  overflow: clip !important; } /* with "hidden" the sticky picture would not stick */
#legend table, #batch-legend table { border-collapse: collapse; width: 100%; margin: 0; border: 0; }
#legend tr, #legend thead, #batch-legend tr, #batch-legend thead { border: 0; }
#legend th, #legend td, #batch-legend th, #batch-legend td { text-align: right; padding: .25rem .4rem;
  border: 0; border-bottom: 1px solid var(--border-color-primary); }
.legend th:first-child, .legend td:first-child { text-align: left !important; white-space: nowrap; }
.legend i { display: inline-block; width: 1em; height: 1em; margin-right: .5em; vertical-align: -.12em;
  border: 1px solid var(--body-text-color); }
.files a { display: inline-block; margin: .2rem .4rem .2rem 0; padding: .45rem .8rem; border-radius: .4rem;
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color) !important;
  border: 1px solid var(--border-color-primary); text-decoration: none !important; }
.files a:focus-visible, .files a:hover { outline: 2px solid var(--color-accent); }
.note { min-height: 1.6em; margin: 0 !important; }
#photo-tab { display: grid; grid-template: auto 1fr / 2fr 3fr; }
#photo-tab > .column { min-width: 0 !important; }
#compare-column { grid-area: 1 / 2 / 3 / 3; }
#compare { position: sticky; top: 0; z-index: 5; background: var(--body-background-fill); }
@media (max-width: 800px) {
  .gradio-container { padding: .5rem !important; }
  #photo-tab { grid-template: none / minmax(0, 1fr); }
  #compare-column { grid-area: auto; }
}
"""
FILES = {
    "ids.png": "class ids, PNG",
    "overlay.png": "overlay, PNG",
    "probabilities.npz": "probabilities, npz",
    "params.json": "parameters, JSON",
}
MIN_SHARE = 0.0005  # classes with a smaller share are not in the legend
LEGEND = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<table class="legend">
<thead><tr><th scope="col">class</th>
{%- for title in shares %}<th scope="col">{{ title }}</th>{% endfor %}</tr></thead>
<tbody>
{% for name, (red, green, blue) in classes %}
<tr><td><i style="background: rgb({{ red }} {{ green }} {{ blue }})"></i>{{ name }}</td>
{%- for column in shares.values() %}<td>{{ "%.1f %%" % (100 * column.get(name, 0)) }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table>""")


def legend(shares: Mapping[str, Mapping[str, float]], class_names: tuple[str, ...]) -> str:
    """Make a table of the classes in the picture with their colours and shares, largest share first.

    Args:
        shares: for each column its title and the share of each class, 0–1. The last column orders the rows.
        class_names: K names in the order of their ids.

    Returns:
        HTML; classes with a share below ``MIN_SHARE`` in every column are left out.
    """
    *_, last = shares.values()
    names = [
        name for name in class_names if any(column.get(name, 0) >= MIN_SHARE for column in shares.values())
    ]
    names.sort(key=lambda name: -last.get(name, 0))
    colours = palette().tolist()
    return LEGEND.render(shares=shares, classes=[(name, colours[class_names.index(name)]) for name in names])


def result_legend(result: PageResult) -> str:
    """Make the legend of one photo, without and with the CRF."""
    return legend({NETWORK: result.plain.shares(), CRF: result.refined.shares()}, result.plain.class_names)


def links(name: str, files: Mapping[str, str]) -> str:
    """Make links that save the files of a result.

    Args:
        name: name of the result in the cache.
        files: title of the link for each file name.

    Returns:
        HTML.
    """
    anchors = (
        f'<a href="../results/{name}/{file}" download="{file}">{title}</a>' for file, title in files.items()
    )
    return f'<p class="files">{" ".join(anchors)}</p>'


def note(text: str) -> str:
    """Make a line of text that screen readers read aloud when it changes."""
    return f'<p class="note" aria-live="polite">{html.escape(text)}</p>'


def summary(result: PageResult, original_size: tuple[int, int] | None = None) -> str:
    """Describe the size of a photo and the time it took.

    Args:
        result: the labelled photo.
        original_size: height and width before shrinking, if the photo was shrunk.

    Returns:
        One line of text.
    """
    height, width = result.plain.labels.shape
    size = f"{width}×{height}"
    if original_size is not None:
        size = f"shrunk from {original_size[1]}×{original_size[0]} to {size}"
    seconds = result.refined.seconds
    return f"{size} · network {1000 * seconds['network']:.0f} ms · CRF {1000 * seconds['CRF']:.0f} ms"


def code(params: Params, iterations: int) -> str:
    """Write the parameters as Python code.

    Args:
        params: parameters of the CRF; only those that differ from the defaults are written.
        iterations: iterations of the CRF.

    Returns:
        Two lines of Python.
    """
    default = Params()
    changed = [
        f"{field.name}={getattr(params, field.name)!r}"
        for field in fields(Params)
        if getattr(params, field.name) != getattr(default, field.name)
    ]
    steps = f", iterations={iterations}" if iterations != 10 else ""
    return f"params = densecrf.Params({', '.join(changed)})\nresult = model.segment(photo, crf=params{steps})"
