import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_folders import SHARED, needs_data, save, text
from deeplab.commands.check_data import CheckData, check_data
from deeplab.datasets.check import check

HEIGHT, WIDTH = 30, 44


def photo(seed):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def mask(*, void=True):
    """300 pixels of cat (1), 100 of dog (2), 20 of void in 1,320."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[5:20, 10:30], labels[21:26, 2:22] = 1, 2
    if void:
        labels[29, :20] = 255
    return labels


@pytest.fixture
def root(tmp_path):
    """Two splits without a problem: a, b, c for training and d for validation."""
    for seed, name in enumerate(("train/a", "train/b", "train/c", "val/d")):
        save(tmp_path / f"images/{name}.png", photo(seed))
        save(tmp_path / f"labels/{name}.png", mask())
    text(tmp_path / "classes.txt", "background\ncat\ndog\n")
    return tmp_path


def found(root, *splits):
    """Kind, file's name, and severity of each problem."""
    return {(f.kind, Path(f.file).name, f.severity) for f in check(root, splits).problems}


def only(root, kind):
    """The one problem of a kind."""
    problems = [problem for problem in check(root).problems if problem.kind == kind]
    assert len(problems) == 1, check(root).problems
    return problems[0]


def test_contents(root):
    save(root / "images/train/c.png", photo(2)[:, :40])
    save(root / "labels/train/c.png", mask()[:, :40])
    seen = []
    report = check(root, callback=lambda done, total: seen.append((done, total)))
    assert report.problems == ()
    assert report.class_names == ("background", "cat", "dog")
    assert report.layout == "folder pairs"
    train, val = report.splits
    assert (train.name, train.samples, val.name, val.samples) == ("train", 3, "val", 1)
    assert [(each.name, each.pixels, each.photos) for each in val.classes] == [
        ("background", 900, 1),
        ("cat", 300, 1),
        ("dog", 100, 1),
    ]
    assert train.classes[1].pixels == 900
    assert [(each.height, each.width, each.photos) for each in train.sizes] == [(30, 44, 2), (30, 40, 1)]
    assert val.void == pytest.approx(20 / 1320)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [part.name for part in check(root, ["val"]).splits] == ["val"]
    assert check(root, threads=1) == report


def test_binary_masks(root):
    for name in ("train/a", "train/b", "train/c", "val/d"):
        save(root / f"labels/{name}.png", np.where(mask(void=False) > 0, 255, 0).astype(np.uint8))
    problems = [problem for problem in check(root).problems if problem.kind == "binary mask"]
    assert len(problems) == 4
    assert {problem.severity for problem in problems} == {"error"}
    assert problems[0].what == "holds 0 and 255 only, as binary masks do"
    assert "'object 255 255 255'" in problems[0].fix
    text(root / "classes.txt", "background 0 0 0\nobject 255 255 255\n")  # the fix
    assert check(root).problems == ()


def test_one_binary_mask_among_others_is_a_warning(root):
    save(root / "labels/val/d.png", np.where(mask(void=False) > 0, 255, 0).astype(np.uint8))
    assert only(root, "binary mask").severity == "warning"


def test_void_by_another_id_is_no_binary_mask(root):
    text(root / "classes.txt", "0 background\n1 cat\n2 dog\n11 void\n")
    save(root / "labels/val/d.png", np.where(mask(void=False) > 0, 11, 0).astype(np.uint8))
    assert {kind for kind, *_ in found(root)} == {"class never present"}


@pytest.mark.parametrize("levels", [(0, 255), (0, 200)])
def test_anti_aliased_masks(root, levels):
    drawn = Image.fromarray(np.where(mask(void=False) > 0, levels[1], 0).astype(np.uint8))
    smooth = np.asarray(drawn.resize((4 * WIDTH, 4 * HEIGHT), Image.Resampling.BILINEAR))
    save(root / "labels/train/b.png", smooth)
    save(root / "images/train/b.png", np.repeat(np.repeat(photo(1), 4, 0), 4, 1))
    problem = only(root, "anti-aliased mask")
    assert (Path(problem.file).name, problem.severity) == ("b.png", "error")
    assert "% of the edge pixels between their neighbours'" in problem.what
    assert problem.fix == "export without anti-aliasing, resize masks by nearest neighbour only"
    assert ("ids out of range", "b.png", "error") not in found(root)


def test_masks_resized_bilinearly_though_all_ids_are_known(root):
    text(root / "classes.txt", "\n".join(f"c{i}" for i in range(8)))
    wide = Image.fromarray(mask(void=False) * 3).resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BILINEAR)
    save(root / "labels/train/b.png", np.asarray(wide))
    save(root / "images/train/b.png", np.repeat(np.repeat(photo(1), 2, 0), 2, 1))
    assert only(root, "anti-aliased mask").severity == "warning"


def test_jpeg_masks(root):
    (root / "labels/train/b.png").unlink()
    save(root / "labels/train/b.jpg", mask())
    problem = only(root, "lossy mask")
    assert (Path(problem.file).name, problem.severity) == ("b.jpg", "error")
    assert "as PNG" in problem.fix


def test_ids_out_of_range(root):
    labels = mask()
    labels[0, :7], labels[1, 0] = 9, 12
    save(root / "labels/train/b.png", labels)
    problem = only(root, "ids out of range")
    assert (Path(problem.file).name, problem.severity) == ("b.png", "error")
    assert problem.what == "id 9 in 7 pixels, 12 in 1 pixels"
    assert problem.fix.startswith("ids must be 0 to 2, and 255 for void")


def test_many_ids_out_of_range_are_counted(root):
    labels = mask()
    labels[0, ::4] = np.arange(10, 21)
    save(root / "labels/train/b.png", labels)
    assert only(root, "ids out of range").what.endswith("14 in 1 pixels and 6 more")


def test_sizes_that_differ(root):
    save(root / "labels/train/b.png", mask()[:, 4:])
    save(root / "labels/train/c.png", mask().T)
    problems = {Path(f.file).name: f for f in check(root).problems if f.kind == "size mismatch"}
    assert problems["b.png"].what == "labels of 30×40 pixels (H×W) for a photo of 30×44"
    assert problems["b.png"].fix == "make them of one size"
    assert "EXIF" in problems["c.png"].fix
    assert {problem.severity for problem in problems.values()} == {"error"}
    assert check(root).splits[0].sizes[0].photos == 3


def test_missing_photos_and_masks(root):
    (root / "labels/train/b.png").unlink()
    (root / "images/train/c.png").unlink()
    assert found(root) == {("missing mask", "b.png", "error"), ("missing photo", "c.png", "warning")}
    assert only(root, "missing mask").fix == "put it there as train/b.png, or remove the photo"
    assert "remove the mask" in only(root, "missing photo").fix


def test_every_missing_file_of_a_list_is_named(root):
    text(root / "lists/train.txt", "a\nx\ny\nb\nb\n")
    problems = [problem for problem in check(root).problems if problem.severity == "error"]
    assert [(problem.kind, problem.what.split(",")[0]) for problem in problems] == [
        ("missing mask", "names 'x'"),
        ("missing mask", "names 'y'"),
        ("missing photo", "names 'x'"),
        ("missing photo", "names 'y'"),
    ]
    assert {problem.fix for problem in problems} == {
        "put the photo there, or take the name out of the list",
        "put the mask there, or take the name out of the list",
    }
    twice = only(root, "listed twice")
    assert (twice.what, twice.severity, twice.fix) == ("names 'b' 2 times", "warning", "name it once")
    assert check(root).splits[0].samples == 2


def test_damaged_files_do_not_stop_the_others(root):
    for name in ("images/train/a.png", "labels/train/b.png"):
        (root / name).write_bytes((root / name).read_bytes()[: (root / name).stat().st_size // 2])
    text(root / "images/train/c.png", "no picture")
    text(root / "labels/train/c.png", "no picture")
    assert found(root) == {
        ("damaged photo", "a.png", "error"),
        ("damaged mask", "b.png", "error"),
        ("damaged photo", "c.png", "error"),
        ("damaged mask", "c.png", "error"),
    }
    report = check(root)
    assert (report.splits[0].samples, report.splits[0].classes[1].photos) == (3, 1)
    assert all(problem.fix for problem in report.problems)


def test_colour_masks_without_colours(root):
    save(root / "labels/train/b.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    problem = only(root, "colour mask")
    assert problem.what == "got a RGB mask, wanted a palette or grey PNG of class ids"
    assert "'name red green blue'" in problem.fix


def test_unknown_colours(root):
    table = np.array([(0, 0, 0), (200, 0, 0), (0, 200, 0)], np.uint8)
    text(root / "classes.txt", "background 0 0 0\ncat 200 0 0\ndog 0 200 0\n")
    for name in ("train/a", "train/b", "train/c", "val/d"):
        colours = table[mask(void=False)]
        colours[0, :6] = (9, 9, 9) if name == "train/b" else 0
        save(root / f"labels/{name}.png", colours)
    assert found(root) == {("unknown colour", "b.png", "error")}
    assert only(root, "unknown colour").what == "colour (9, 9, 9) in 6 pixels, not in classes.txt"


def test_masks_that_are_all_void(root):
    save(root / "labels/train/b.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    problem = only(root, "all void")
    assert (Path(problem.file).name, problem.severity) == ("b.png", "warning")


def test_one_photo_in_two_splits(root):
    (root / "images/val/d.png").write_bytes((root / "images/train/a.png").read_bytes())
    for folder, content in (("images", photo(9)), ("labels", mask())):
        save(root / folder / "val/b.png", content)
    problem = only(root, "photo in two splits")
    assert (Path(problem.file).name, problem.severity) == ("d.png", "error")
    assert problem.what == f"is in train and in val, there as {root / 'images/train/a.png'}"
    assert found(root) == {
        ("photo in two splits", "d.png", "error"),
        ("name in two splits", "b.png", "warning"),
    }
    (root / "images/train/c.png").write_bytes((root / "images/train/b.png").read_bytes())
    assert ("same photo twice", "c.png", "warning") in found(root)


def test_splits_that_overlap_by_their_names(tmp_path):
    for seed, name in enumerate("abc"):
        save(tmp_path / f"JPEGImages/{name}.png", photo(seed))
        save(tmp_path / f"SegmentationClass/{name}.png", mask())
    text(tmp_path / "classes.txt", "background\ncat\ndog\n")
    for split, names in {"train": "a", "train_aug": "ab", "val": "c", "trainval": "ac"}.items():
        text(tmp_path / f"ImageSets/Segmentation/{split}.txt", "\n".join(names))
    seen = []
    assert check(tmp_path, callback=lambda done, total: seen.append(done)).problems == ()
    assert seen == [1, 2, 3]  # each sample is opened once
    text(tmp_path / "ImageSets/Segmentation/val.txt", "c\nb\n")
    assert [problem.what for problem in check(tmp_path).problems] == ["is in train_aug and in val"]


def test_classes_that_never_occur(root):
    text(root / "classes.txt", "0 void\n1 cat\n2 dog\n3 cow\n4 bee\n")
    problems = [problem for problem in check(root).problems if problem.kind == "class never present"]
    assert [(problem.file, problem.what) for problem in problems] == [
        (f"{root}, split train", "no pixel of cow, bee"),
        (f"{root}, split val", "no pixel of cow, bee"),
    ]
    assert {problem.severity for problem in problems} == {"warning"}


def test_classes_are_found_where_no_file_names_them(root):
    (root / "classes.txt").unlink()
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH)).astype(np.uint8)
    save(root / "labels/train/b.png", noise)
    report = check(root)
    assert report.class_names == ("class 0", "class 1", "class 2")  # the noise does not count
    assert {(problem.kind, Path(problem.file).name) for problem in report.problems} == {
        ("anti-aliased mask", "b.png")
    }


def test_a_missing_split_is_a_problem(root):
    report = check(root, ["train", "test"])
    assert [part.name for part in report.splits] == ["train"]
    assert [(problem.kind, problem.file, problem.fix) for problem in report.problems] == [
        ("unusable split", f"{root}, split test", "splits there: train, val, all")
    ]


def test_annotations_are_checked_too(tmp_path):
    shapes = {"label": "cat", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"}
    for seed, name in enumerate("abc"):
        save(tmp_path / f"{name}.png", photo(seed))
        bad = {"label": "cat", "points": [[1, 1]], "shape_type": "point"} if name == "b" else shapes
        text(
            tmp_path / f"{name}.json",
            json.dumps({"shapes": [bad], "imageHeight": HEIGHT, "imageWidth": WIDTH - (name == "c")}),
        )
    save(tmp_path / "d.png", photo(7))
    save(tmp_path / "e.png", photo(8))
    text(tmp_path / "e.json", "{")
    text(tmp_path / "f.json", {"shapes": [], "imageHeight": HEIGHT, "imageWidth": WIDTH})
    text(tmp_path / "settings.json", {"not": "meant"})
    assert found(tmp_path, "all") == {
        ("bad shape", "b.json", "error"),
        ("size mismatch", "c.json", "error"),
        ("not labelled", "d.png", "warning"),
        ("damaged annotations", "e.json", "error"),
        ("missing photo", "f.json", "warning"),
    }


def test_coco_files_whose_categories_differ(tmp_path):
    for split, name in (("train", "cat"), ("val", "dog")):
        save(tmp_path / f"images/{split}.png", photo(len(split)))
        image = {"id": 1, "file_name": f"{split}.png", "height": HEIGHT, "width": WIDTH}
        outline = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}
        content = {"images": [image], "annotations": [outline], "categories": [{"id": 1, "name": name}]}
        text(tmp_path / f"annotations/instances_{split}.json", json.dumps(content))
    problem = only(tmp_path, "classes differ")
    assert problem.what == "val has classes background, dog, but train has background, cat"
    assert problem.fix == "name all classes in classes.txt"


def test_folders_that_cannot_be_checked(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        check(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="unknown layout"):
        check(tmp_path)


def test_warning_filters_are_left_as_they_were(root):
    before = list(warnings.filters)
    check(root)
    assert warnings.filters == before


# --- the command


def test_command_on_good_data(root, capsys):
    assert check_data(CheckData(root)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{root}: folder pairs, 3 classes, 0 errors, 0 warnings"
    cat = next(line.split() for line in lines if " cat " in line)
    assert cat == ["1", "cat", "23.08", "3", "23.08", "1"]  # 300 of 1,300 pixels


def test_command_on_warnings_only(root, capsys):
    text(root / "classes.txt", "background\ncat\ndog\ncow\n")
    assert check_data(CheckData(root, ("val",))) == 3
    out = capsys.readouterr().out
    assert "warning: class never present (1)" in out
    assert "no pixel of cow" in out
    assert "fix: label some" in out


def test_command_on_errors_writes_all_of_them(root, tmp_path, capsys):
    out = tmp_path / "reports/report.json"
    for i in range(12):
        save(root / f"images/train/x{i}.png", photo(100 + i))
    assert check_data(CheckData(root, out=out)) == 1
    printed = capsys.readouterr().out
    assert "error: missing mask (12)" in printed
    assert "… and 4 more; --out FILE.json writes all" in printed
    assert "  images/train/x0.png: no mask of that stem in" in printed
    report = json.loads(out.read_text())
    assert (report["errors"], report["warnings"], len(report["faults"])) == (12, 0, 12)
    assert report["faults"][0] == {
        "severity": "error",
        "kind": "missing mask",
        "file": str(root / "images/train/x0.png"),
        "what": f"no mask of that stem in {root / 'labels'}",
        "cure": "put it there as train/x0.png, or remove the photo",
    }
    assert report["splits"][1]["classes"][1] == {"name": "cat", "pixels": 300, "photos": 1}
    assert [path.name for path in out.parent.iterdir()] == ["report.json"]


def test_command_leaves_no_half_report(root, tmp_path):
    text(tmp_path / "file", "in the way")
    with pytest.raises(OSError, match="file"):
        check_data(CheckData(root, out=tmp_path / "file/report.json"))
    assert (tmp_path / "file").read_text() == "in the way"


@needs_data
def test_the_measuring_data_has_no_problem():
    report = check(SHARED / "voc", ["val"])
    assert report.problems == ()
    assert report.splits[0].samples == 80
    assert {each.name: each.photos for each in report.splits[0].classes}["cat"] == 20
    assert check(SHARED / "camvid", ["val"]).problems == ()


@pytest.mark.parametrize(("orientation", "how"), [(3, "by 180°"), (2, "mirrored"), (1, None)])
def test_photos_that_are_turned_without_another_size(root, orientation, how):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(root / "images/train/a.png", photo(0), exif=exif)
    problems = [each for each in check(root).problems if each.kind == "rotated photo"]
    assert [each.what.partition("(")[2].partition(")")[0] for each in problems] == ([how] if how else [])
