"""Which files and folders are splits, and which splits may share photos."""

import os
import subprocess
import sys

import numpy as np
import pytest

from data_folders import photos, save, text
from deeplab.datasets.check import check
from deeplab.datasets.opening import find_layout, open_dataset

HEIGHT, WIDTH = 6, 9
IDS = np.tile(np.uint8([0, 1, 2]), (HEIGHT, WIDTH // 3))


def photo(seed):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "name", ["valley", "values", "trains", "testament", "Trainer", "validity", "contest"]
)
def test_words_that_only_begin_like_a_split_are_none(tmp_path, name):
    photos(tmp_path / "images", f"{name}/a.jpg", f"{name}/b.jpg", "coast/c.jpg")
    for stem in (f"{name}/a", f"{name}/b", "coast/c"):
        save(tmp_path / f"masks/{stem}.png", IDS)
    text(tmp_path / f"{name}.txt", "notes\n")
    assert find_layout(tmp_path).splits == ("train", "val")  # by a hash of the names
    text(tmp_path / "classes.txt", "ground\ncat\ndog\n")
    assert len(open_dataset(tmp_path, "all")) == 3
    assert len(open_dataset(tmp_path, "train")) + len(open_dataset(tmp_path, "val")) == 3


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("train", True),
        ("train2017", True),
        ("train_aug", True),
        ("trainval", True),
        ("Training set", True),
        ("val", False),
        ("val2017", False),
        ("val.old", False),
        ("valid", False),
        ("validation", False),
        ("minival", False),
        ("test-dev2015", False),
        ("Testing", False),
    ],
)
def test_names_of_splits(tmp_path, name, first):
    photos(tmp_path / "images", f"{name}/a.jpg", "training-2/b.jpg")
    for stem in (f"{name}/a", "training-2/b"):
        save(tmp_path / f"masks/{stem}.png", IDS)
    expected = sorted([name, "training-2"]) if first else ["training-2", name]
    assert list(find_layout(tmp_path).splits) == expected
    assert len(open_dataset(tmp_path, name)) == 1


def test_a_coco_file_whose_name_only_begins_like_a_split_is_divided(tmp_path):
    images = [{"id": i, "file_name": f"p{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(20)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    text(tmp_path / "annotations/valley.json", content)
    photos(tmp_path / "images", *(f"p{i}.jpg" for i in range(20)))
    assert find_layout(tmp_path).splits == ("train", "val")
    assert len(open_dataset(tmp_path, "train")) == 18


@pytest.mark.parametrize(
    ("one", "other", "by_design"),
    [
        ("train", "train_aug", True),
        ("train", "trainval", True),
        ("trainval", "val", True),
        ("val", "val_small", True),
        ("val", "minival", True),
        ("cars", "cars_small", True),
        ("train", "val", False),
        ("val", "interval", False),
        ("test", "contest", False),
        ("fold_1", "fold_2", False),
        ("fold_1", "fold_10", False),
        ("a", "train", False),
        ("train", "trains", False),
    ],
)
def test_splits_that_share_a_photo(tmp_path, one, other, by_design):
    save(tmp_path / "JPEGImages/a.png", photo(0))
    save(tmp_path / "SegmentationClass/a.png", IDS)
    text(tmp_path / "classes.txt", "ground\ncat\ndog\n")
    for split in (one, other):
        text(tmp_path / f"ImageSets/Segmentation/{split}.txt", "a\n")
    kinds = [problem.kind for problem in check(tmp_path, [one, other]).problems]
    assert kinds == ([] if by_design else ["photo in two splits"])


# --- file names that are not UTF-8

LATIN = os.fsdecode(b"caf\xe9")


@pytest.fixture
def latin_root(tmp_path):
    """Three photos with masks; the name of one is not UTF-8."""
    for seed, name in enumerate(("a", LATIN, "z")):
        try:
            save(tmp_path / f"images/{name}.png", photo(seed))
        except OSError:
            pytest.skip("this file system has no names that are not UTF-8")
        save(tmp_path / f"masks/{name}.png", IDS)
    text(tmp_path / "classes.txt", "ground\ncat\ndog\n")
    return tmp_path


def test_a_list_names_a_file_that_is_not_utf8(latin_root):
    (latin_root / "val.txt").write_bytes(b"z\ncaf\xe9.png\n")
    assert [sample.name for sample in open_dataset(latin_root, "val")] == ["z", LATIN]
    (latin_root / "val.txt").write_bytes(b"z\nth\xe9.png\n")
    (problem,) = [
        problem for problem in check(latin_root, ["val"]).problems if problem.kind == "missing photo"
    ]
    assert problem.what.startswith(r"names 'th\udce9'")
    (latin_root / "val.txt").write_bytes("z\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"val.txt: not UTF-8 text; wanted one name a line"):
        open_dataset(latin_root, "val")


def run(*arguments):
    command = [sys.executable, "-m", "deeplab", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")


def test_commands_on_a_file_name_that_is_not_utf8(latin_root):
    out = latin_root / "out"
    (latin_root / "masks" / f"{LATIN}.png").write_bytes(b"no picture")
    done = run("check-data", latin_root, "--split", "all", "--out", out / "check.json")
    assert done.returncode == 1, done.stderr
    assert r"caf\udce9.png: cannot be decoded" in done.stdout
    assert r"caf\udce9.png" in (out / "check.json").read_text(encoding="utf-8")
    save(latin_root / f"masks/{LATIN}.png", IDS)
    options = [
        "--predictions",
        latin_root / "masks",
        "--report",
        out / "report",
        "--out",
        out / "scores.json",
    ]
    done = run("evaluate", "--data", latin_root, "--split", "all", *options)
    assert done.returncode == 0, done.stderr
    assert r"caf\udce9" in done.stdout
    assert r"caf\udce9" in (out / "report/index.html").read_text(encoding="utf-8")
