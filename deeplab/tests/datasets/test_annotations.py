import base64
import io
import pickle

import numpy as np
import pytest
from PIL import Image

from data_folders import photos, text
from deeplab.datasets.opening import find_layout, open_dataset

HEIGHT, WIDTH = 5, 8


def drawn(picture):
    """A mask from lines of # and . (and digits for ids)."""
    rows = [line.strip() for line in picture.strip().splitlines()]
    return np.array([[0 if c == "." else 1 if c == "#" else int(c) for c in row] for row in rows], np.uint8)


# --- labelme


def shape(label, points, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}} | more


def picture_text(kind):
    """A picture of two by two pixels as labelme writes masks into its files."""
    content = io.BytesIO()
    Image.new("L", (2, 2), 255).save(content, kind)
    return base64.b64encode(content.getvalue()).decode()


def labelme_file(*shapes):
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": "a.jpg",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }


SQUARE = [[0, 0], [3, 0], [3, 3], [0, 3]]


@pytest.fixture
def labelme_root(tmp_path):
    photos(tmp_path, "a.jpg", "b.JPG")
    text(tmp_path / "a.json", labelme_file(shape("dog", SQUARE), shape("cat", [[2, 1], [6, 4]], "rectangle")))
    text(tmp_path / "b.json", labelme_file(shape("_background_", [[1, 1], [2, 2]], "rectangle")))
    return tmp_path


def test_labelme_later_shapes_lie_over_earlier_ones(labelme_root):
    assert find_layout(labelme_root).name == "labelme"
    dataset = open_dataset(labelme_root, "all")
    assert dataset.class_names == ("background", "cat", "dog")
    assert [sample.name for sample in dataset] == ["a", "b"]
    assert np.array_equal(
        dataset[0].read_labels(),
        drawn("""
        222.....
        221111..
        221111..
        ..1111..
        ........
        """),
    )
    assert not dataset[1].read_labels().any()
    assert np.array_equal(pickle.loads(pickle.dumps(dataset[0])).read_labels(), dataset[0].read_labels())


def test_labelme_circle_mask_void_and_background(labelme_root):
    part = io.BytesIO()
    Image.fromarray(np.array([[1, 0, 1], [1, 1, 1]], bool)).save(part, "PNG")
    shapes = [
        shape("dog", [[3, 2], [5, 2]], "circle"),
        shape("cat", [[6, 3], [8, 4]], "mask", mask=base64.b64encode(part.getvalue()).decode()),
        shape("__ignore__", [[0, 4], [2, 5]], "rectangle"),
        shape("background", [[2, 1], [3, 2]], "rectangle"),
        shape(" cat ", [[7, 0], [8, 0], [8, 1], [7, 1]], "rectangle"),
    ]
    text(labelme_root / "a.json", labelme_file(*shapes))
    dataset = open_dataset(labelme_root, "all")
    assert dataset.class_names == ("background", "cat", "dog")
    expected = drawn("""
    ..22...1
    .2.22...
    .2222...
    ..22..1.
    ......11
    """)
    expected[4, :2] = 255
    assert np.array_equal(dataset[0].read_labels(), expected)


def test_labelme_splits_and_class_file(tmp_path):
    for split in ("train", "val"):
        photos(tmp_path, f"{split}/a.jpg")
        text(tmp_path / split / "a.json", labelme_file(shape({"train": "dog", "val": "cat"}[split], SQUARE)))
    assert find_layout(tmp_path).splits == ("train", "val")
    assert open_dataset(tmp_path, "train").class_names == ("background", "cat", "dog")  # of both splits
    assert open_dataset(tmp_path, "train")[0].read_labels().max() == 2
    text(tmp_path / "labels.txt", "__ignore__\n_background_\ndog\ncow\n")
    train = open_dataset(tmp_path, "train")
    assert train.class_names == ("background", "dog", "cow")
    assert train[0].read_labels().max() == 1
    with pytest.raises(
        ValueError, match=r"a.json: shape 1 \('cat'\) has no class; wanted one of background, dog, cow"
    ):
        open_dataset(tmp_path, "val")[0].read_labels()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            shape("dog", [[1, 1]], "point"),
            r"shape 1 \('dog'\) cannot be drawn \(a point of 1 points\); wanted a polygon",
        ),
        (shape("dog", [[1, 1], [2, 2]]), r"wanted at least three points"),
        (shape("dog", [[1, 1], [2, 2]], "mask", mask="AAAA"), r"shape 1 .* cannot be drawn"),
        (shape("dog", [[1, 1], [2, 2]], "mask", mask=picture_text("BMP")), r"its mask is not a PNG picture"),
        (shape("dog", [[1, 1], [2, 2]], "mask", mask="ä"), r"shape 1 .* cannot be drawn"),
        (shape("dog", [[1, 1], [2, 2]], "mask"), r"shape 1 .* cannot be drawn"),
        (shape("dog", "here"), r"shape 1 .* cannot be drawn"),
        (shape("dog", [[1, float("nan")], [2, 2]], "circle"), r"points that are not finite"),
    ],
)
def test_labelme_shapes_without_area(labelme_root, bad, message):
    text(labelme_root / "a.json", labelme_file(bad))
    with pytest.raises(ValueError, match=rf"a.json: .*{message}"):
        open_dataset(labelme_root, "all")[0].read_labels()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        "[]",
        {"shapes": []},
        labelme_file(shape("", SQUARE)),
        labelme_file() | {"imageHeight": None},
    ],
)
def test_labelme_files_that_are_damaged(labelme_root, content):
    text(labelme_root / "b.json", content)
    with pytest.raises(ValueError, match=r"b.json: not .*JSON.*; open it in labelme and save it again"):
        open_dataset(labelme_root, "all")


def test_labelme_photos_without_labels_are_left_out(labelme_root):
    photos(labelme_root, "c.png")
    assert len(open_dataset(labelme_root, "all")) == 2
    (labelme_root / "b.JPG").unlink()
    assert [sample.name for sample in open_dataset(labelme_root, "all")] == ["a"]


# --- COCO


def coco_file(*annotations, images=("a.jpg",), categories=((7, "dog"), (3, "cat"))):
    return {
        "info": {},
        "images": [
            {"id": 10 + i, "file_name": name, "height": 3, "width": 4} for i, name in enumerate(images)
        ],
        "annotations": [{"id": i, "image_id": 10} | each for i, each in enumerate(annotations)],
        "categories": [{"id": number, "name": name} for number, name in categories],
    }


def polygons(category, *flat):
    return {"category_id": category, "segmentation": [list(each) for each in flat], "iscrowd": 0}


WHOLE = (0, 0, 4, 0, 4, 3, 0, 3)


@pytest.fixture
def coco_root(tmp_path):
    def make(*annotations, name="annotations/instances_train.json", **more):
        text(tmp_path / name, coco_file(*annotations, **more))
        photos(tmp_path / "images", *more.get("images", ("a.jpg",)))
        return tmp_path

    return make


def test_coco_polygons_and_both_run_forms(coco_root):
    root = coco_root(
        polygons(7, (0, 0, 2, 0, 2, 1, 0, 1), (3, 2, 4, 2, 4, 3, 3, 3)),  # two parts of one dog
        {"category_id": 3, "segmentation": {"size": [3, 4], "counts": [4, 1, 7]}, "iscrowd": 0},
        {
            "category_id": 3,
            "segmentation": {"size": [3, 4], "counts": "714"},
            "iscrowd": 1,
        },  # the digits as they are
    )
    assert find_layout(root).name == "COCO"
    dataset = open_dataset(root, "train")
    assert dataset.class_names == ("background", "cat", "dog")  # by the categories' ids, 3 and 7
    assert [sample.name for sample in dataset] == ["a"]
    assert np.array_equal(
        open_dataset(root, "train")[0].read_labels(),
        drawn("""
        22..
        .11.
        ...2
        """),
    )


def test_coco_small_things_lie_on_large_ones_and_crowds_below(coco_root):
    small, large = polygons(7, (1, 1, 2, 1, 2, 2, 1, 2)), polygons(3, WHOLE)
    expected = drawn("""
    1111
    1211
    1111
    """)
    for order in ((small, large), (large, small)):
        assert np.array_equal(open_dataset(coco_root(*order), "train")[0].read_labels(), expected)
    crowd = {"category_id": 3, "segmentation": {"size": [3, 4], "counts": [3, 1, 8]}, "iscrowd": 1}
    below = open_dataset(coco_root(polygons(7, WHOLE), crowd), "train")[0].read_labels()
    assert (below == 2).all()  # though the crowd is the smaller


def test_coco_void_background_and_photos_without_objects(coco_root):
    categories = ((1, "ignore"), (2, "background"), (3, "cat"))
    one = polygons(1, (0, 0, 1, 0, 1, 1, 0, 1))
    root = coco_root(one, images=("a.jpg", "sub/b.png"), categories=categories)
    dataset = open_dataset(root, "train")
    assert dataset.class_names == ("background", "cat")
    assert np.argwhere(dataset[0].read_labels() == 255).tolist() == [[0, 0]]
    assert dataset[1].name == "sub/b"
    assert dataset[1].read_labels().shape == (3, 4)
    assert not dataset[1].read_labels().any()
    assert np.array_equal(pickle.loads(pickle.dumps(dataset[0])).read_labels(), dataset[0].read_labels())


def test_coco_splits_find_their_photos(tmp_path):
    for split in ("train2017", "val2017"):
        text(tmp_path / f"annotations/instances_{split}.json", coco_file(polygons(7, WHOLE)))
        text(tmp_path / f"annotations/captions_{split}.json", {"images": [], "annotations": []})
    photos(tmp_path, "train2017/a.jpg", "images/val2017/a.jpg")
    assert find_layout(tmp_path).splits == ("train2017", "val2017")
    assert open_dataset(tmp_path, "train2017")[0].photo == tmp_path / "train2017/a.jpg"
    assert open_dataset(tmp_path, "val2017")[0].photo == tmp_path / "images/val2017/a.jpg"
    with pytest.raises(FileNotFoundError, match="no split 'train'; splits there: train2017, val2017"):
        open_dataset(tmp_path, "train")
    (tmp_path / "train2017/a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"instances_train2017.json: names 'a.jpg', but there is no"):
        open_dataset(tmp_path, "train2017")


@pytest.mark.parametrize(
    "name", ["annotations.json", "annotations/instances_default.json", "annotations/all.json"]
)
def test_one_coco_file_is_split_by_hash_or_lists(coco_root, name):
    root = coco_root(polygons(7, WHOLE), name=name, images=tuple(f"p{i}.jpg" for i in range(20)))
    assert find_layout(root).splits == ("train", "val")
    assert len(open_dataset(root, "all")) == 20
    assert [sample.name for sample in open_dataset(root, "val")] == ["p19", "p7"]
    text(root / "lists/val.txt", "p3.jpg\np0\n")
    assert [sample.name for sample in open_dataset(root, "val")] == ["p3", "p0"]
    text(root / "lists/val.txt", "p3.jpg\nq\n")
    with pytest.raises(FileNotFoundError, match=r"val.txt: names 'q', which .*json does not"):
        open_dataset(root, "val")


def test_a_coco_file_may_be_given_itself(coco_root):
    root = coco_root(polygons(7, WHOLE), name="objects.json")
    assert open_dataset(root / "objects.json", "all")[0].photo == root / "images/a.jpg"


def test_a_coco_file_beside_the_photos_of_each_split(tmp_path):
    for split in ("train", "valid"):
        text(tmp_path / split / "_annotations.coco.json", coco_file(polygons(7, WHOLE)))
        photos(tmp_path / split, "a.jpg")
    assert find_layout(tmp_path).splits == ("train", "valid")
    assert open_dataset(tmp_path, "valid")[0].photo == tmp_path / "valid/a.jpg"


def test_coco_class_file_decides_on_ids(coco_root):
    root = coco_root(polygons(7, WHOLE))
    text(root / "classes.txt", "dog\ncow\ncat\n")
    dataset = open_dataset(root, "train")
    assert dataset.class_names == ("background", "dog", "cow", "cat")
    assert (dataset[0].read_labels() == 1).all()
    text(root / "classes.txt", "cat\n")
    with pytest.raises(ValueError, match=r"category 'dog' is not in .*classes.txt; add it to classes.txt"):
        open_dataset(root, "train")


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ([], "got no outline, a box at best; wanted polygons or run lengths"),
        (None, "got no outline"),
        ([[0, 0, 1, 1]], "at least three points"),
        ([[0, 0, 1, 1, 2]], "cannot be drawn"),
        ({"size": [4, 3], "counts": [12]}, r"size \[4, 3\], wanted \[3, 4\]"),
        ({"size": [3, 4]}, "cannot be drawn"),
        ({"size": [3, 4], "counts": [5]}, "got runs of 5 pixels, wanted 3·4 = 12"),
        ({"size": [3, 4], "counts": "~"}, "character '~'"),
    ],
)
def test_coco_outlines_that_cannot_be_drawn(coco_root, outline, message):
    dataset = open_dataset(coco_root({"category_id": 7, "segmentation": outline}), "train")
    with pytest.raises(
        ValueError, match=rf"instances_train.json: annotation 0 cannot be drawn \(.*{message}|{message}"
    ):
        dataset[0].read_labels()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"annotations": [{"id": 5, "image_id": 99, "category_id": 7}]},
            "annotation 5 belongs to image 99, which is not",
        ),
        (
            {"annotations": [{"id": 5, "image_id": 10, "category_id": 9}]},
            "annotation 5 belongs to category 9, which is",
        ),
        ({"annotations": [{"id": 5}]}, r"not COCO's format \(KeyError: 'image_id'\); wanted COCO's JSON"),
        (
            {"images": [{"id": 10, "file_name": "a.jpg"}]},
            "a.jpg: not an image .* or give its height and width",
        ),
        ({"images": [{"id": 10, "file_name": "a.jpg", "height": 0, "width": 4}]}, "gives 'a.jpg' 0×4 pixels"),
        (
            {"images": [{"id": i, "file_name": "a.jpg", "height": 3, "width": 4} for i in (10, 11)]},
            "names 'a.jpg' twice",
        ),
        (
            {"categories": [{"id": i, "name": f"c{i}"} for i in range(255)]},
            "got 256 classes, wanted at most 255",
        ),
        ({"images": 5}, "not COCO's format"),
    ],
)
def test_coco_files_that_are_damaged(coco_root, change, message):
    root = coco_root()
    text(root / "annotations/instances_train.json", coco_file() | change)
    with pytest.raises(ValueError, match=message):
        open_dataset(root, "train")


@pytest.mark.parametrize("content", ["{", "[" * 100_000])
def test_coco_file_that_is_no_json(coco_root, content):
    root = coco_root()
    text(root / "annotations/instances_train.json", content)
    with pytest.raises(ValueError, match=r"instances_train.json: not JSON \("):
        open_dataset(root, "train")
