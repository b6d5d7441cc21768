"""Damaged input of every reader ends in one clear line or in labels, never in anything else."""

import json
import random

import numpy as np
import pytest

from data_folders import save, text
from deeplab.datasets.class_files import read_classes
from deeplab.datasets.opening import open_dataset

HEIGHT, WIDTH = 5, 8
COUNT = 300
TOKENS = [
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"-1", b"1e999", b"NaN", b"true", b'""', b"0"),
    *(b"..", b"/", b"\\", b"\0", b"\xff", "é".encode(), b"\n", b"#", b";", b"999999999999", b"id", b"255"),
]
SQUARE = [[0, 0], [3, 0], [3, 3], [0, 3]]
LABELME = {
    "shapes": [
        {"label": "cat", "points": SQUARE, "shape_type": "polygon"},
        {"label": "dog", "points": [[1, 1], [4, 4]], "shape_type": "rectangle"},
        {"label": "dog", "points": [[4, 2], [5, 2]], "shape_type": "circle"},
    ],
    "imageHeight": HEIGHT,
    "imageWidth": WIDTH,
}
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 3, 0, 3, 3]], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 2, "segmentation": {"size": [5, 8], "counts": [4, 5, 31]}},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}


def mutated(content, rng):
    """A copy with up to three bytes, tokens or stretches changed."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            data[at:at] = rng.choice(TOKENS)
        elif kind == 1:
            del data[at : at + rng.randint(1, 12)]
        elif kind == 2:
            data[at : at + 1] = bytes([rng.randrange(256)])
        else:
            data[at:at] = data[at : at + rng.randint(1, 30)]
    return bytes(data)


def check_outcome(work, root):
    """Run a reader; an error must be one line that says more than its type."""
    try:
        work()
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        assert "\n" not in message
        assert str(root) in message
        assert len(message) > len(str(root)) + 10


def read_all(root):
    for sample in open_dataset(root, "all"):
        labels = sample.read_labels()
        assert labels.dtype == np.uint8
        assert labels.ndim == 2
        assert root in sample.photo.parents  # nothing outside the folder


@pytest.mark.parametrize(
    ("file", "content"), [("a.json", LABELME), ("annotations/all.json", COCO)], ids=["labelme", "COCO"]
)
def test_damaged_annotations(tmp_path, file, content):
    save(tmp_path / "outside.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    root = tmp_path / "data"
    save(root / "a.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    text(root / file, content)
    read_all(root)
    original = json.dumps(content).encode()
    for seed in range(COUNT):
        (root / file).write_bytes(mutated(original, random.Random(seed)))
        check_outcome(lambda: read_all(root), root)


@pytest.mark.parametrize(
    "content",
    [
        "0 background\n1 traffic light\n2 road\n",
        "background:0,0,0::\ntraffic light:10,20,30::\n",
        "name,r,g,b\nbackground,0,0,0\nroad,1,2,3\n",
        "background #000000\nroad (1,2,3)\n",
    ],
)
def test_damaged_class_files(tmp_path, content):
    for seed in range(COUNT):
        (tmp_path / "classes.txt").write_bytes(mutated(content.encode(), random.Random(seed)))
        check_outcome(lambda: read_classes(tmp_path), tmp_path)


@pytest.mark.parametrize("mode", ["grey", "palette", "tiff"])
def test_damaged_masks(tmp_path, mode):
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[1:3, 2:5] = 1
    name = f"masks/a.{'tif' if mode == 'tiff' else 'png'}"
    save(tmp_path / "images/a.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    save(tmp_path / name, ids)
    text(tmp_path / "classes.txt", "a 0 0 0\nb 1 1 1\n" if mode == "palette" else "a\nb\n")
    original = (tmp_path / name).read_bytes()
    for seed in range(COUNT):
        (tmp_path / name).write_bytes(mutated(original, random.Random(seed)))
        check_outcome(lambda: read_all(tmp_path), tmp_path)
