"""Predictions are read as the masks of the data set are."""

import numpy as np
import pytest
from PIL import Image

from data_folders import save, text
from deeplab.classes import palette
from deeplab.datasets.opening import open_dataset
from deeplab.drawing import palette_png
from deeplab.evaluation.benchmark import score_folder
from deeplab.files import write_whole

HEIGHT, WIDTH = 8, 11
COLOURS = {"dog": (250, 50, 50), "background": (0, 0, 0), "void": (9, 9, 9), "cat": (50, 200, 50)}


def ids(dog=1, cat=2):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[1:4, 1:6], mask[5:7, 2:9] = dog, cat
    return mask


def in_colours():
    """The ids 1 (dog), 2 (cat) and void in the colours of CVAT's classes."""
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[1:4, 1:6], mask[5:7, 2:9], mask[0, 0] = COLOURS["dog"], COLOURS["cat"], COLOURS["void"]
    return mask


def as_palette(mask):
    """The colours as a palette mask whose indices are CVAT's line numbers."""
    colours = np.array(list(COLOURS.values()), np.uint8)
    indices = (mask[:, :, None] == colours).all(axis=3).argmax(axis=2).astype(np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    return image


def accuracy(root, folder, split="train", **options):
    scores = score_folder(folder, open_dataset(root, split, **options)).methods["predictions"].scores
    return scores.pixel_accuracy, scores.mean_iou


@pytest.fixture
def cvat(tmp_path):
    """CVAT's export with palette masks: 33 % were right when indices were taken for ids."""
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in COLOURS.items()]
    text(tmp_path / "labelmap.txt", "\n".join(lines))
    text(tmp_path / "ImageSets/Segmentation/train.txt", "a\n")
    save(tmp_path / "JPEGImages/a.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (tmp_path / "SegmentationClass").mkdir()
    as_palette(in_colours()).save(tmp_path / "SegmentationClass/a.png")
    return tmp_path


def test_own_masks_of_cvat(cvat):
    assert open_dataset(cvat, "train").class_names == ("background", "dog", "cat")
    assert np.array_equal(open_dataset(cvat, "train")[0].read_labels()[1:], ids()[1:])
    assert accuracy(cvat, cvat / "SegmentationClass") == (1, 1)
    save(cvat / "SegmentationClass/a.png", in_colours())
    assert accuracy(cvat, cvat / "SegmentationClass") == (1, 1)


def test_predictions_of_ids_for_cvat(cvat):
    write_whole(cvat / "ours/a.png", palette_png(ids()))  # as deeplab segment writes them
    assert accuracy(cvat, cvat / "ours") == (1, 1)
    write_whole(cvat / "swapped/a.png", palette_png(ids(2, 1)))
    assert accuracy(cvat, cvat / "swapped")[0] < 0.8


def test_predictions_that_can_be_read_in_two_ways(cvat):
    colours = palette()[:4].tolist()  # in VOC's colours: background is line 1, void line 2
    names = ("dog", "background", "void", "cat")
    text(
        cvat / "labelmap.txt",
        "\n".join(f"{n}:{r},{g},{b}::" for n, (r, g, b) in zip(names, colours, strict=True)),
    )
    write_whole(cvat / "SegmentationClass/a.png", palette_png(ids(2, 1)))
    write_whole(cvat / "copied/a.png", palette_png(ids(2, 1)))
    assert accuracy(cvat, cvat / "SegmentationClass") == (1, 1)
    with pytest.raises(
        ValueError, match=r"a.png: its palette can be read in two ways.*grey PNG of class ids"
    ):
        accuracy(cvat, cvat / "copied")


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
@pytest.mark.parametrize(
    ("classes", "mask", "options"),
    [
        ("background\ndog\ncat\n", ids(), {}),
        (None, ids(), {}),
        ("0 void\n1 dog\n2 cat\n", ids(), {}),
        ("__ignore__\n_background_\ndog\ncat\n", ids(1, 255), {}),
        ("ground 7 7 7\ndog 100 100 100\n", np.where(ids() > 0, 100, 7).astype(np.uint8), {}),
        ("object 255 255 255\nground 0 0 0\n", np.where(ids() > 0, 255, 0).astype(np.uint8), {}),
        (None, np.where(ids() > 0, 255, 0).astype(np.uint8), {"binary": True}),
    ],
)
def test_own_masks_of_folders(tmp_path, classes, mask, options, ending):
    save(tmp_path / "images/train/a.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    save(tmp_path / f"masks/train/a.{ending}", mask)
    if classes:
        text(tmp_path / "classes.txt", classes)
    assert accuracy(tmp_path, tmp_path / "masks/train", **options)[0] == 1
    assert accuracy(tmp_path, tmp_path / "masks", **options)[0] == 1


def test_plain_ids_for_masks_of_grey_levels(tmp_path):
    save(tmp_path / "images/train/a.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    save(tmp_path / "masks/train/a.png", np.where(ids() > 0, 255, 0).astype(np.uint8))
    text(tmp_path / "classes.txt", "ground 0 0 0\nobject 255 255 255\n")
    save(tmp_path / "predictions/a.png", (ids() > 0).astype(np.uint8))
    assert accuracy(tmp_path, tmp_path / "predictions") == (1, 1)


def test_predictions_with_a_changed_palette_are_refused(tmp_path):
    save(tmp_path / "JPEGImages/a.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    text(tmp_path / "ImageSets/Segmentation/train.txt", "a\n")
    write_whole(tmp_path / "SegmentationClass/a.png", palette_png(ids(12, 8)))
    assert accuracy(tmp_path, tmp_path / "SegmentationClass") == (1, 1)
    with Image.open(tmp_path / "SegmentationClass/a.png") as file:
        changed = file.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    (tmp_path / "predictions").mkdir()
    changed.save(tmp_path / "predictions/a.png")
    with pytest.raises(ValueError, match=r"predictions/a.png: palette index .*the palette was changed"):
        accuracy(tmp_path, tmp_path / "predictions")
