import csv
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import densecrf
from deeplab.classes import VOC_CLASSES
from deeplab.cli import main
from deeplab.datasets.opening import Dataset, Sample
from deeplab.evaluation.benchmark import NETWORK, REFINED, require_same_classes, score, score_folder
from deeplab.evaluation.boundary_f1 import boundary_f1
from deeplab.evaluation.score_tables import classes, confusion, figures, headline, markdown, photos, terminal
from deeplab.model.segmentation import Segmentation
from deeplab.tables import comma_separated

NAMES = ("sky", "tree", "road")


class Model:
    """Says class 1 everywhere with confidence 0.6; its CRF says class 0 with 0.9 on the left half."""

    class_names = NAMES
    crf_params = densecrf.Params()

    def segment(self, photo, *, crf, **augmentation):
        assert crf is False
        height, width = photo.shape[:2]
        shares = np.broadcast_to(np.float32([0.3, 0.6, 0.1])[:, None, None], (3, height, width))
        return Segmentation(photo, shares, NAMES, {"network": 0.5})

    def refine(self, result):
        shares = result.probabilities.copy()
        shares[:, :, : shares.shape[2] // 2] = np.float32([0.9, 0.06, 0.04])[:, None, None]
        return Segmentation(result.photo, shares, NAMES, result.seconds | {"CRF": 0.25})


@pytest.fixture
def dataset(tmp_path):
    """Two photos of 6×8: of "a" the left half is class 0, of "b" the left quarter; the rest is 1, with some
    void."""
    samples = []
    for name, edge in (("a", 4), ("b", 2)):
        labels = np.ones((6, 8), np.uint8)
        labels[:, :edge] = 0
        labels[5, 7] = 255
        sample = Sample(name, tmp_path / f"{name}_photo.png", tmp_path / f"{name}_labels.png")
        Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(sample.photo)
        Image.fromarray(labels).save(sample.labels)
        samples.append(sample)
    return Dataset(tuple(samples), NAMES)


def test_both_methods_by_hand(dataset):
    report = score(Model(), dataset, boundary=(1, 3), boundary_f1=True, worst=1)
    plain, refined = report.methods[NETWORK].scores, report.methods[REFINED].scores
    assert plain.confusion.tolist() == [[0, 36, 0], [0, 58, 0], [0, 0, 0]]
    assert refined.confusion.tolist() == [[36, 0, 0], [12, 46, 0], [0, 0, 0]]
    assert plain.recall["tree"] == 1
    assert refined.mean_recall == pytest.approx((1 + 46 / 58) / 2)
    assert refined.frequency_weighted_iou == pytest.approx((36 * 36 / 48 + 58 * 46 / 58) / 94)
    assert refined.mean_iou_with("counted as zero") == pytest.approx((36 / 48 + 46 / 58) / 3)
    assert refined.classes_scored == 2
    assert refined.boundary(1).confusion.tolist() == [[0, 0, 0], [0, 6, 0], [0, 0, 0]]
    # Confidence 0.6 is right on 58 of 94; then 0.9 on 36 of the 48 left ones, and 0.6 on all of the 46
    # others.
    assert report.methods[NETWORK].reliability.error == pytest.approx(abs(58 / 94 - 0.6), abs=1e-6)
    assert report.methods[REFINED].reliability.error == pytest.approx(
        (48 * abs(36 / 48 - 0.9) + 46 * (1 - 0.6)) / 94
    )
    expected = [boundary_f1(sample.read_labels(), np.array([[0] * 4 + [1] * 4] * 6), 3) for sample in dataset]
    assert refined.boundary_f1 == pytest.approx(np.mean([np.nanmean(row) for row in expected]))
    assert report.photos[0].mean_iou == {NETWORK: pytest.approx(23 / 47 / 2), REFINED: 1}
    assert [shown.sample.name for shown in report.worst] == ["b"]
    assert report.worst[0].labels[REFINED].tolist() == [[0] * 4 + [1] * 4] * 6
    assert report.about["median seconds a photo"]["CRF"] == 0.25


def test_the_worst_photos_come_worst_first(dataset):
    report = score(Model(), dataset, worst=5)
    assert [shown.sample.name for shown in report.worst] == ["b", "a"]
    assert score(Model(), dataset).worst == ()
    rows = photos(report, worst=1)
    assert [row[0] for row in rows] == ["photo", "b"]


def test_rows_are_percent_and_say_what_is_missing(dataset):
    report = score(Model(), dataset, boundary=(1,), boundary_f1=True)
    rows = {row[0]: row[1:] for row in headline(report)}
    assert rows[""] == ["network", "network + CRF"]
    assert rows["pixel accuracy"] == ["61.70", "87.23"]
    assert rows["classes in the mean"] == ["2", "2"]
    assert rows["expected calibration error"][0] == "1.70"
    assert "mIoU-3, 1 px" in rows
    assert not any(name.startswith("mIoU-7") for name in rows)
    table = classes(report)
    assert table[0] == [
        "class",
        "share of labels %",
        *(f"{m} %, {w}" for m in ("IoU", "recall") for w in report.methods),
    ]
    assert table[1] == ["sky", "38.30", "0.00", "75.00", "0.00", "100.00"]
    assert table[3] == ["road", "0.00", "n/a", "n/a", "n/a", "n/a"]
    assert comma_separated(table).decode().splitlines()[3] == "road,0.00,,,,"
    assert confusion(report)[4] == ["network + CRF", "sky", "36", "0", "0"]
    assert "| boundary F1 |" in markdown(report)
    text = io.StringIO()
    Console(file=text, width=100).print(terminal(report))
    assert "the worst photos" in text.getvalue()


def test_figures_are_json_without_nan(dataset):
    whole = Dataset(dataset.samples, ("sky", "tree"))
    for sample in whole:  # no void: nothing lies in a band
        Image.fromarray(np.ones((6, 8), np.uint8)).save(sample.labels)
    model = Model()
    model.class_names = whole.class_names
    numbers = json.loads(json.dumps(figures(score(model, whole, crf=False, boundary=(2,))), allow_nan=False))
    assert numbers["scores"]["network"]["summary"]["mIoU-2, 2 px"] is None
    assert numbers["scores"]["network"]["iou"] == {"sky": None, "tree": 100}
    assert numbers["crf"] is None
    assert numbers["photos"] == 2


def test_short_tables_show_some_of_many_bands(dataset):
    report = score(Model(), dataset, boundary=range(1, 41))
    shown = [
        row[0]
        for row in headline(report, short=True)
        if row[0].startswith("mIoU-3, ") and row[0].endswith("px")
    ]
    assert shown == [f"mIoU-3, {width} px" for width in (1, 11, 21, 30, 40)]
    assert len(headline(report)) == len(headline(report, short=True)) + 2 * 35


def test_other_classes_are_refused(dataset):
    with pytest.raises(
        ValueError, match=r"weights have 3 classes, the data 2.*id 2 is 'road' in the weights and nothing"
    ):
        score(Model(), Dataset(dataset.samples, NAMES[:2]))
    with pytest.raises(
        ValueError, match="id 0 is 'sky' in the weights and 'tree' in the data; id 1 is 'tree'"
    ):
        require_same_classes(NAMES, ("tree", "sky", "road"))
    with pytest.raises(ValueError, match="and 18 more ids differ; wanted weights trained for"):
        require_same_classes(VOC_CLASSES, (*VOC_CLASSES[::-1][:10], "other"))
    require_same_classes(NAMES, list(NAMES))


def test_a_misfit_names_the_photo(dataset):
    Image.fromarray(np.full((6, 8), 9, np.uint8)).save(dataset[1].labels)
    with pytest.raises(ValueError, match="b: got id 9 in the labels, wanted 0 to 2"):
        score(Model(), dataset)


def saved(folder, dataset, **change):
    folder.mkdir(exist_ok=True)
    for sample in dataset:
        labels = sample.read_labels()
        Image.fromarray(np.where(labels == 255, 0, labels).astype(np.uint8)).save(
            folder / f"{sample.name}.png"
        )
    for name, image in change.items():
        image.save(folder / f"{name}.png")
    return folder


def test_label_maps_of_another_program(dataset, tmp_path):
    report = score_folder(
        saved(tmp_path / "predictions", dataset),
        dataset,
        boundary=(1,),
        boundary_f1=True,
        boundary_iou=True,
        boundary_accuracy=True,
        worst=2,
    )
    assert list(report.methods) == ["predictions"]
    assert report.methods["predictions"].scores.mean_iou == 1
    assert report.methods["predictions"].scores.boundary_f1 > 0.9
    figures = {row[0]: row[1] for row in headline(report)}
    assert figures["mean boundary IoU"] == figures["mean boundary accuracy (mBA)"] == "100.00"
    assert report.methods["predictions"].reliability is None
    assert "expected calibration error" not in {row[0] for row in headline(report)}


def test_missing_label_maps_are_counted_and_named(dataset, tmp_path):
    many = Dataset(tuple(SimpleNamespace(name=name) for name in "abcdef"), NAMES)
    folder = saved(tmp_path / "predictions", dataset)
    with pytest.raises(FileNotFoundError, match=r"4 of 6 predictions are missing: c.png, d.png, e.png …$"):
        score_folder(folder, many)
    (folder / "a.png").rename(folder / "a_pred.png")
    (folder / "b.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"2 of 2 predictions are missing: a.png, b.png; there is, .*a_pred.png"
    ):
        score_folder(folder, dataset)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        score_folder(tmp_path / "nowhere", dataset)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("L", (6, 8)), r"b.png: got labels \(6, 8\) and a prediction \(8, 6\), wanted one size"),
        (Image.new("L", (8, 6), 3), "b.png: got id 3 in the prediction, wanted 0 to 2"),
        (Image.new("RGB", (8, 6)), "b.png: got a RGB mask"),
    ],
)
def test_label_maps_that_do_not_fit_are_named(dataset, tmp_path, image, message):
    with pytest.raises(ValueError, match=message):
        score_folder(saved(tmp_path / "predictions", dataset, b=image), dataset)


@pytest.fixture
def voc_folder(tmp_path, photo):
    """One sample in VOC's layout, 45×70, and the same as another program's prediction."""
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass", "predictions"):
        (tmp_path / folder).mkdir(parents=True)
    labels = np.zeros((45, 70), np.uint8)
    labels[9:31, 19:51], labels[10:30, 20:50] = 255, 8
    Image.fromarray(photo).save(tmp_path / "JPEGImages/a.jpg")
    Image.fromarray(labels).save(tmp_path / "SegmentationClass/a.png")
    Image.fromarray(np.where(labels == 255, 8, labels)).save(tmp_path / "predictions/a.png")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\n")
    return tmp_path


def test_command_scores_label_maps(voc_folder, capsys):
    out = voc_folder / "scores.json"
    arguments = ["evaluate", "--data", str(voc_folder), "--predictions", str(voc_folder / "predictions")]
    assert main([*arguments, "--out", str(out), "--boundary", "1,5", "3", "7-8", "--boundary-f1"]) == 0
    summary = json.loads(out.read_text())["scores"]["predictions"]["summary"]
    assert [name for name in summary if name.startswith("mIoU-21, ")] == [
        f"mIoU-21, {n} px" for n in (1, 3, 5, 7, 8)
    ]
    assert summary["pixel accuracy"] == 100
    assert "boundary F1" in capsys.readouterr().out
    (voc_folder / "predictions/a.png").unlink()
    assert main(arguments) == 1
    assert "1 of 1 predictions are missing: a.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--boundary", "0"], "got --boundary '0', wanted whole pixels"),
        (["--boundary", "5,x"], "got --boundary 'x', wanted whole pixels"),
        (["--boundary", "5-1"], "got --boundary '5-1', wanted whole pixels"),
        (["--mirror"], "--predictions scores files"),
        (["--device", "cpu"], "--predictions scores files"),
        (["--worst", "-2"], "got --worst -2"),
        (["--out", "."], "wanted the name of a JSON file"),
        (["--report", "{file}"], "which is a file; wanted a folder"),
    ],
)
def test_command_refuses_invalid_options(voc_folder, capsys, extra, message):
    file = voc_folder / "ImageSets/Segmentation/val.txt"
    extra = [word.format(file=file) for word in extra]
    assert (
        main(
            ["evaluate", "--data", str(voc_folder), "--predictions", str(voc_folder / "predictions"), *extra]
        )
        == 1
    )
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.count("\n") == 1


def test_csv_reads_back(dataset):
    report = score(Model(), dataset)
    rows = list(csv.reader(io.StringIO(comma_separated(photos(report)).decode())))
    assert rows[1][0] == "a"
    assert float(rows[1][2]) == 100
