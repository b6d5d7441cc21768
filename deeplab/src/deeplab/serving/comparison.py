"""The picture of the page: two versions under a line that can be dragged, and the class under the pointer."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from deeplab.serving.result_cache import CRF, NETWORK, PageResult

PHOTO = "photo"
PAIRS = {
    f"{NETWORK} | {CRF}": (NETWORK, CRF),
    f"{PHOTO} | {CRF}": (PHOTO, CRF),
    f"{PHOTO} | {NETWORK}": (PHOTO, NETWORK),
}
QUALITY = 90  # of the pictures shown, JPEG; the files to download are PNG

TEMPLATE = """
<div class="comparison" data-kept="${kept}" style="--ratio: ${ratio}">
  <div class="stage">
    <img class="left" src="${left}" alt="${left_title}" draggable="false">
    <img class="right" src="${right}" alt="${right_title}" draggable="false">
    <span class="tag">${left_title}</span><span class="tag">${right_title}</span><span class="cut"></span>
  </div>
  <input type="range" min="0" max="100" value="50" aria-label="where the line stands, in percent of the width">
</div>
"""
CSS = """
.comparison { --height: min(460px, 55vh); --wide: min(100%, calc(var(--height) * var(--ratio))); text-align: center; }
.comparison[data-kept=""] { visibility: hidden; height: 12rem; overflow: hidden; }
.comparison .stage { position: relative; overflow: hidden; margin: auto; cursor: crosshair; user-select: none;
  width: var(--wide); touch-action: pan-y; border-radius: .3rem; }
.comparison .stage img { display: block; width: 100%; margin: 0; border-radius: 0; }
.comparison .stage .right { position: absolute; inset: 0; height: 100%; clip-path: inset(0 0 0 var(--cut, 50%)); }
.comparison .cut { position: absolute; top: 0; bottom: 0; left: var(--cut, 50%); width: 4px; margin-left: -2px;
  background: #fff; box-shadow: 0 0 3px #000; cursor: ew-resize; }
.comparison .tag { position: absolute; bottom: .4rem; left: .4rem; padding: .1rem .5rem; border-radius: .3rem;
  background: #000b; color: #fff; font-size: .8rem; pointer-events: none; }
.comparison .tag + .tag { left: auto; right: .4rem; }
.comparison input { width: var(--wide); margin: .5rem 0 0; accent-color: var(--color-accent); }
"""
SCRIPT = """
const stage = element.querySelector(".stage"), range = element.querySelector("input");
const cut = (percent) => {
  range.value = percent;
  element.style.setProperty("--cut", `${range.value}%`);
};
const pixel = (event) => {
  const box = stage.getBoundingClientRect(), image = stage.querySelector("img");
  const inside = (share, size) => Math.min(Math.max(Math.floor(share * size), 0), size - 1);
  return [inside((event.clientX - box.left) / box.width, image.naturalWidth),
          inside((event.clientY - box.top) / box.height, image.naturalHeight)];
};
let asking = false, next = null;
const tell = async (place) => {  // one question at a time; of those that come meanwhile, the last
  next = place;
  if (asking) return;
  asking = true;
  try {
    while (next) {
      const [x, y] = next, kept = element.querySelector("[data-kept]").dataset.kept;
      next = null;
      const answer = await fetch(`../kept/${kept}/at?x=${x}&y=${y}`);
      const line = document.querySelector("#pixel .note");
      if (answer.ok && line) line.textContent = await answer.text();
    }
  } finally {
    asking = false;
  }
};
let pressed = null, dragged = false;
range.addEventListener("input", () => cut(range.value));
stage.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  [pressed, dragged] = [event.clientX, false];
  stage.setPointerCapture(event.pointerId);
});
stage.addEventListener("pointermove", (event) => {
  dragged ||= pressed !== null && Math.abs(event.clientX - pressed) > 3;
  if (pressed === null) {
    tell(pixel(event));
  } else if (dragged) {
    const box = stage.getBoundingClientRect();
    cut(100 * (event.clientX - box.left) / box.width);
  }
});
stage.addEventListener("pointerup", (event) => {
  if (pressed !== null && !dragged) trigger("select", { index: pixel(event), value: null });
  pressed = null;
});
stage.addEventListener("pointercancel", () => { pressed = null; });
"""


def comparison() -> gr.HTML:
    """The part of the page; ``both`` and ``refined`` fill it. A click is its event ``select``, of a pixel (x,
    y)."""
    return gr.HTML(
        html_template=TEMPLATE,
        js_on_load=SCRIPT,
        elem_id="compare",
        kept="",
        ratio=1.5,
        left="",
        right="",
        left_title="",
        right_title="",
    )


def both(kept: PageResult, name: str, pair: str) -> Any:
    """An update that shows a pair of ``PAIRS`` of what is kept under a name."""
    height, width = kept.plain.labels.shape
    left, right = PAIRS[pair]
    return gr.update(
        kept=name,
        ratio=width / height,
        left=uri(picture(kept, left)),
        right=uri(picture(kept, right)),
        left_title=left,
        right_title=right,
    )


def refined(kept: PageResult, pair: str) -> Any:
    """The same after the CRF has run again: what it did not change is not sent."""
    assert CRF not in [left for left, _ in PAIRS.values()]
    return gr.update(right=uri(picture(kept, CRF))) if PAIRS[pair][1] == CRF else gr.skip()


def picture(kept: PageResult, version: str) -> np.ndarray:
    """One of the versions in ``PAIRS``, (H, W, 3) uint8."""
    make: dict[str, Callable[[], np.ndarray]] = {
        PHOTO: lambda: kept.plain.photo,
        NETWORK: kept.plain.overlay,
        CRF: kept.refined.overlay,
    }
    return make[version]()


def uri(shown: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 as text that an <img> can show without asking the server again."""
    buffer = io.BytesIO()
    Image.fromarray(shown).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
