"""Refine real networks' score maps with ours and with pydensecrf2: time, and mean IoU before and after.

Needs the VOC photos, masks and scores described in the shared data's README: a folder with ``voc/`` inside,
named by
--data or by DEEPLAB_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from refine import processor_name, pydensecrf

import densecrf
from densecrf import _native

CLASSES = 21
WELL_POPULATED = [0, 8, 10, 12, 13, 15, 17]
PARAMS = densecrf.Params(appearance_weight=5, appearance_xy_std=50, appearance_rgb_std=5)


def aligned(length: int, target: int) -> np.ndarray:
    """The matrix (target, length) of linear interpolation with corners aligned."""
    places = np.linspace(0, length - 1, target)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(length))).astype(np.float32)


def probabilities(file: np.lib.npyio.NpzFile, index: int, height: int, width: int) -> np.ndarray:
    """The softmax (K, H, W) of one photo's scores at the photo's size."""
    logits = (file["logits_u8"][index].astype(np.float32) - float(file["zero_point"])) * float(file["scale"])
    canvas_width, canvas_height = file["width_height_canvasw_canvash"][index][2:]
    up = aligned(logits.shape[0], 513)
    full = np.einsum("yi,ijk,xj->kyx", up, logits, up, optimize=True)[:, :canvas_height, :canvas_width]
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in full]
    scores = np.stack([np.asarray(plane) for plane in planes])
    powers = np.exp(scores - scores.max(axis=0))
    return powers / powers.sum(axis=0)


def mean_iou(confusion: np.ndarray, ids: list[int]) -> float:
    """Mean IoU of some classes, in percent."""
    hit = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return round(float(100 * (hit / np.maximum(union, 1))[ids].mean()), 3)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("DEEPLAB_DATA", "../shared/data"))
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--photos", type=int, default=80)
    options = parser.parse_args()
    voc = options.data / "voc"
    has_rival = find_spec("pydensecrf") is not None
    table = {}
    for path in sorted((voc / "scores").glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            ways = ["network", "densecrf, 2 threads"] + ["pydensecrf2"] * has_rival
            confusion = {way: np.zeros((CLASSES, CLASSES), np.int64) for way in ways}
            seconds = dict.fromkeys(ways, 0.0)
            changed: int = 0
            for index, name in enumerate(file["ids"][: options.photos]):
                photo = np.asarray(Image.open(voc / "JPEGImages" / f"{name}.jpg").convert("RGB")).copy()
                truth = np.asarray(Image.open(voc / "SegmentationClass" / f"{name}.png"))
                before = probabilities(file, index, *truth.shape)
                labels = {}
                for way in ways:
                    started = time.perf_counter()
                    if way == "network":
                        after = before
                    elif way == "pydensecrf2":
                        after = pydensecrf(photo, before, PARAMS).reshape(before.shape)
                    else:
                        after = densecrf.refine(photo, before, params=PARAMS, threads=2)
                    seconds[way] += time.perf_counter() - started
                    labels[way] = after.argmax(0)
                    valid = truth != 255
                    pairs = truth[valid].astype(np.int64) * CLASSES + labels[way][valid]
                    confusion[way] += np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
                if has_rival:
                    changed += int(np.count_nonzero(labels["pydensecrf2"] != labels["densecrf, 2 threads"]))
        table[path.stem] = {
            way: {
                "mIoU-7": mean_iou(confusion[way], WELL_POPULATED),
                "mIoU-21": mean_iou(confusion[way], list(range(CLASSES))),
                "seconds": round(seconds[way], 2),
            }
            for way in ways
        }
        if has_rival:
            table[path.stem]["pixels labelled differently"] = {"count": changed}
        for way, figures in table[path.stem].items():
            print(f"{path.stem:44s} {way:28s} {figures}", flush=True)
    record = {
        "date": date.today().isoformat(),
        "processor": processor_name(),
        "instruction set": _native.simd_level(),
        "photos": options.photos,
        "params": "5/50/5 + 3/3, symmetric, 10 iterations, not tuned",
        "score maps": table,
    }
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
