"""Nothing is read or written outside the given folders, whatever names the files in them contain."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import deeplab.model.loading
from data_folders import photos, save, text
from deeplab.bulk.inputs import plan
from deeplab.bulk.manifest import Manifest
from deeplab.cli import main
from deeplab.crf_search.score_cache import CachedScores
from deeplab.datasets.opening import Dataset, Sample, find_layout, open_dataset
from deeplab.evaluation.predictions import prediction_files
from deeplab.files import write_whole
from deeplab.paths import is_below, path_below

ESCAPES = (
    "../secret",
    "a/../../secret",
    "/etc/secret",
    "..",
    "C:\\secret",
    "\\\\server\\secret",
    "a\\..\\..\\b",
    "a\0b",
)
PHOTO = np.full((30, 44, 3), 90, np.uint8)
IDS = np.tile(np.uint8([0, 1]), (30, 22))


@pytest.mark.parametrize("name", ["", *ESCAPES])
def test_names_that_lead_out_of_a_folder(name, tmp_path):
    assert not is_below(name)
    with pytest.raises(ValueError, match=r"leads out of .*; wanted a path in it, without"):
        path_below(tmp_path, name)


@pytest.mark.parametrize("name", ["a", "a.jpg", "sub/deep/a..b.jpg", "..a", "ä b.png", "a\\b.jpg", "./a"])
def test_names_that_stay_in_a_folder(name, tmp_path):
    assert path_below(tmp_path, name) == tmp_path / name


def coco_with(root, *names):
    images = [{"id": i, "file_name": name, "height": 30, "width": 44} for i, name in enumerate(names)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    text(root / "annotations/instances_val.json", content)
    photos(root / "images", "a.jpg")


@pytest.mark.parametrize("name", ["../../secret.jpg", "{outside}/secret.jpg", "..\\secret.jpg"])
def test_coco_files_cannot_name_files_elsewhere(tmp_path, name, capsys):
    name = name.format(outside=tmp_path)
    coco_with(tmp_path / "data", "a.jpg", name)
    photos(tmp_path, "secret.jpg")
    listing = find_layout(tmp_path / "data").listing("val")
    assert [sample.name for sample in listing.samples] == ["a"]
    (problem,) = listing.problems
    assert problem.kind == "outside the folder"
    assert repr(name) in problem.what
    with pytest.raises(ValueError, match="leads out of the folder; name photos by their path in it"):
        open_dataset(tmp_path / "data", "val")
    assert main(["check-data", str(tmp_path / "data")]) == 1
    assert "leads out of the folder" in " ".join(capsys.readouterr().out.split())


def test_search_writes_only_below_its_folder(tmp_path, model, monkeypatch, capsys):
    monkeypatch.setattr(deeplab.model.loading, "load", lambda **_: model)
    save(tmp_path / "secret.jpg", PHOTO)
    coco_with(tmp_path / "data", "../../secret.jpg")
    assert main(["search", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 1
    assert "leads out of the folder" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"secret.jpg", "data", "out"}
    assert not list(tmp_path.rglob("*.npz"))


def test_labelme_takes_the_photo_beside_the_file(tmp_path):
    photos(tmp_path, "secret.jpg", "data/a.jpg")
    content = {
        "shapes": [],
        "imagePath": "../secret.jpg",
        "imageHeight": 30,
        "imageWidth": 44,
        "imageData": None,
    }
    content["shapes"] = [{"label": "cat", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}]
    text(tmp_path / "data/a.json", content)
    (sample,) = open_dataset(tmp_path / "data", "all")
    assert sample.photo == tmp_path / "data/a.jpg"


@pytest.mark.parametrize("layout", ["VOC", "CVAT", "folders"])
@pytest.mark.parametrize("name", ["../../secret", "{outside}/secret.jpg", "images/../../secret.jpg"])
def test_lists_cannot_name_files_elsewhere(tmp_path, layout, name):
    root, name = tmp_path / "data", name.format(outside=tmp_path)
    here, there, lists = (
        ("images", "masks", "lists")
        if layout == "folders"
        else ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
    )
    save(root / here / "a.jpg", PHOTO)
    save(root / there / "a.png", IDS)
    save(tmp_path / "secret.jpg", PHOTO)
    save(tmp_path / "secret.png", IDS)
    split = "default" if layout == "CVAT" else "val"
    text(root / lists / f"{split}.txt", f"a\n{name}\n")
    if layout == "CVAT":
        text(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,1,1::\n")
    listing = find_layout(root).listing(split)
    assert [sample.photo for sample in listing.samples] == [root / here / "a.jpg"]
    with pytest.raises(FileNotFoundError, match="secret"):
        open_dataset(root, split)


@pytest.mark.parametrize("split", ["../lists/val", "../../val", "images/../..", "/etc"])
def test_a_split_is_not_a_path(tmp_path, split):
    save(tmp_path / "data/images/a.jpg", PHOTO)
    save(tmp_path / "data/masks/a.png", IDS)
    text(tmp_path / "data/lists/val.txt", "a\n")
    text(tmp_path / "val.txt", "a\n")
    with pytest.raises(FileNotFoundError, match="no split"):
        open_dataset(tmp_path / "data", split)


@pytest.mark.parametrize("name", ["../../secret", "/etc/secret"])
def test_score_caches_stay_in_their_folder(tmp_path, model, name):
    save(tmp_path / "a.jpg", PHOTO)
    sample = Sample(name, tmp_path / "a.jpg", tmp_path / "a.png")
    dataset = Dataset((sample,), model.class_names)
    cache = CachedScores(model, dataset, "val", tmp_path / "cache")
    for use in (lambda: cache.fill(dataset), lambda: cache.probabilities(sample, (30, 44))):
        with pytest.raises(ValueError, match="leads out of"):
            use()
    assert not list(tmp_path.rglob("*.npz"))


def test_predictions_are_read_from_their_folder_only(tmp_path):
    save(tmp_path / "predictions/a.png", IDS)
    save(tmp_path / "secret.png", IDS)
    for name in ("../secret", str(tmp_path / "secret")):
        with pytest.raises(ValueError, match=r"leads out of .*predictions"):
            prediction_files(tmp_path / "predictions", ["a", name])


def test_results_of_patterns_stay_in_the_results_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/sub/b.jpg", "photos/c.jpg", "d.jpg"):
        save(tmp_path / name, PHOTO)
    jobs, _ = plan(
        [Path("photos/*/../c.jpg"), Path("photos/*/../../d.jpg"), Path("photos/*/b.jpg")], Path("out")
    )
    targets = {job.target.as_posix() for job in jobs}
    assert targets == {"out/c", "out/d", "out/sub/b"}


def test_names_in_a_manifest_are_not_paths(tmp_path):
    save(tmp_path / "photos/a.jpg", PHOTO)
    (job,), _ = plan([tmp_path / "photos"], tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    row = {"name": "../secret", "photo": "/etc/passwd", "files": ["../secret.png"], "time": 1.0, "shares": {}}
    (tmp_path / "out/manifest-1-of-2.jsonl").write_text(json.dumps(row) + "\n")
    with Manifest(tmp_path / "out", {}) as manifest:
        assert not manifest.finished(job, [""])
        assert list(manifest.rows([job])) == []


def test_reports_number_their_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    from deeplab.evaluation.benchmark import score_folder
    from deeplab.evaluation.report import write_report

    save(tmp_path / "a.jpg", PHOTO)
    save(tmp_path / "a.png", IDS)
    save(tmp_path / "predictions/a.png", IDS)
    report = score_folder(
        tmp_path / "predictions",
        Dataset((Sample("a", tmp_path / "a.jpg", tmp_path / "a.png"),), ("ground", "cat")),
        boundary=(3,),
        boundary_f1=False,
        worst=1,
        progress=False,
    )
    shown = report.worst[0]
    report = replace(report, worst=(replace(shown, score=replace(shown.score, name="../../secret")),))
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "report")}
    write_report(tmp_path / "report", report)
    assert (tmp_path / "report/worst/01.jpg").is_file()
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "report")} == before


def test_a_result_takes_the_place_of_a_link(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.txt").symlink_to(tmp_path / "secret.txt")
    write_whole(tmp_path / "out/a.txt", "result")
    assert (tmp_path / "secret.txt").read_text() == "secret"
    assert (tmp_path / "out/a.txt").read_text() == "result"
    assert not (tmp_path / "out/a.txt").is_symlink()


def test_links_are_followed(tmp_path):
    save(tmp_path / "elsewhere/a.jpg", PHOTO)
    save(tmp_path / "elsewhere/a.png", IDS)
    for folder, file in (("images", "a.jpg"), ("masks", "a.png")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / file).symlink_to(tmp_path / "elsewhere" / file)
    (sample,) = open_dataset(tmp_path / "data", "all")
    assert sample.read_photo().shape == (30, 44, 3)
    assert sample.read_labels().shape == (30, 44)
