"""The page's comparison: two pictures with a movable dividing line, and the class under the pointer."""

from __future__ import annotations

import base64
import io
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
JPEG_QUALITY = 90  # of the pictures on the page; the files to download are PNG

TEMPLATE = """
<div class="comparison" data-result="${result}" style="--ratio: ${ratio}">
  <div class="stage">
    <img class="left" src="${left}" alt="${left_title}" draggable="false">
    <img class="right" src="${right}" alt="${right_title}" draggable="false">
    <span class="tag">${left_title}</span><span class="tag">${right_title}</span><span class="divider"></span>
  </div>
  <input type="range" min="0" max="100" value="50" aria-label="position of the dividing line in percent">
</div>
"""
CSS = """
.comparison { text-align: center; --height: min(460px, 55vh);
  --stage-width: min(100%, calc(var(--height) * var(--ratio))); }
.comparison[data-result=""] { visibility: hidden; height: 12rem; overflow: hidden; }
.comparison .stage { position: relative; overflow: hidden; margin: auto; cursor: crosshair; user-select: none;
  width: var(--stage-width); touch-action: pan-y; border-radius: .3rem; }
.comparison .stage img { display: block; width: 100%; margin: 0; border-radius: 0; }
.comparison .stage .right { position: absolute; inset: 0; height: 100%;
  clip-path: inset(0 0 0 var(--divider, 50%)); }
.comparison .divider { position: absolute; top: 0; bottom: 0; left: var(--divider, 50%);
  width: 4px; margin-left: -2px; background: #fff; box-shadow: 0 0 3px #000; cursor: ew-resize; }
.comparison .tag { position: absolute; bottom: .4rem; left: .4rem; padding: .1rem .5rem; border-radius: .3rem;
  background: #000b; color: #fff; font-size: .8rem; pointer-events: none; }
.comparison .tag + .tag { left: auto; right: .4rem; }
.comparison input { width: var(--stage-width); margin: .5rem 0 0; accent-color: var(--color-accent); }
"""
SCRIPT = """
const stage = element.querySelector(".stage"), range = element.querySelector("input");
const moveDivider = (percent) => {
  range.value = percent;
  element.style.setProperty("--divider", `${range.value}%`);
};
const pixelAt = (event) => {
  const box = stage.getBoundingClientRect(), image = stage.querySelector("img");
  const clip = (share, size) => Math.min(Math.max(Math.floor(share * size), 0), size - 1);
  return [clip((event.clientX - box.left) / box.width, image.naturalWidth),
          clip((event.clientY - box.top) / box.height, image.naturalHeight)];
};
let fetching = false, nextPixel = null;
const showPixel = async (pixel) => {  // one request at a time, then one for the latest pixel
  nextPixel = pixel;
  if (fetching) return;
  fetching = true;
  try {
    while (nextPixel) {
      const [x, y] = nextPixel, result = element.querySelector("[data-result]").dataset.result;
      nextPixel = null;
      const answer = await fetch(`../results/${result}/at?x=${x}&y=${y}`);
      const line = document.querySelector("#pixel .note");
      if (answer.ok && line) line.textContent = await answer.text();
    }
  } finally {
    fetching = false;
  }
};
let pressedAt = null, dragged = false;
range.addEventListener("input", () => moveDivider(range.value));
stage.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  [pressedAt, dragged] = [event.clientX, false];
  stage.setPointerCapture(event.pointerId);
});
stage.addEventListener("pointermove", (event) => {
  dragged ||= pressedAt !== null && Math.abs(event.clientX - pressedAt) > 3;
  if (pressedAt === null) {
    showPixel(pixelAt(event));
  } else if (dragged) {
    const box = stage.getBoundingClientRect();
    moveDivider(100 * (event.clientX - box.left) / box.width);
  }
});
stage.addEventListener("pointerup", (event) => {
  if (pressedAt !== null && !dragged) trigger("select", { index: pixelAt(event), value: null });
  pressedAt = null;
});
stage.addEventListener("pointercancel", () => { pressedAt = null; });
"""


def comparison() -> gr.HTML:
    """Make the component, empty. A click on it is its event ``select`` with the index (x, y) of a pixel."""
    return gr.HTML(
        html_template=TEMPLATE,
        js_on_load=SCRIPT,
        elem_id="compare",
        result="",
        ratio=1.5,
        left="",
        right="",
        left_title="",
        right_title="",
    )


def show_both(result: PageResult, name: str, pair: str) -> Any:
    """Return an update of the component that shows two pictures of a result.

    Args:
        result: the labelled photo.
        name: its name in the cache.
        pair: key of ``PAIRS``.
    """
    height, width = result.plain.labels.shape
    left, right = PAIRS[pair]
    return gr.update(
        result=name,
        ratio=width / height,
        left=data_uri(picture(result, left)),
        right=data_uri(picture(result, right)),
        left_title=left,
        right_title=right,
    )


def show_refined(result: PageResult, pair: str) -> Any:
    """Return an update after the CRF has run again; a picture that it did not change is not sent.

    Args:
        result: the labelled photo.
        pair: key of ``PAIRS``.
    """
    left, right = PAIRS[pair]
    assert left != CRF
    return gr.update(right=data_uri(picture(result, CRF))) if right == CRF else gr.skip()


def picture(result: PageResult, title: str) -> np.ndarray:
    """Return one of the pictures in ``PAIRS``.

    Args:
        result: the labelled photo.
        title: PHOTO, NETWORK or CRF.

    Returns:
        (H, W, 3) uint8.
    """
    if title == PHOTO:
        return result.plain.photo
    return (result.plain if title == NETWORK else result.refined).overlay()


def data_uri(image: np.ndarray) -> str:
    """Return a picture, (H, W, 3) uint8, as a JPEG in a ``data:`` address for an <img>."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
