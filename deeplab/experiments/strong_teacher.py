"""Soft targets from an instance segmentation network trained on COCO (YOLOv7-seg).

Question: What would a stronger network, corrected by the photos' own masks, teach about each photo?

Command:
    python strong_teacher.py --state yolov7seg_state.pt --layers v7.json --data PACK --split train_once \
        --out teacher.npz

Writes: OUT in the format of ``deeplab.datasets.score_file.ScoreFile``, with a score at every 8th pixel of a
photo of 513 pixels; ``teacher`` in voc-gpu.toml.

``--state`` is a dictionary of plain tensors (``torch.load`` with ``weights_only``), ``--layers`` the network's
layer table as JSON. The network itself is under the GPL and is only a teacher: nothing of it is shipped.

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
SIDE, GREY, STRIDES, CELLS = 640, 114, (8, 16, 32), 65
LEAST_CONFIDENCE, OVERLAP, MOST = 0.1, 0.6, 100
MASK_SHARE, DOUBT = 0.6, 0.15
LEAST_LOG = 9.2  # probabilities below exp(-9.2) = 1e-4 are stored as that


class YoloSeg:
    """YOLOv7-seg in evaluation mode: (1, 3, H, W) levels 0–1 to candidates (N, 85 + 32) and prototypes (32,
    h, w)."""

    def __init__(self, state: Path, layers: Path):
        self.tensors = {k: v.float() for k, v in torch.load(state, weights_only=True)["state"].items()}
        table = json.loads(layers.read_text())
        self.layers = table["backbone"] + table["head"]

    def conv(self, x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        """A convolution with its batch normalisation and SiLU."""
        get = self.tensors.__getitem__
        gain = get(name + "bn.weight") / (get(name + "bn.running_var") + 1e-3).sqrt()
        weight = get(name + "conv.weight") * gain[:, None, None, None]
        bias = get(name + "bn.bias") - get(name + "bn.running_mean") * gain
        return F.silu(F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2), inplace=True)

    @torch.inference_mode()
    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Candidates (x, y, width, height, objectness, 80 classes, 32 coefficients) and prototypes."""
        maps: list[torch.Tensor] = []
        for number, (sources, _, kind, arguments) in enumerate(self.layers):
            name = f"model.{number}."
            inputs = [x if s == -1 else maps[s] for s in ([sources] if isinstance(sources, int) else sources)]
            if kind == "Conv":
                x = self.conv(inputs[0], name, arguments[2] if len(arguments) > 2 else 1)
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
        narrow = self.conv(self.conv(self.conv(x, name + "cv1."), name + "cv3."), name + "cv4.")
        pooled = [narrow, *(F.max_pool2d(narrow, size, 1, size // 2) for size in (5, 9, 13))]
        deep = self.conv(self.conv(torch.cat(pooled, 1), name + "cv5."), name + "cv6.")
        return self.conv(torch.cat((deep, self.conv(x, name + "cv2.")), 1), name + "cv7.")

    def _prototypes(self, x: torch.Tensor, name: str) -> torch.Tensor:
        x = F.interpolate(self.conv(x, name + "proto.cv1."), scale_factor=2, mode="nearest")
        return self.conv(self.conv(x, name + "proto.cv2."), name + "proto.cv3.")[0]

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
    """Non-maximum suppression: the places of the best boxes (x1, y1, x2, y2), none overlapping a better one
    much."""
    left = scores.argsort(descending=True)
    kept: list[int] = []
    while len(left) and len(kept) < MOST:
        best, left = left[0], left[1:]
        kept.append(int(best))
        low, high = (
            torch.maximum(boxes[best, :2], boxes[left, :2]),
            torch.minimum(boxes[best, 2:], boxes[left, 2:]),
        )
        common = (high - low).clamp(min=0).prod(1)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        left = left[common / (area[best] + area[left] - common) <= OVERLAP]
    return kept


def class_scores(
    network: YoloSeg, photo: np.ndarray, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Scores (21, h, w) of VOC's classes, background still 0, at pixels of a photo (H, W, 3) uint8."""
    height, width = photo.shape[:2]
    ratio = SIDE / max(height, width)
    inner = round(height * ratio), round(width * ratio)
    whole = tuple(math.ceil(length / 32) * 32 for length in inner)
    top, left = ((a - b) // 2 for a, b in zip(whole, inner, strict=True))
    canvas = np.full((*whole, 3), GREY, np.uint8)
    small = Image.fromarray(photo).resize(inner[::-1], Image.Resampling.BILINEAR)
    canvas[top : top + inner[0], left : left + inner[1]] = np.asarray(small)
    found, prototypes = network(torch.from_numpy(canvas).permute(2, 0, 1)[None].float() / 255)
    best, classes = (found[:, 4:5] * found[:, 5:85]).max(1)
    sure = best > LEAST_CONFIDENCE
    found, best, classes = found[sure], best[sure], classes[sure]
    boxes = torch.cat((found[:, :2] - found[:, 2:4] / 2, found[:, :2] + found[:, 2:4] / 2), 1)
    kept = without_overlaps(
        boxes + classes[:, None] * 8192.0, best
    )  # boxes of different classes never overlap
    scores = torch.zeros(len(VOC_CLASSES), len(rows), len(columns))
    y = (rows + 0.5) * inner[0] / height + top
    x = (columns + 0.5) * inner[1] / width + left
    at = torch.meshgrid(y * 2 / whole[0] - 1, x * 2 / whole[1] - 1, indexing="ij")
    for place in (place for place in kept if int(classes[place]) in VOC_OF_COCO):
        mask = torch.einsum("k,khw->hw", found[place, 85:], prototypes)
        mask = F.grid_sample(mask[None, None], torch.stack(at[::-1], -1)[None].float(), align_corners=False)[
            0, 0
        ]
        x1, y1, x2, y2 = boxes[place].tolist()
        inside = ((y >= y1 - 2) & (y <= y2 + 2))[:, None] & ((x >= x1 - 2) & (x <= x2 + 2))
        known = scores[VOC_OF_COCO[int(classes[place])]]
        torch.maximum(known, mask.sigmoid() * inside * best[place], out=known)
    return scores


def corrected(
    teacher: torch.Tensor, labels: np.ndarray, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Targets (21, h, w) of a teacher's probabilities and a mask (H, W) uint8, as the head of this file
    says."""
    y, x = rows.round().long(), columns.round().long()
    ids = torch.from_numpy(labels.astype(np.int64))[y][:, x]
    void = ids == IGNORE
    half = torch.from_numpy(labels[::2, ::2].astype(np.float32))[None, None]
    near = (F.max_pool2d(half, 5, 1, 2) != -F.max_pool2d(-half, 5, 1, 2))[0, 0]
    near = near[(y // 2).clamp(max=near.shape[0] - 1)][:, (x // 2).clamp(max=near.shape[1] - 1)] | void
    ids = torch.where(void, 0, ids)
    own = F.one_hot(ids, len(VOC_CLASSES)).permute(2, 0, 1).float()
    doubted = teacher.gather(0, ids[None]) < DOUBT
    inside = torch.where(doubted, own, MASK_SHARE * own + (1 - MASK_SHARE) * teacher)
    return torch.where(near, teacher, inside)


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
    kept: dict[str, list[Any]] = {"ids": [], "logits_u8": [], "width_height_canvasw_canvash": []}
    for pair in tqdm(open_dataset(options.data, options.split), unit="photo", disable=None):
        photo, labels = pair.read_photo(), pair.read_labels()
        height, width = labels.shape
        filled = [max(1, min(513, round(length * 513 / max(height, width)))) for length in (height, width)]
        rows, columns = (
            ((torch.arange(CELLS) * 8 + 0.5) * length / part - 0.5).clamp(0, length - 1)
            for length, part in zip((height, width), filled, strict=True)
        )
        scores = class_scores(network, photo, rows, columns)
        scores[0] = 1 - scores.max(0).values
        target = corrected(scores / scores.sum(0), labels, rows, columns)
        logs = (target / target.sum(0)).clamp(min=math.exp(-LEAST_LOG)).log().permute(1, 2, 0).numpy()
        kept["ids"].append(pair.name)
        kept["logits_u8"].append((255 + logs * 255 / LEAST_LOG).round().clip(0, 255).astype(np.uint8))
        kept["width_height_canvasw_canvash"].append((width, height, filled[1], filled[0]))
    arrays: dict[str, Any] = {name: np.array(values) for name, values in kept.items()}
    np.savez_compressed(options.out, scale=LEAST_LOG / 255, zero_point=255, **arrays)
    print(f"{options.out}: {len(kept['ids'])} photos")


if __name__ == "__main__":
    main()
