"""Labels that cannot be meant as they are, told or refused before training and scoring begin."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_folders import save, text
from deeplab.classes import palette
from deeplab.datasets.check import check
from deeplab.datasets.label_scan import usable
from deeplab.datasets.opening import open_dataset

HEIGHT, WIDTH = 12, 17


def ids(object_id=1, height=HEIGHT, width=WIDTH):
    """Background with an object of 20 pixels."""
    mask = np.zeros((height, width), np.uint8)
    mask[2:6, 3:8] = object_id
    return mask


def write(root, masks, classes=None, photos=None):
    """A folder of photos and masks p0, p1 …, all of them for training and for validation."""
    for number, mask in enumerate(masks):
        photo = np.full((*mask.shape[:2], 3), number, np.uint8)
        save(root / f"images/p{number}.png", photos[number] if photos else photo)
        save(root / f"masks/p{number}.png", mask)
    names = "".join(f"p{number}\n" for number in range(len(masks)))
    text(root / "lists/train.txt", names)
    text(root / "lists/val.txt", names)
    if classes:
        text(root / "classes.txt", classes)
    return root


def scanned(root, **how):
    """The samples of "train" that can be used, and what was told."""
    told = []
    binary = how.pop("binary", False)
    dataset = usable(
        open_dataset(root, "train", binary=binary), "data, split train", on_problem=told.append, **how
    )
    return dataset, told


def kinds(root, **how):
    """Kinds of the errors that the check finds."""
    return {each.kind for each in check(root, ["train"], **how).problems if each.severity == "error"}


def test_masks_of_0_and_255_are_refused_or_taken_as_they_are(tmp_path):
    write(tmp_path, [ids(255)] * 5, "background\nobject\n")
    with pytest.raises(ValueError, match=r"p0.png: holds 0 and 255 only, .* --binary .*binary = true"):
        scanned(tmp_path, is_learnt=True)
    assert "binary mask" in kinds(tmp_path)
    dataset, told = scanned(tmp_path, is_learnt=True, binary=True)
    assert dataset.class_names == ("background", "object")
    assert np.array_equal(dataset[0].read_labels(), ids(1))
    assert told == []


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "P"])
def test_binary_masks_of_any_level_and_mode(tmp_path, mode):
    write(tmp_path, [ids(128)] * 2)
    for number in range(2):
        Image.fromarray(ids(255)).convert(mode).save(tmp_path / f"masks/p{number}.png")
    dataset = open_dataset(tmp_path, "train", binary=True)
    assert dataset.class_names == ("background", "object")
    assert np.array_equal(dataset[1].read_labels(), ids(1))


def test_binary_masks_with_other_levels_are_refused(tmp_path):
    grey = ids(255)
    grey[0, 0] = 100
    write(tmp_path, [grey, ids(255)])
    with pytest.raises(ValueError, match=r"p0.png: levels 0, 100, 255; wanted 0 and one other level"):
        open_dataset(tmp_path, "train", binary=True)[0].read_labels()
    text(tmp_path / "classes.txt", "a\nb\nc\n")
    with pytest.raises(ValueError, match=r"classes.txt: got 3 classes and binary masks"):
        open_dataset(tmp_path, "train", binary=True)


@pytest.mark.parametrize("levels", [(0, 128), (0, 38, 75)])
@pytest.mark.parametrize("classes", [None, "background\nroad\ncar\n"])
def test_levels_far_apart_are_refused_with_a_fix(tmp_path, levels, classes):
    mask = ids(levels[1])
    mask[8:10, 2:5] = levels[-1]
    write(tmp_path, [mask] * 5, classes)
    with pytest.raises(ValueError, match=r"classes\.txt") as caught:
        scanned(tmp_path, is_learnt=True)
    assert ("--binary" in str(caught.value)) == (len(levels) == 2)
    assert ("VOC's colours turned grey" in str(caught.value)) == (len(levels) == 3)
    assert kinds(tmp_path) & {"levels far apart", "ids out of range"}
    lines = [f"c{level} {level} {level} {level}" for level in levels]  # the fix
    text(tmp_path / "classes.txt", "\n".join(lines))
    dataset, _ = scanned(tmp_path, is_learnt=True)
    assert np.array_equal(dataset[0].read_labels(), np.searchsorted(levels, mask))


def test_few_of_many_ids_are_no_levels_far_apart(tmp_path):
    write(tmp_path, [ids(15)] * 3)  # persons, in VOC's ids
    dataset, told = scanned(tmp_path, is_learnt=True)
    assert len(dataset.class_names) == 16
    assert "no pixel of class 1, class 2" in told[0]


def test_only_one_class_or_only_void(tmp_path):
    write(tmp_path, [ids(0)] * 3, "background\nobject\n")
    with pytest.raises(ValueError, match=r"no pixel of any class but 'background'; label the objects"):
        scanned(tmp_path, is_learnt=True)
    assert len(scanned(tmp_path)[0]) == 3  # may be scored
    assert kinds(tmp_path) == {"one class only"}
    write(tmp_path, [np.full((HEIGHT, WIDTH), 255, np.uint8)] * 3)
    with pytest.raises(ValueError, match=r"every pixel of all labels is void \(255\)"):
        scanned(tmp_path)
    assert kinds(tmp_path) == {"all void"}


def test_classes_that_never_occur_are_told(tmp_path):
    write(tmp_path, [ids(1)] * 3, "background\ncar\nbus\n")
    assert scanned(tmp_path)[1] == ["data, split train: no pixel of bus"]


def test_one_bad_mask_of_twenty_is_left_out_and_judged_alike(tmp_path):
    write(tmp_path, [ids(1)] * 20, "background\ncar\n")
    save(tmp_path / "masks/p7.png", ids(9))
    dataset, told = scanned(tmp_path, is_learnt=True)
    assert len(dataset) == 19
    assert "p7" not in [sample.name for sample in dataset]
    assert len(told) == 1
    assert "p7.png: id 9 in 20 pixels" in told[0]
    assert told[0].endswith("another photo takes its place")
    errors = [each for each in check(tmp_path, ["train"]).problems if each.severity == "error"]
    assert [Path(each.file).name for each in errors] == ["p7.png"]
    with pytest.raises(ValueError, match=r"p7.png: id 9 .*\(1 of 20 photos cannot be used"):
        scanned(tmp_path, is_strict=True)  # scores on fewer photos are other scores
    for number in range(4):
        save(tmp_path / f"masks/p{number}.png", ids(9))
    with pytest.raises(ValueError, match=r"5 of 20 photos cannot be used"):
        scanned(tmp_path)


def test_a_damaged_mask_without_class_names_does_not_stop_the_others(tmp_path):
    write(tmp_path, [ids(1)] * 20)
    (tmp_path / "masks/p3.png").write_bytes(b"no picture")
    dataset, told = scanned(tmp_path, is_learnt=True)
    assert (len(dataset), len(told)) == (19, 1)
    assert "p3.png: cannot be decoded" in told[0]


def test_sizes_and_photos_are_checked_too(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    write(tmp_path, [ids(1)] * 6, "background\ncar\n", photos=[photo] * 6)
    save(tmp_path / "images/p1.png", photo.transpose(1, 0, 2))
    (tmp_path / "images/p2.png").write_bytes((tmp_path / "images/p3.png").read_bytes()[:200])
    _, told = scanned(tmp_path)
    assert len(told) == 1
    assert "p1.png: labels of 12×17 pixels" in told[0]
    _, told = scanned(tmp_path, photos="decoded")
    assert "p2.png: damaged" in told[1]
    assert len(scanned(tmp_path, photos="none")[0]) == 6


def test_masks_without_photos_are_not_looked_at(tmp_path):
    write(tmp_path, [ids(1)] * 3)
    save(tmp_path / "masks/viz/p0.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    save(tmp_path / "masks/viz/p1.png", ids(200))
    dataset, told = scanned(tmp_path, is_learnt=True)
    assert dataset.class_names == ("class 0", "class 1")
    assert told == []
    assert kinds(tmp_path) == set()


# --- palettes


def save_palette(path, indices, colours):
    image = Image.fromarray(indices, "L")
    image.putpalette(np.asarray(colours, np.uint8).tobytes())
    image.save(path)


@pytest.fixture
def voc_root(tmp_path):
    """Six masks of dog (12) and person (15) in VOC's layout and palette."""
    names = [f"p{number}" for number in range(6)]
    for number, name in enumerate(names):
        save(tmp_path / f"JPEGImages/{name}.png", np.full((HEIGHT, WIDTH, 3), number, np.uint8))
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        mask = ids(12)
        mask[9:11, 3:8] = 15
        save_palette(tmp_path / f"SegmentationClass/{name}.png", mask, palette())
    text(tmp_path / "ImageSets/Segmentation/train.txt", "\n".join(names))
    return tmp_path


def requantise(path):
    """Save a palette mask as converters do that pass by its colours."""
    with Image.open(path) as file:
        mask = file.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    mask.save(path)


def test_masks_with_an_adaptive_palette_are_errors(voc_root):
    assert kinds(voc_root) == set()
    assert len(scanned(voc_root)[0]) == 6
    requantise(voc_root / "SegmentationClass/p2.png")
    dataset, told = scanned(voc_root)
    assert len(dataset) == 5
    assert "p2.png: palette index" in told[0]
    assert "the palette was changed; save the masks again with the original palette" in told[0]
    assert "palette" in kinds(voc_root)
    for number in range(6):
        requantise(voc_root / f"SegmentationClass/p{number}.png")
    with pytest.raises(ValueError, match=r"p0.png: palette index .* \(6 of 6 photos cannot be used"):
        scanned(voc_root)


def test_palettes_that_differ_between_files_are_errors(tmp_path):
    write(tmp_path, [ids(1)] * 4, "background\ncat\ndog\n")
    colours = np.zeros((256, 3), np.uint8)
    colours[1], colours[2] = (0, 200, 9), (200, 0, 9)
    for number in range(4):
        save_palette(tmp_path / f"masks/p{number}.png", ids(1), colours)
    assert kinds(tmp_path) == set()
    swapped = colours.copy()
    swapped[1] = colours[2]
    save_palette(tmp_path / "masks/p3.png", ids(1), swapped)
    with pytest.raises(
        ValueError, match=r"p3.png: palette index 1 is \(200, 0, 9\) here and \(0, 200, 9\) in p0.png"
    ):
        scanned(tmp_path)
    assert kinds(tmp_path) == {"palettes differ"}
    text(tmp_path / "classes.txt", "background 0 0 0\ncat 0 200 9\ndog 200 0 9\n")  # the fix: colours decide
    dataset, _ = scanned(tmp_path)
    assert np.array_equal(dataset[3].read_labels(), ids(2))
    save_palette(tmp_path / "masks/p3.png", ids(1), np.repeat(np.arange(256)[:, None], 3, 1))
    text(tmp_path / "classes.txt", "background\ncat\ndog\n")
    assert len(scanned(tmp_path)[0]) == 4  # a grey ramp says nothing


# --- the cache


def test_labels_are_read_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
    write(tmp_path, [ids(1)] * 3, "background\ncar\n")
    for file in (tmp_path / "masks").iterdir():
        os.utime(file, (1e9, 1e9))
    assert len(scanned(tmp_path)[0]) == 3
    (cache,) = (tmp_path / "cache/labels").iterdir()
    content = json.loads(cache.read_text())
    assert len(content["entries"]) == 3
    for file in (tmp_path / "masks").iterdir():
        time = file.stat().st_mtime_ns
        file.write_bytes(b"x" * file.stat().st_size)
        os.utime(file, ns=(time, time))
    assert len(scanned(tmp_path)[0]) == 3  # not opened again
    os.utime(tmp_path / "masks/p0.png", (2e9, 2e9))
    assert "p0.png: cannot be decoded" in scanned(tmp_path)[1][0]
    cache.write_text("{")
    with pytest.raises(ValueError, match="3 of 3 photos cannot be used"):
        scanned(tmp_path)
