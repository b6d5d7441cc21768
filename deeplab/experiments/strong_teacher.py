"""Soft targets from an instance segmentation network trained on COCO (YOLOv7-seg).

Question: What would a stronger network, corrected by the photos' own masks, teach about each photo?

Command:
    python strong_teacher.py --state yolov7seg_state.pt --layers v7.json --data PACK --split train_once \
        --out teacher.npz

Writes: OUT in the format of ``deeplab.datasets.score_file.ScoreFile``, with a score at every 8th pixel of a
photo of 513 pixels; ``teacher`` in voc-gpu.toml.

``--state`` is a dictionary of plain tensors (``torch.load`` with ``weights_only``), ``--layers`` the
network's layer table as JSON. The network itself is under the GPL and is only a teacher: nothing of it is
shipped.

The score of a class is the largest product of confidence and mask over its instances; background has what is
missing to one. Inside an area of the mask the target is 0.6 of the mask's class and 0.4 of the teacher, or
the mask alone where the teacher gives its class less than 0.15; within about 10 pixels of a boundary, and
where the mask is void, the target is the teacher's.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from deeplab.classes import IGNORE, VOC_CLASSES
from deeplab.datasets.opening import open_dataset

VOC_OF_COCO = {
    0: 15,
    1: 2,
    2: 7,
    3: 14,
    4: 1,
    5: 6,
    6: 19,
    8: 4,
    14: 3,
    15: 8,
    16: 12,
    17: 13,
    18: 17,
    19: 10,
    39: 5,
    56: 9,
    57: 18,
    58: 16,
    60: 11,
    62: 20,
}
"""VOC's class ids by COCO's."""
SIDE = 640
"""Longer side of a photo as the network sees it, in pixels."""
GREY = 114
STRIDES = (8, 16, 32)
CELLS = 65
"""Height and width of the score maps that are written."""
CANVAS = 513
"""Side in pixels of the square that they cover."""
MIN_CONFIDENCE = 0.1
MAX_OVERLAP = 0.6
MAX_INSTANCES = 100
MASK_SHARE = 0.6
"""Share of the mask in the target inside an area of the mask."""
MIN_AGREEMENT = 0.15
"""Probability of the mask's class below which the teacher is not asked."""
MIN_LOG = -9.2
"""Logarithm of the smallest probability that is stored, 1e-4."""


class YoloSeg:
    """YOLOv7-seg in evaluation mode.

    Args:
        state: file with a dictionary of plain tensors.
        layers: the layer table as JSON.
    """

    def __init__(self, state: Path, layers: Path):
        self.tensors = {k: v.float() for k, v in torch.load(state, weights_only=True)["state"].items()}
        table = json.loads(layers.read_text())
        self.layers = table["backbone"] + table["head"]

    def _convolution(self, x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        """A convolution with its batch normalisation and SiLU."""
        tensors = self.tensors
        gain = tensors[name + "bn.weight"] / (tensors[name + "bn.running_var"] + 1e-3).sqrt()
        weight = tensors[name + "conv.weight"] * gain[:, None, None, None]
        bias = tensors[name + "bn.bias"] - tensors[name + "bn.running_mean"] * gain
        return F.silu(F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2), inplace=True)

    @torch.inference_mode()
    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Find instances in a photo.

        Args:
            x: (1, 3, H, W) levels from 0 to 1.

        Returns:
            Candidates (N, 85 + 32): x, y, width, height, objectness, 80 classes, 32 mask coefficients; and
            mask prototypes (32, h, w).

        Raises:
            ValueError: if the layer table is not YOLOv7-seg's.
        """
        maps: list[torch.Tensor] = []
        for number, (sources, _, kind, arguments) in enumerate(self.layers):
            name = f"model.{number}."
            numbers = [sources] if isinstance(sources, int) else sources
            inputs = [x if source == -1 else maps[source] for source in numbers]
            if kind == "Conv":
                x = self._convolution(inputs[0], name, arguments[2] if len(arguments) > 2 else 1)
            elif kind == "Concat":
                x = torch.cat(inputs, 1)
            elif kind == "MP":
                x = F.max_pool2d(inputs[0], 2, 2)
            elif "Upsample" in kind:
                x = F.interpolate(inputs[0], scale_factor=2, mode="nearest")
            elif kind == "SPPCSPC":
                x = self._spatial_pyramid(inputs[0], name)
            elif kind == "ISegment":
                return self._candidates(inputs, name), self._prototypes(inputs[0], name)
            else:
                raise ValueError(
                    f"got a layer {kind!r}, which this reader does not know; wanted YOLOv7-seg's table"
                )
            maps.append(x)
        raise ValueError("the layer table ends without ISegment; wanted YOLOv7-seg's")

    def _spatial_pyramid(self, x: torch.Tensor, name: str) -> torch.Tensor:
        narrow = self._convolution(
            self._convolution(self._convolution(x, name + "cv1."), name + "cv3."), name + "cv4."
        )
        pooled = [narrow, *(F.max_pool2d(narrow, size, 1, size // 2) for size in (5, 9, 13))]
        deep = self._convolution(self._convolution(torch.cat(pooled, 1), name + "cv5."), name + "cv6.")
        return self._convolution(torch.cat((deep, self._convolution(x, name + "cv2.")), 1), name + "cv7.")

    def _prototypes(self, x: torch.Tensor, name: str) -> torch.Tensor:
        x = F.interpolate(self._convolution(x, name + "proto.cv1."), scale_factor=2, mode="nearest")
        return self._convolution(self._convolution(x, name + "proto.cv2."), name + "proto.cv3.")[0]

    def _candidates(self, maps: list[torch.Tensor], name: str) -> torch.Tensor:
        found = []
        for level, (x, stride) in enumerate(zip(maps, STRIDES, strict=True)):
            x = x + self.tensors[f"{name}ia.{level}.implicit"]
            x = F.conv2d(x, self.tensors[f"{name}m.{level}.weight"], self.tensors[f"{name}m.{level}.bias"])
            height, width = x.shape[-2:]
            x = x.view(3, -1, height, width).permute(0, 2, 3, 1)
            rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            anchors = self.tensors[name + "anchors"][level] * stride
            level_scores = x[..., :85].sigmoid()
            centre = (level_scores[..., :2] * 2 + torch.stack((columns, rows), -1) - 0.5) * stride
            size = (level_scores[..., 2:4] * 2) ** 2 * anchors.view(3, 1, 1, 2)
            found.append(torch.cat((centre, size, level_scores[..., 4:], x[..., 85:]), -1).flatten(0, 2))
        return torch.cat(found)


def without_overlaps(boxes: torch.Tensor, scores: torch.Tensor) -> list[int]:
    """Non-maximum suppression.

    Args:
        boxes: (N, 4) x1, y1, x2, y2.
        scores: (N,) confidences.

    Returns:
        Indices of the best boxes, none of which overlaps a better one by more than ``MAX_OVERLAP``.
    """
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    remaining = scores.argsort(descending=True)
    chosen: list[int] = []
    while len(remaining) and len(chosen) < MAX_INSTANCES:
        best = remaining[0]
        remaining = remaining[1:]
        chosen.append(int(best))
        top_left = torch.maximum(boxes[best, :2], boxes[remaining, :2])
        bottom_right = torch.minimum(boxes[best, 2:], boxes[remaining, 2:])
        common = (bottom_right - top_left).clamp(min=0).prod(1)
        overlap = common / (area[best] + area[remaining] - common)
        remaining = remaining[overlap <= MAX_OVERLAP]
    return chosen


class Letterbox:
    """A photo resized and centred on a grey canvas, as the network sees it.

    Args:
        photo: (H, W, 3) uint8.
    """

    def __init__(self, photo: np.ndarray):
        self.photo_size = (photo.shape[0], photo.shape[1])
        ratio = SIDE / max(self.photo_size)
        self.inner = (round(self.photo_size[0] * ratio), round(self.photo_size[1] * ratio))
        self.size = (math.ceil(self.inner[0] / 32) * 32, math.ceil(self.inner[1] / 32) * 32)
        self.top = (self.size[0] - self.inner[0]) // 2
        self.left = (self.size[1] - self.inner[1]) // 2
        canvas = np.full((*self.size, 3), GREY, np.uint8)
        resized = Image.fromarray(photo).resize(self.inner[::-1], Image.Resampling.BILINEAR)
        rows = slice(self.top, self.top + self.inner[0])
        columns = slice(self.left, self.left + self.inner[1])
        canvas[rows, columns] = np.asarray(resized)
        self.batch = torch.from_numpy(canvas).permute(2, 0, 1)[None].float() / 255
        """(1, 3, H, W) levels from 0 to 1."""

    def rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows of the photo as rows of the canvas."""
        return (rows + 0.5) * self.inner[0] / self.photo_size[0] + self.top

    def columns(self, columns: torch.Tensor) -> torch.Tensor:
        """Columns of the photo as columns of the canvas."""
        return (columns + 0.5) * self.inner[1] / self.photo_size[1] + self.left


def class_scores(
    network: YoloSeg, photo: np.ndarray, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Scores of VOC's classes at some pixels of a photo.

    Args:
        network: the instance segmentation network.
        photo: (H, W, 3) uint8.
        rows: (h,) rows of the photo.
        columns: (w,) columns of the photo.

    Returns:
        (21, h, w), with 0 for background.
    """
    letterbox = Letterbox(photo)
    candidates, prototypes = network(letterbox.batch)
    confidence, classes = (candidates[:, 4:5] * candidates[:, 5:85]).max(1)
    is_confident = confidence > MIN_CONFIDENCE
    candidates = candidates[is_confident]
    confidence = confidence[is_confident]
    classes = classes[is_confident]
    half_size = candidates[:, 2:4] / 2
    boxes = torch.cat((candidates[:, :2] - half_size, candidates[:, :2] + half_size), 1)
    apart = classes[:, None] * 8192.0  # boxes of different classes never overlap
    instances = without_overlaps(boxes + apart, confidence)
    scores = torch.zeros(len(VOC_CLASSES), len(rows), len(columns))
    y = letterbox.rows(rows)
    x = letterbox.columns(columns)
    height, width = letterbox.size
    grid_y, grid_x = torch.meshgrid(y * 2 / height - 1, x * 2 / width - 1, indexing="ij")
    grid = torch.stack((grid_x, grid_y), -1)[None].float()
    for index in instances:
        class_id = VOC_OF_COCO.get(int(classes[index]))
        if class_id is None:
            continue
        mask = torch.einsum("k,khw->hw", candidates[index, 85:], prototypes)
        mask = F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]
        x1, y1, x2, y2 = boxes[index].tolist()
        is_inside = ((y >= y1 - 2) & (y <= y2 + 2))[:, None] & ((x >= x1 - 2) & (x <= x2 + 2))
        instance_scores = mask.sigmoid() * is_inside * confidence[index]
        scores[class_id] = torch.maximum(scores[class_id], instance_scores)
    return scores


def corrected(
    teacher: torch.Tensor, labels: np.ndarray, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Targets from a teacher's probabilities and a mask, by the rules at the head of this file.

    Args:
        teacher: (21, h, w) probabilities.
        labels: (H, W) uint8 ids.
        rows: (h,) rows of the photo.
        columns: (w,) columns of the photo.

    Returns:
        (21, h, w).
    """
    y = rows.round().long()
    x = columns.round().long()
    ids = torch.from_numpy(labels.astype(np.int64))[y][:, x]
    is_void = ids == IGNORE
    half = torch.from_numpy(labels[::2, ::2].astype(np.float32))[None, None]
    is_near = (F.max_pool2d(half, 5, 1, 2) != -F.max_pool2d(-half, 5, 1, 2))[0, 0]
    half_y = (y // 2).clamp(max=is_near.shape[0] - 1)
    half_x = (x // 2).clamp(max=is_near.shape[1] - 1)
    is_near = is_near[half_y][:, half_x] | is_void
    ids = torch.where(is_void, 0, ids)
    own = F.one_hot(ids, len(VOC_CLASSES)).permute(2, 0, 1).float()
    disagrees = teacher.gather(0, ids[None]) < MIN_AGREEMENT
    inside = torch.where(disagrees, own, MASK_SHARE * own + (1 - MASK_SHARE) * teacher)
    return torch.where(is_near, teacher, inside)


def positions(length: int, filled: int) -> torch.Tensor:
    """Positions along a photo's side of the scores along one side of the map.

    Args:
        length: length of the side in pixels.
        filled: length of the part of the square that it fills.

    Returns:
        (CELLS,) pixels.
    """
    return ((torch.arange(CELLS) * 8 + 0.5) * length / filled - 0.5).clamp(0, length - 1)


def filled_part(length: int, longest: int) -> int:
    """Length of a photo's side in the square that its longest side fills."""
    return max(1, min(CANVAS, round(length * CANVAS / longest)))


def quantised_targets(
    network: YoloSeg, photo: np.ndarray, labels: np.ndarray, filled: tuple[int, int]
) -> np.ndarray:
    """Logarithms of the targets in 8 bits.

    Args:
        network: the teacher.
        photo: (H, W, 3) uint8.
        labels: (H, W) uint8 ids.
        filled: height and width of the part of the square that the photo fills.

    Returns:
        (CELLS, CELLS, 21) uint8.
    """
    rows = positions(labels.shape[0], filled[0])
    columns = positions(labels.shape[1], filled[1])
    scores = class_scores(network, photo, rows, columns)
    scores[0] = 1 - scores.max(0).values
    target = corrected(scores / scores.sum(0), labels, rows, columns)
    logs = (target / target.sum(0)).clamp(min=math.exp(MIN_LOG)).log().permute(1, 2, 0).numpy()
    return (255 - logs * 255 / MIN_LOG).round().clip(0, 255).astype(np.uint8)


def main() -> None:
    """Score every photo of a split and write one file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--layers", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="train_once")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    network = YoloSeg(options.state, options.layers)
    columns: dict[str, list[Any]] = {"ids": [], "logits_u8": [], "width_height_canvasw_canvash": []}
    for sample in tqdm(open_dataset(options.data, options.split), unit="photo", disable=None):
        labels = sample.read_labels()
        height, width = labels.shape
        filled = filled_part(height, max(height, width)), filled_part(width, max(height, width))
        targets = quantised_targets(network, sample.read_photo(), labels, filled)
        columns["ids"].append(sample.name)
        columns["logits_u8"].append(targets)
        columns["width_height_canvasw_canvash"].append((width, height, filled[1], filled[0]))
    arrays: dict[str, Any] = {name: np.array(values) for name, values in columns.items()}
    np.savez_compressed(options.out, scale=-MIN_LOG / 255, zero_point=255, **arrays)
    print(f"{options.out}: {len(columns['ids'])} photos")


if __name__ == "__main__":
    main()
