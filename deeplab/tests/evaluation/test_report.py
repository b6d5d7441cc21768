import csv
import io
import json
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import deeplab
from deeplab.cli import main
from deeplab.datasets.opening import Dataset, Sample
from deeplab.evaluation.benchmark import score_folder
from deeplab.evaluation.charts import band_chart, class_chart, confusion_chart, reliability_chart
from deeplab.evaluation.report import write_report
from deeplab.evaluation.scoring import Scores
from deeplab.weights.store import Card, save_weights

pytest.importorskip(
    "matplotlib", reason="pictures of scores need matplotlib: pip install 'deeplab-crf[report]'"
)


@pytest.fixture
def voc_folder(tmp_path, photo):
    """Two samples in VOC's layout, 45×70: a block of cat with a void border."""
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (tmp_path / folder).mkdir(parents=True)
    for name, left in (("a", 20), ("b", 30)):
        labels = np.zeros((45, 70), np.uint8)
        labels[9:31, left - 1 : 51], labels[10:30, left:50] = 255, 8
        Image.fromarray(photo).save(tmp_path / f"JPEGImages/{name}.jpg")
        Image.fromarray(labels).save(tmp_path / f"SegmentationClass/{name}.png")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\nb\n")
    return tmp_path


def pixels(file):
    with Image.open(file) as image:
        return np.asarray(image)


NAME = """a<b>" '&amp;{{ 7 }}"""  # of a photo: it must be escaped in the page


class Page(HTMLParser):
    """The links of a page, texts of its pictures, its words, and the tags that are open."""

    def __init__(self, text):
        super().__init__()
        self.links, self.alternatives, self.words, self.open = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.links += [found[key] for key in ("href", "src") if key in found]
        self.alternatives += [found["alt"]] if "alt" in found else []
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_command_writes_a_report(voc_folder, network, capsys):
    save_weights(voc_folder / "net.safetensors", network, Card("deeplab-largefov", deeplab.VOC_CLASSES))
    report = voc_folder / "made" / "report"
    arguments = ["--data", str(voc_folder), "--weights", str(voc_folder / "net.safetensors"), "--boundary-f1"]
    arguments += ["--boundary-iou", "--boundary-accuracy"]
    assert main(["evaluate", *arguments, "--report", str(report), "--worst", "1"]) == 0
    assert str(report / "index.html") in capsys.readouterr().out
    files = {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()}
    tables = {"scores.json", "classes.csv", "confusion.csv", "photos.csv"}
    charts = {f"{name}.png" for name in ("class-iou", "trimap", "reliability", "confusion-network")}
    charts |= {"confusion-network-crf.png"}
    assert files == {"index.html", "worst/01.jpg"} | tables | charts
    page = Page((report / "index.html").read_text(encoding="utf-8"))
    assert set(page.links) == files - {"index.html"}
    assert page.open == []
    for figure in ("boundary F1", "mean boundary IoU", "mean boundary accuracy (mBA)"):
        assert page.words.count(figure) == 2  # the figure and what it means
    assert "boundary IoU %, network" in page.words
    numbers = json.loads((report / "scores.json").read_text())
    assert len(numbers["reliability"]["network"]) == 15
    assert sum(line["pixels"] for line in numbers["reliability"]["network + CRF"]) == np.sum(
        [pixels(voc_folder / f"SegmentationClass/{name}.png") != 255 for name in "ab"]
    )
    summary = numbers["scores"]["network"]["summary"]
    assert [name for name in summary if name.startswith("pixel accuracy, ")][-1] == "pixel accuracy, 40 px"
    with open(report / "photos.csv", newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["photo", "a", "b"]
    assert pixels(report / "worst/01.jpg").shape[1] >= 4 * 70  # photo, labels, network, network + CRF
    for name in charts:
        assert len(np.unique(pixels(report / name))) > 20, name


def test_without_matplotlib_nothing_is_started(voc_folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = voc_folder / "report"
    assert main(["evaluate", "--data", str(voc_folder), "--weights", "nowhere", "--report", str(report)]) == 1
    assert "pip install 'deeplab-crf[report]'" in capsys.readouterr().err
    assert not report.exists()


@pytest.fixture
def report(tmp_path):
    """Scores of label maps without void: no bands, no reliability, and names that must be escaped."""
    labels = np.zeros((6, 9), np.uint8)
    labels[:, 4:] = 1
    sample = Sample(NAME, tmp_path / "photo.png", tmp_path / "labels.png")
    Image.fromarray(np.full((6, 9, 3), 120, np.uint8)).save(sample.photo)
    Image.fromarray(labels).save(sample.labels)
    (tmp_path / "predictions").mkdir()
    Image.fromarray(labels).save(tmp_path / f"predictions/{NAME}.png")
    dataset = Dataset((sample,), ("ground & sky", "<tree>", "road"))
    return score_folder(tmp_path / "predictions", dataset, boundary=(1, 5), worst=3)


def test_what_cannot_be_drawn_is_left_out(report, tmp_path):
    assert band_chart(report) is None
    assert reliability_chart(report) is None
    index = write_report(tmp_path / "report", report)
    assert not (index.parent / "trimap.png").exists()
    page = Page(index.read_text(encoding="utf-8"))
    assert page.open == []
    assert "<tree>" in page.words
    assert f"{NAME}: mean IoU predictions 100.0" in page.words
    assert NAME in page.alternatives
    assert "confusion-predictions.png" in page.links
    assert write_report(tmp_path / "report", report) == index  # a second time, over the first


def test_charts_are_as_large_as_the_classes_ask_for(report):
    few = pixels(io.BytesIO(class_chart(report)))
    assert few.shape[1] > few.shape[0]
    names = tuple(f"class {place}" for place in range(30))
    many = confusion_chart(Scores(names, np.eye(30, 30, dtype=np.int64), {}))
    three = confusion_chart(report.methods["predictions"].scores)
    assert pixels(io.BytesIO(many)).shape[0] > 2 * pixels(io.BytesIO(three)).shape[0]
