"""The paper's figures, drawn with our own output on the free photos of examples/photos.

Question: What do the network and the CRF do to a photo, step by step?

Command:
    python figures.py --out docs/images

Writes:
    OUT/crf-iterations.png: score and belief of a class before the CRF and after 1, 2 and 10 mean-field steps
        (the paper's Figure 2).
    OUT/stages.jpg: photo, coarse scores at stride 8, bilinear upsampling, CRF (Figure 3).
    OUT/network-and-crf.jpg: each photo with the labels of the network and those of the CRF, failures included
        (Figure 7).
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import deeplab
import densecrf
from deeplab.drawing import overlay
from deeplab.evaluation.charts import new_figure, png_of
from deeplab.files import write_whole
from deeplab.model.segmentation import Model
from deeplab.network.preprocessing import pad_to_legal, prepare
from deeplab.photos import read_photo

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
STEPS = (0, 1, 2, 10)
"""Mean-field steps that are shown."""


@torch.inference_mode()
def scores_of(model: Model, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (K, h, w) at stride 8, and (K, H, W) at every pixel."""
    height, width = photo.shape[:2]
    batch = pad_to_legal(prepare(photo, model.card.preparation), model.network.variant)
    coarse = model.network(batch)[0].numpy()
    full = model.network.full_scores(batch)[0, :, :height, :width].numpy()
    return coarse[:, : -(-height // 8), : -(-width // 8)], full


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the first axis."""
    powers = np.exp(scores - scores.max(0))
    return powers / powers.sum(0)


def iterations_figure(model: Model, name: str, class_name: str) -> bytes:
    """Score (upper row) and belief (lower row) of one class after some mean-field steps.

    Args:
        model: the network and its card.
        name: name of a photo without its ending.
        class_name: the class.

    Returns:
        The bytes of a PNG.
    """
    photo = read_photo(PHOTOS / f"{name}.jpg")
    probabilities = softmax(scores_of(model, photo)[1])
    index = model.class_names.index(class_name)
    figure = new_figure(13, 4.4)
    axes = figure.subplots(2, len(STEPS) + 1)
    axes[0, 0].imshow(photo)
    axes[0, 0].set_title("photo", fontsize=9)
    for column, steps in enumerate(STEPS, 1):
        marginals = densecrf.refine(photo, probabilities, params=model.crf_params, iterations=steps)
        others = np.delete(marginals, index, axis=0).max(0)  # the score that the class has to beat
        score = np.log(np.maximum(marginals[index], 1e-8)) - np.log(np.maximum(others, 1e-8))
        axes[0, column].imshow(np.clip(score, -8, 8), cmap="RdBu_r", vmin=-8, vmax=8)
        title = "network" if steps == 0 else f"{steps} step{'s' * (steps > 1)}"
        axes[0, column].set_title(title, fontsize=9)
        axes[1, column].imshow(marginals[index], cmap="magma", vmin=0, vmax=1)
    axes[1, 0].imshow(overlay(photo, marginals.argmax(0).astype(np.uint8)))
    axes[1, 0].set_title(f"labels after {STEPS[-1]} steps", fontsize=9)
    axes[0, 1].set_ylabel(f"score of {class_name}", fontsize=9)
    axes[1, 1].set_ylabel(f"belief in {class_name}", fontsize=9)
    return _png_without_ticks(figure)


def stages_figure(model: Model, name: str) -> bytes:
    """PNG of a photo, its coarse labels, upsampled labels, and labels after the CRF."""
    photo = read_photo(PHOTOS / f"{name}.jpg")
    coarse, full = scores_of(model, photo)
    refined = densecrf.refine(photo, softmax(full), params=model.crf_params).argmax(0).astype(np.uint8)
    blocks = np.kron(coarse.argmax(0), np.ones((8, 8))).astype(np.uint8)
    blocks = blocks[: photo.shape[0], : photo.shape[1]]
    pictures = {
        "photo": photo,
        "scores at stride 8": overlay(photo, blocks),
        "bilinear ×8": overlay(photo, full.argmax(0).astype(np.uint8)),
        "fully connected CRF": overlay(photo, refined),
    }
    figure = new_figure(12, 2.9)
    for number, (title, picture) in enumerate(pictures.items(), 1):
        axes = figure.add_subplot(1, len(pictures), number)
        axes.imshow(picture)
        axes.set_title(title, fontsize=9)
    return _png_without_ticks(figure)


def photos_figure(model: Model) -> bytes:
    """PNG of every free photo with the labels of the network and those of network and CRF."""
    paths = sorted(PHOTOS.glob("*.jpg"))
    figure = new_figure(8.5, 2.6 * len(paths))
    axes = figure.subplots(len(paths), 3)
    for row, path in zip(axes, paths, strict=True):
        plain = model.segment(path, crf=False)
        refined = model.refine(plain)
        shares = list(refined.shares().items())[:4]
        row[0].set_ylabel(", ".join(f"{name} {100 * share:.0f} %" for name, share in shares), fontsize=7)
        for axis, picture in zip(row, (plain.photo, plain.overlay(), refined.overlay()), strict=True):
            axis.imshow(picture)
    for axis, title in zip(axes[0], ("photo", "network", "network + CRF"), strict=True):
        axis.set_title(title, fontsize=9)
    return _png_without_ticks(figure)


def _png_without_ticks(figure: Any) -> bytes:
    for axes in figure.axes:
        axes.set_xticks([])
        axes.set_yticks([])
    return png_of(figure)


def _jpeg(png: bytes) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(file, "JPEG", quality=88)
    return file.getvalue()


def main() -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--weights", help="weights file instead of the package's weights")
    options = parser.parse_args()
    model = deeplab.load(weights=options.weights, precision="fp32")
    write_whole(options.out / "crf-iterations.png", iterations_figure(model, "cat", "cat"))
    write_whole(options.out / "stages.jpg", _jpeg(stages_figure(model, "astronaut")))
    write_whole(options.out / "network-and-crf.jpg", _jpeg(photos_figure(model)))


if __name__ == "__main__":
    main()
