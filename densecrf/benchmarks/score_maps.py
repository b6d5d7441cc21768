"""Refine score maps of real networks with densecrf and pydensecrf2: time, and mean IoU before and after.

Needs a folder, named by --data or DEEPLAB_DATA, whose ``voc/`` has VOC's JPEGImages and SegmentationClass,
and ``scores/`` with one .npz of quantised score maps for each network.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from measurement import environment
from PIL import Image
from refine import pydensecrf

import densecrf

CLASSES = 21
WELL_POPULATED = [0, 8, 10, 12, 13, 15, 17]
PARAMS = densecrf.Params(appearance_weight=5, appearance_xy_std=50, appearance_rgb_std=5)


def interpolation_matrix(length: int, target: int) -> np.ndarray:
    """The matrix (target, length) of linear interpolation with aligned corners.

    Args:
        length: number of samples before.
        target: number of samples after.
    """
    positions = np.linspace(0, length - 1, target)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(length))).astype(np.float32)


def probabilities(file: np.lib.npyio.NpzFile, index: int, height: int, width: int) -> np.ndarray:
    """The softmax (K, H, W) of one photo's scores.

    Args:
        file: score maps of a network.
        index: number of the photo.
        height: H of the photo in pixels.
        width: W of the photo in pixels.
    """
    logits = (file["logits_u8"][index].astype(np.float32) - float(file["zero_point"])) * float(file["scale"])
    canvas_width, canvas_height = file["width_height_canvasw_canvash"][index][2:]
    up = interpolation_matrix(logits.shape[0], 513)
    full = np.einsum("yi,ijk,xj->kyx", up, logits, up, optimize=True)[:, :canvas_height, :canvas_width]
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in full]
    scores = np.stack([np.asarray(plane) for plane in planes])
    powers = np.exp(scores - scores.max(axis=0))
    return powers / powers.sum(axis=0)


def mean_iou(confusion: np.ndarray, ids: list[int]) -> float:
    """Mean IoU of some classes, in percent.

    Args:
        confusion: (K, K) counts of pixels by true and predicted class.
        ids: the classes.
    """
    hit = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return round(float(100 * (hit / np.maximum(union, 1))[ids].mean()), 3)


def evaluate_scores(path: Path, voc: Path, photos: int, has_pydensecrf: bool) -> dict[str, dict[str, float]]:
    """Mean IoU and seconds of each method on the score maps of one network.

    Args:
        path: .npz of score maps.
        voc: folder with VOC's JPEGImages and SegmentationClass.
        photos: maximum number of photos.
        has_pydensecrf: whether pydensecrf2 is installed.
    """
    methods = ["network", "densecrf, 2 threads"] + ["pydensecrf2"] * has_pydensecrf
    confusion = {method: np.zeros((CLASSES, CLASSES), np.int64) for method in methods}
    seconds = dict.fromkeys(methods, 0.0)
    differing: int = 0
    with np.load(path, allow_pickle=False) as file:
        for index, name in enumerate(file["ids"][:photos]):
            photo = np.asarray(Image.open(voc / "JPEGImages" / f"{name}.jpg").convert("RGB")).copy()
            truth = np.asarray(Image.open(voc / "SegmentationClass" / f"{name}.png"))
            before = probabilities(file, index, *truth.shape)
            labels = {}
            for method in methods:
                started = time.perf_counter()
                after = refine_by(method, photo, before)
                seconds[method] += time.perf_counter() - started
                labels[method] = after.argmax(0)
                confusion[method] += confusion_of(truth, labels[method])
            if has_pydensecrf:
                differing += int(np.count_nonzero(labels["pydensecrf2"] != labels["densecrf, 2 threads"]))
    table: dict[str, dict[str, float]] = {
        method: {
            "mIoU-7": mean_iou(confusion[method], WELL_POPULATED),
            "mIoU-21": mean_iou(confusion[method], list(range(CLASSES))),
            "seconds": round(seconds[method], 2),
        }
        for method in methods
    }
    if has_pydensecrf:
        table["pixels labelled differently"] = {"count": differing}
    return table


def refine_by(method: str, photo: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Probabilities (K, H, W) after a method.

    Args:
        method: "network" for none, "densecrf, 2 threads" or "pydensecrf2".
        photo: (H, W, 3) uint8.
        before: (K, H, W) probabilities of the network.
    """
    if method == "network":
        return before
    if method == "pydensecrf2":
        return pydensecrf(photo, before, PARAMS).reshape(before.shape)
    return densecrf.refine(photo, before, params=PARAMS, threads=2)


def confusion_of(truth: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(K, K) counts of pixels by true and predicted class, without void pixels.

    Args:
        truth: (H, W) true classes, 255 for void.
        labels: (H, W) predicted classes.
    """
    valid = truth != 255
    codes = truth[valid].astype(np.int64) * CLASSES + labels[valid]
    return np.bincount(codes, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("DEEPLAB_DATA", "../shared/data"))
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--photos", type=int, default=80)
    options = parser.parse_args()
    voc = options.data / "voc"
    has_pydensecrf = find_spec("pydensecrf") is not None
    table = {}
    for path in sorted((voc / "scores").glob("*.npz")):
        table[path.stem] = evaluate_scores(path, voc, options.photos, has_pydensecrf)
        for method, figures in table[path.stem].items():
            print(f"{path.stem:44s} {method:28s} {figures}", flush=True)
    record = environment() | {
        "photos": options.photos,
        "params": "5/50/5 + 3/3, symmetric, 10 iterations, not tuned",
        "score maps": table,
    }
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
