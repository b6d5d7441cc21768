import json

import numpy as np
import pytest
from PIL import Image

import deeplab
from deeplab.cli import main
from deeplab.datasets.opening import Dataset, voc
from deeplab.evaluation.boundary_iou import boundary_overlap
from deeplab.evaluation.scoring import Scorer
from deeplab.weights.store import Card, save_weights


@pytest.fixture
def voc_folder(tmp_path, photo):
    """Two samples in VOC's layout: background with a block of cat and a void border around it."""
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass", "SegmentationClassAug"):
        (tmp_path / folder).mkdir(parents=True)
    labels = np.zeros((45, 70), np.uint8)
    labels[9:31, 19:51], labels[10:30, 20:50] = 255, 8
    for name, folder in (("a", "SegmentationClass"), ("b", "SegmentationClassAug")):
        Image.fromarray(photo).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        mask = Image.fromarray(labels)
        mask.putpalette(deeplab.classes.palette().tobytes())
        mask.save(tmp_path / folder / f"{name}.png")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\nb\n")
    return tmp_path


def test_scores_by_hand(voc_folder):
    def all_background(photo):
        return np.zeros(photo.shape[:2], np.uint8)

    scores = deeplab.evaluate(all_background, voc(voc_folder, "val"), boundary=(1, 3))
    counted = 45 * 70 - (22 * 32 - 600)
    assert scores.pixel_accuracy == pytest.approx(1 - 600 / counted)
    assert scores.iou["background"] == pytest.approx(1 - 600 / counted)
    assert scores.iou["cat"] == 0
    assert np.isnan(scores.iou["dog"])
    assert scores.mean_iou == pytest.approx((1 - 600 / counted) / 2)
    assert scores.mean_iou_of(["cat"]) == 0
    inner, outer = 600 - 18 * 28, 24 * 34 - 22 * 32  # one pixel to either side of the border
    assert scores.boundary(1).pixel_accuracy == pytest.approx(outer / (inner + outer))
    assert scores.summary()["pixel accuracy"] == round(100 * (1 - 600 / counted), 2)
    with pytest.raises(ValueError, match=r"wanted one of those scored: \[1, 3\]"):
        scores.boundary(2)


def test_further_measures_by_hand(voc_folder):
    def upper_half_cat(photo):
        ids = np.zeros(photo.shape[:2], np.uint8)
        ids[:20] = 8
        return ids

    scores = deeplab.evaluate(upper_half_cat, voc(voc_folder, "val"), boundary_f1=True)
    cat, ring = 20 * 30, 22 * 32 - 20 * 30
    above, upper_ring = 20 * 70, 11 * 32 - 10 * 30  # pixels called cat, and those of them that are void
    false = above - cat // 2 - upper_ring
    assert scores.recall["cat"] == pytest.approx(1 / 2)
    background = 45 * 70 - cat - ring
    assert scores.mean_recall == pytest.approx((1 / 2 + (background - false) / background) / 2)
    iou = {"cat": cat / 2 / (cat + false), "background": (background - false) / (background + cat / 2)}
    assert scores.mean_iou == pytest.approx(sum(iou.values()) / 2)
    assert scores.mean_iou_with("counted as zero") == pytest.approx(sum(iou.values()) / 21)
    assert scores.classes_scored == 2
    weighted = (cat * iou["cat"] + background * iou["background"]) / (cat + background)
    assert scores.frequency_weighted_iou == pytest.approx(weighted)
    assert 0 < scores.boundary_f1 < 1
    with pytest.raises(ValueError, match="ask for it with boundary_f1=True"):
        scores.boundary(10).boundary_f1  # noqa: B018
    with pytest.raises(ValueError, match=r"got classes \['unicorn'\], wanted some of background"):
        scores.mean_iou_of(["cat", "unicorn"])


def test_names_are_those_of_the_data_set(voc_folder):
    samples = tuple(voc(voc_folder, "val"))
    names = (*(f"class {place}" for place in range(8)), "cat")
    scores = deeplab.evaluate(
        lambda photo: np.zeros(photo.shape[:2], np.uint8), Dataset(samples, names), boundary=()
    )
    assert scores.class_names == names
    assert set(scores.summary()) == {"mIoU-9", "pixel accuracy"}  # no mIoU-7 without its seven classes
    assert (
        deeplab.evaluate(lambda photo: np.zeros(photo.shape[:2], int), samples).class_names
        == deeplab.VOC_CLASSES
    )


def test_a_photo_added_gives_its_own_scores():
    scorer = Scorer(("sky", "tree"), (1,), boundary_f1=True)
    alone = scorer.add(np.array([[0, 0, 255], [1, 1, 255]]), np.array([[0, 1, 0], [1, 1, 1]]))
    assert alone.confusion.tolist() == [[1, 1], [0, 2]]
    assert alone.boundary(1).confusion.tolist() == [[0, 1], [0, 1]]
    same = scorer.add(np.array([[1, 1, 1, 0]]), np.array([[1, 1, 1, 0]]))
    assert same.mean_iou == 1
    assert same.boundary_f1 == 1
    assert scorer.scores().confusion.tolist() == [[2, 1], [0, 5]]
    assert scorer.scores().boundary_f1 == pytest.approx((alone.boundary_f1 + 1) / 2)
    assert np.isnan(Scorer(("sky", "tree")).scores().mean_iou)


def test_boundary_iou_and_accuracy_of_a_set():
    truth = np.zeros((9, 12), int)
    truth[2:7, 3:9] = 1
    guess = np.roll(truth, 1, axis=1)
    scorer = Scorer(("sky", "tree", "cow"), (), boundary_iou=True, boundary_accuracy=True)
    alone = scorer.add(truth, guess)
    perfect = scorer.add(truth, truth)
    assert perfect.mean_boundary_iou == perfect.mean_boundary_accuracy == 1
    overlap = boundary_overlap(truth, guess, 3) + boundary_overlap(truth, truth, 3)
    scores = scorer.scores()
    assert scores.boundary_iou["tree"] == pytest.approx(overlap[1, 0] / overlap[1, 1])
    assert np.isnan(scores.boundary_iou["cow"])
    assert scores.mean_boundary_iou == pytest.approx((overlap[:2, 0] / overlap[:2, 1]).mean())
    assert scores.mean_boundary_accuracy == pytest.approx((alone.mean_boundary_accuracy + 1) / 2)
    with pytest.raises(ValueError, match="ask for it with boundary_iou=True"):
        Scorer(("sky",)).scores().boundary_iou  # noqa: B018
    with pytest.raises(ValueError, match="ask for it with boundary_accuracy=True"):
        Scorer(("sky",)).scores().mean_boundary_accuracy  # noqa: B018


def test_a_prediction_that_does_not_fit_names_the_photo(voc_folder):
    with pytest.raises(ValueError, match="a: got labels"):
        deeplab.evaluate(lambda photo: np.zeros((3, 4), int), voc(voc_folder, "val"))


def test_missing_files_are_named(voc_folder):
    with pytest.raises(FileNotFoundError, match=r"no list .*test.txt; lists there: val"):
        voc(voc_folder, "test")
    (voc_folder / "SegmentationClassAug/b.png").unlink()
    with pytest.raises(FileNotFoundError, match="names 'b', but there is no"):
        voc(voc_folder, "val")


def test_colour_masks_are_refused(voc_folder):
    Image.new("RGB", (70, 45)).save(voc_folder / "SegmentationClass/a.png")
    with pytest.raises(ValueError, match="got a RGB mask"):
        voc(voc_folder, "val")[0].read_labels()


def test_command_writes_both_rows(voc_folder, network, capsys):
    save_weights(voc_folder / "net.safetensors", network, Card("deeplab-largefov", deeplab.VOC_CLASSES))
    out = voc_folder / "scores.json"
    arguments = [
        "--data",
        str(voc_folder),
        "--weights",
        str(voc_folder / "net.safetensors"),
        "--out",
        str(out),
    ]
    assert main(["evaluate", *arguments]) == 0
    report = json.loads(out.read_text())
    assert list(report["scores"]) == ["network", "network + CRF"]
    assert report["photos"] == 2
    assert set(report["scores"]["network"]["summary"]) == {
        f"{name}{band}" for name in ("mIoU-7", "mIoU-21", "pixel accuracy") for band in ("", ", 10 px")
    }
    assert "| mIoU-7 |" in out.with_suffix(".md").read_text()
    assert "mIoU-21" in capsys.readouterr().out
    assert main(["evaluate", "--data", str(voc_folder / "nowhere")]) == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith("deeplab: error:")
    assert "nowhere" in complaint
