"""Sharpen object masks of real networks' scores by ``densecrf.sharpen`` and other methods: accuracy, time.

A mask is the region of one class in a network's labels of one photo, if it has at least 2000 pixels and an
IoU with the labels of at least 0.3. Soft masks have the probability of the class against the most probable
other one. The guided filter (He et al. 2013) is one by box filters, and OpenCV's where ``cv2.ximgproc`` is
installed (opencv-contrib); for ε under 0.01 their results differ. Its radius and ε are chosen on the first
half of the photos by boundary IoU, as the parameters of ``sharpen`` were; the second half is for the
comparison. All methods have one thread, and times are processor times, so that a busy machine does not
matter much.

Needs deeplab for its measures, and the data of ``score_maps.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measurement import environment, measure, memory_of
from PIL import Image
from refine import PHOTO, pydensecrf
from score_maps import probabilities

import densecrf
from deeplab.evaluation.boundary_accuracy import boundary_accuracy
from deeplab.evaluation.boundary_iou import boundary_overlap
from densecrf.mask_sharpening import MASK_PARAMS

MIN_PIXELS = 2000
MIN_IOU = 0.3
SETTINGS = ((8, 1e-4), (16, 1e-5), (16, 1e-4), (16, 1e-2), (32, 1e-4), (32, 1e-2))
"""Settings of the guided filter: radius in pixels, ε for images from 0 to 1."""
NARROW = 0.005
"""Share of the diagonal of the narrower boundary IoU: 3 pixels of a photo of 500×375."""
CONFIDENCE = 0.95
"""Probability of hard masks in the CRF over the whole image."""

Method = Callable[["Case"], np.ndarray]


@dataclass(frozen=True)
class Case:
    """One object mask of a network and its true labels."""

    photo: np.ndarray
    """(H, W, 3) uint8."""
    hard: np.ndarray
    """(H, W) bool."""
    soft: np.ndarray
    """(H, W) float32 probabilities, over 0.5 where ``hard`` is true."""
    truth: np.ndarray
    """(H, W) 1 for the object, 0 for all else, 255 for void."""


@dataclass
class Figures:
    """Measures of one method, one number for each mask."""

    iou: list[float] = field(default_factory=list)
    boundary_iou: list[float] = field(default_factory=list)
    narrow_boundary_iou: list[float] = field(default_factory=list)
    boundary_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, case: Case, mask: np.ndarray, seconds: float) -> None:
        """Measure one result (H, W) bool."""
        ids = mask.astype(np.uint8)
        valid, true = case.truth != 255, case.truth == 1
        self.iou.append(float((mask & true).sum() / ((mask & valid) | true).sum()))
        for values, width in ((self.boundary_iou, 0.02), (self.narrow_boundary_iou, NARROW)):
            intersection, union = boundary_overlap(case.truth, ids, 2, width=width)[1]
            values.append(float(intersection / max(1, union)))
        self.boundary_accuracy.append(boundary_accuracy(case.truth, ids))
        self.seconds.append(seconds)

    def summary(self, masks: slice = slice(None)) -> dict[str, float]:
        """Means over some of the masks in percent, and the median time in milliseconds."""

        def mean(values: list[float]) -> float:
            return round(100 * float(np.nanmean(values[masks])), 2)

        return {
            "IoU": mean(self.iou),
            "boundary IoU": mean(self.boundary_iou),
            "boundary IoU, 0.5 %": mean(self.narrow_boundary_iou),
            "mBA": mean(self.boundary_accuracy),
            "processor ms": round(1000 * statistics.median(self.seconds[masks]), 1),
        }


def cases(path: Path, voc: Path, photos: slice) -> Iterator[Case]:
    """The object masks of a network's score maps.

    Args:
        path: .npz of score maps.
        voc: folder with VOC's JPEGImages and SegmentationClass.
        photos: which photos.
    """
    with np.load(path, allow_pickle=False) as file:
        names = list(enumerate(file["ids"]))
        for index, name in names[photos]:
            photo = np.asarray(Image.open(voc / "JPEGImages" / f"{name}.jpg").convert("RGB")).copy()
            truth = np.asarray(Image.open(voc / "SegmentationClass" / f"{name}.png"))
            scores = probabilities(file, index, *truth.shape)
            labels = scores.argmax(0)
            for number in np.unique(labels):
                hard, true = labels == number, truth == number
                union = ((hard & (truth != 255)) | true).sum()
                if number == 0 or hard.sum() < MIN_PIXELS or (hard & true).sum() < MIN_IOU * union:
                    continue
                others = np.delete(scores, number, axis=0).max(0)
                soft = scores[number] / (scores[number] + others)
                binary = np.where(truth == 255, 255, true).astype(np.uint8)
                yield Case(photo, hard, soft.astype(np.float32), binary)


def opencv_guided_filter(case: Case, soft: bool, radius: int, epsilon: float) -> np.ndarray:
    """The mask by OpenCV's guided filter with the colour photo as guide, cut at ½."""
    values = case.soft if soft else case.hard.astype(np.float32)
    guide = case.photo.astype(np.float32) / 255
    opencv: Any = cv2  # ordinary builds have no ximgproc
    result: np.ndarray = opencv.ximgproc.guidedFilter(guide, values, radius, epsilon) > 0.5
    return result


def guided_filter(case: Case, soft: bool, radius: int, epsilon: float) -> np.ndarray:
    """The same by box filters: He et al. 2013, equations 19 to 21."""
    values = case.soft if soft else case.hard.astype(np.float32)
    guide = case.photo / 255  # float64: for a small ε differences of squares need the digits
    mean = partial(cv2.blur, ksize=(2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)
    middle, average = mean(guide), mean(values)
    (rr, rg, rb), (_, gg, gb), (_, _, bb) = (
        [mean(guide[..., i] * guide[..., j]) - middle[..., i] * middle[..., j] for j in range(3)]
        for i in range(3)
    )
    rr, gg, bb = rr + epsilon, gg + epsilon, bb + epsilon
    inverse = [
        [gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb],
        [gb * rb - rg * bb, rr * bb - rb * rb, rb * rg - rr * gb],
        [rg * gb - gg * rb, rb * rg - rr * gb, rr * gg - rg * rg],
    ]
    determinant = rr * inverse[0][0] + rg * inverse[0][1] + rb * inverse[0][2]
    shared = mean(guide * values[..., None]) - middle * average[..., None]
    slope = np.stack([sum(row[k] * shared[..., k] for k in range(3)) / determinant for row in inverse], 2)
    offset = average - (slope * middle).sum(2)
    result: np.ndarray = (mean(slope) * guide).sum(2) + mean(offset) > 0.5
    return result


def whole_image(case: Case, params: densecrf.Params, soft: bool, by_pydensecrf: bool = False) -> np.ndarray:
    """The mask by a CRF of two labels over all pixels, 10 steps."""
    foreground = case.soft if soft else np.where(case.hard, CONFIDENCE, 1 - CONFIDENCE).astype(np.float32)
    both = np.stack([1 - foreground, foreground])
    if by_pydensecrf:
        marginals = pydensecrf(case.photo, both, params).reshape(both.shape)
    else:
        marginals = densecrf.refine(case.photo, both, params=params, threads=1)
    return marginals[1] > marginals[0]


def sharpened(case: Case, soft: bool) -> np.ndarray:
    """The mask by ``densecrf.sharpen`` with its defaults."""
    result = densecrf.sharpen(case.photo, case.soft if soft else case.hard, threads=1)
    return result > 0.5 if soft else result


def guided_filters() -> dict[str, Callable[..., np.ndarray]]:
    """The programs of the guided filter by name."""
    found = {"guided filter by box filters": guided_filter}
    return found | ({"guided filter of OpenCV": opencv_guided_filter} if hasattr(cv2, "ximgproc") else {})


def methods() -> dict[str, Method]:
    """All methods by name; the guided filter once for each setting."""
    found: dict[str, Method] = {"network": lambda case: case.hard}
    for name, soft in (("soft", True), ("hard", False)):
        for program, run_filter in guided_filters().items():
            for radius, epsilon in SETTINGS:
                run = partial(run_filter, soft=soft, radius=radius, epsilon=epsilon)
                found[f"{program}, {name} mask, radius {radius}, ε {epsilon:g}"] = run
        found[f"refine, whole image, {name} mask"] = partial(whole_image, params=densecrf.Params(), soft=soft)
        if soft:
            run = partial(whole_image, params=MASK_PARAMS, soft=soft)
            found["refine, whole image, soft mask, parameters of sharpen"] = run
        if soft and find_spec("pydensecrf") is not None:
            run = partial(whole_image, params=densecrf.Params(), soft=soft, by_pydensecrf=True)
            found["pydensecrf2, whole image, soft mask"] = run
        found[f"sharpen, {name} mask"] = partial(sharpened, soft=soft)
    return found


def measure_network(path: Path, voc: Path, photos: int) -> dict[str, dict[str, dict[str, float]]]:
    """Summaries of each method on the masks of one network, of the second half of the photos and of all."""
    figures = {name: Figures() for name in methods()}
    half = photos // 2
    count = 0
    for number, part in enumerate((slice(half), slice(half, photos))):
        for case in cases(path, voc, part):
            count += number == 0
            for name, run in methods().items():
                started = time.process_time()
                mask = run(case)
                figures[name].add(case, mask, time.process_time() - started)
    first, second = slice(count), slice(count, None)
    for start in (f"{program}, {kind}" for program in guided_filters() for kind in ("soft", "hard")):
        settings = [name for name in figures if name.startswith(start)]
        best = max(settings, key=lambda name: figures[name].summary(first)["boundary IoU"])
        for name in settings:
            if name != best:
                del figures[name]
    total = len(figures["network"].iou)
    return {
        f"{total - count} masks of the second half": {
            name: one.summary(second) for name, one in figures.items()
        },
        f"all {total} masks": {name: one.summary() for name, one in figures.items()},
    }


def large_mask() -> dict[str, Any]:
    """Time and memory of ``sharpen`` with its defaults, two threads, on a photo of 4000×3000 pixels.

    The mask is an ellipse at 256×256 pixels, upsampled. Memory is the peak above what the process has before.
    """
    with Image.open(PHOTO) as file:
        photo = np.asarray(file.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC))
    y, x = np.ogrid[:256, :256]
    ellipse = np.hypot((x - 128) / 77, (y - 137) / 110) < 1
    mask = np.asarray(Image.fromarray(ellipse).resize((4000, 3000)))
    grey = Image.fromarray((255 * ellipse).astype(np.uint8)).resize((4000, 3000), Image.Resampling.BILINEAR)
    soft = np.asarray(grey).astype(np.float32) / 255
    record: dict[str, Any] = {}
    for name, values in (("hard mask", mask), ("soft mask", soft)):
        run = partial(densecrf.sharpen, photo, values, threads=2)
        record[name] = measure({name: run}, 3)[name]
        record[name]["peak MB above the start"] = round(memory_of(run) / 1e6)
    return record


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("DEEPLAB_DATA", "../shared/data"))
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--photos", type=int, default=80, help="0: the large mask alone")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    voc = Path(options.data) / "voc"
    record = environment(opencv=cv2.__version__) | {"photos": options.photos}
    record["4000×3000"] = large_mask()
    print(record["4000×3000"], flush=True)
    for path in sorted((voc / "scores").glob("*.npz")) if options.photos else ():
        for part, table in measure_network(path, voc, options.photos).items():
            record[f"{path.stem}, {part}"] = table
            for name, row in table.items():
                print(f"{path.stem:34s} {part:30s} {name:60s} {row}", flush=True)
    options.out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
