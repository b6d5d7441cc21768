"""A tiny data set to train on, and what training runs leave in their folders."""

import json

import numpy as np
import torch
from PIL import Image

import deeplab


def write_cats(root, height=70, width=90):
    """Six photos of a bright cat on dark ground, four to train on and two to validate on, in VOC's layout."""
    rng = np.random.default_rng(0)
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    for number in range(6):
        labels = np.zeros((height, width), np.uint8)
        top, left = rng.integers(5, 25, size=2)
        labels[top : top + 30, left : left + 40] = 8
        labels[top : top + 30, left : left + 2] = 255
        photo = np.where(labels[:, :, None] == 8, 220, 30) + rng.integers(0, 20, size=(height, width, 3))
        Image.fromarray(photo.astype(np.uint8)).save(root / f"JPEGImages/{number}.jpg")
        Image.fromarray(labels).save(root / f"SegmentationClass/{number}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("0\n1\n2\n3\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("4\n5\n")


def weights_of(path):
    """The tensors of a weights file by name."""
    return deeplab.load(weights=path).network.state_dict()


def same_weights(one, other):
    """Whether two weights files hold exactly the same tensors."""
    first, second = weights_of(one), weights_of(other)
    return all(torch.equal(first[name], second[name]) for name in first)


def log_lines(folder):
    """The lines of a run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def validations(folder):
    """The lines of a run's log that validations wrote."""
    return [line for line in log_lines(folder) if "mIoU-7" in line]
