"""Annotations in the ways in which programs really write them."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from data_folders import photos, save, text
from deeplab.datasets.check import check
from deeplab.datasets.opening import find_layout, open_dataset

HEIGHT, WIDTH = 6, 10
BOX = [[1, 1], [4, 1], [4, 3], [1, 3]]


def box(class_id=1):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[1:3, 1:4] = class_id
    return mask


def labelme(*shapes, **more):
    return {"shapes": list(shapes), "imageHeight": HEIGHT, "imageWidth": WIDTH} | more


def shape(label="cat", points=BOX, kind="polygon"):
    return {"label": label, "points": points, "shape_type": kind}


def coco(*annotations, images=({"id": 1, "file_name": "a.png"},), categories=({"id": 1, "name": "cat"},)):
    sized = [{"height": HEIGHT, "width": WIDTH} | image for image in images]
    return {"images": sized, "annotations": list(annotations), "categories": list(categories)}


def outline(number=1, image=1, category=1, parts=((1, 1, 4, 1, 4, 3, 1, 3),)):
    parts = [list(part) for part in parts]
    return {"id": number, "image_id": image, "category_id": category, "segmentation": parts}


def photo(path, height=HEIGHT, width=WIDTH, **options):
    save(path, np.full((height, width, 3), 77, np.uint8), **options)


def labels(root, split="all", index=0, **options):
    return open_dataset(root, split, **options)[index].read_labels()


# --- labelme


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_labelme_in_any_encoding(tmp_path, encoding):
    photo(tmp_path / "a.png")
    content = json.dumps(labelme(shape("狗")), ensure_ascii=False)
    (tmp_path / "a.json").write_bytes(content.encode(encoding))
    dataset = open_dataset(tmp_path, "all")
    assert dataset.class_names == ("background", "狗")
    assert np.array_equal(dataset[0].read_labels(), box())
    problems = [each.kind for each in check(tmp_path, ["all"]).problems]
    assert problems == (["encoding"] if encoding == "gb18030" else [])


def test_old_labelme_files_take_their_size_from_the_photo(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(tmp_path / "a.jpg", WIDTH, HEIGHT, exif=exif)  # upright it is 6×10
    text(tmp_path / "a.json", {"shapes": [shape()]})
    assert np.array_equal(labels(tmp_path), box())


def test_labelme_lines_and_points_have_the_width_of_an_option(tmp_path):
    photo(tmp_path / "a.png")
    line = shape("road", [[0, 3], [10, 3]], "line")
    chain = shape("road", [[8, 0], [8, 2], [8, 6]], "linestrip")
    text(tmp_path / "a.json", labelme(line, chain, shape("pole", [[2, 1]], "point")))
    with pytest.raises(ValueError, match=r"shape 1 \('road'\) cannot be drawn .*--line-width 5, in a recipe"):
        labels(tmp_path)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[2:4], expected[:, 7:9], expected[:2, 1:3] = 2, 2, 1
    assert np.array_equal(labels(tmp_path, line_width=2), expected)
    assert [each.kind for each in check(tmp_path, ["all"], line_width=2).problems] == []


def test_labelme_shapes_that_cover_no_pixel_are_told(tmp_path):
    photo(tmp_path / "a.png")
    text(tmp_path / "a.json", labelme(shape(), shape("cat", [[5.6, 1], [5.9, 1], [5.9, 2]])))
    assert np.array_equal(labels(tmp_path), box())
    (problem,) = check(tmp_path, ["all"]).problems
    assert (problem.kind, problem.severity) == ("empty shape", "warning")
    assert problem.what == "shape 2 ('cat') covers no pixel's centre"


def test_labelme_names_in_other_capitals(tmp_path):
    photo(tmp_path / "a.png")
    text(tmp_path / "a.json", labelme(shape("Cat"), shape("cat")))
    with pytest.raises(ValueError, match="the labels 'Cat' and 'cat' differ only in capitals"):
        open_dataset(tmp_path, "all")


def test_a_key_given_twice_is_an_error(tmp_path):
    photo(tmp_path / "a.png")
    text(tmp_path / "b.json", labelme(shape()))
    photo(tmp_path / "b.png")
    text(tmp_path / "a.json", '{"shapes": [], "imageHeight": 6, "imageWidth": 10, "shapes": [1]}')
    with pytest.raises(
        ValueError, match=r"a.json: not JSON \(the key 'shapes' is there twice in one object\)"
    ):
        open_dataset(tmp_path, "all")


def test_files_that_cannot_be_decoded_are_named_before_the_layout(tmp_path):
    photo(tmp_path / "a.png")
    (tmp_path / "a.json").write_bytes(b'{"shapes": [\xff')
    with pytest.raises(ValueError, match=r"a.json: not JSON \("):
        find_layout(tmp_path)
    text(tmp_path / "a.json", "{}")
    with pytest.raises(ValueError, match="unknown layout"):
        find_layout(tmp_path)


# --- COCO


@pytest.fixture
def root(tmp_path):
    photo(tmp_path / "images/a.png")
    return tmp_path


def write(root, content):
    text(root / "annotations/instances_train.json", content)
    return root


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            coco(outline(), images=({"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"})),
            "the image id 1 is there twice; annotations cannot be assigned",
        ),
        (
            coco(outline(), images=({"id": 1, "file_name": "a.png"}, {"id": "1", "file_name": "b.png"})),
            "the image id 1 is there twice",
        ),
        (
            coco(categories=({"id": 1, "name": "cat"}, {"id": 1, "name": "dog"})),
            "the category id 1 is there twice",
        ),
        (
            coco(categories=({"id": 1, "name": "cat"}, {"id": 2, "name": "Cat"})),
            "the categories 'cat' and 'Cat' have one name",
        ),
        (
            '{"images": [], "annotations": [], "categories": [], "images": []}',
            "the key 'images' is there twice",
        ),
    ],
)
def test_ids_and_names_given_twice(root, content, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(write(root, content), "train")


def test_ids_as_text_and_no_sizes(root):
    content = coco(outline("7", "1", "1"), categories=({"id": "1", "name": "cat"},))
    for image in content["images"]:
        del image["height"], image["width"]
    assert np.array_equal(labels(write(root, content), "train"), box())


@pytest.mark.parametrize(
    "name", ["images\\a.png", "C:\\data\\images\\a.png", "/home/me/images/a.png", "elsewhere/a.png", "a.png"]
)
def test_paths_of_other_machines(root, name):
    dataset = open_dataset(write(root, coco(outline(), images=({"id": 1, "file_name": name},))), "train")
    assert dataset[0].photo == root / "images/a.png"
    assert np.array_equal(dataset[0].read_labels(), box())


def test_bare_names_that_are_not_unique_are_not_guessed(root):
    images = [{"id": number, "file_name": f"{number}/a.png"} for number in (1, 2)]
    with pytest.raises(FileNotFoundError, match=r"names '1/a.png', but there is no"):
        open_dataset(write(root, coco(images=images)), "train")


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "/secret.png", "..\\secret.png"])
def test_no_photo_outside_the_folder_is_opened(tmp_path, name):
    photo(tmp_path / "secret.png")
    photo(tmp_path / "data/images/a.png")
    content = coco(images=({"id": 1, "file_name": name},))
    with pytest.raises((ValueError, OSError), match=r"instances_train.json: names .*secret.png"):
        open_dataset(write(tmp_path / "data", content), "train")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_in_either_unicode_form(tmp_path, form):
    name, other = (unicodedata.normalize(each, "é.png") for each in (form, "NFC" if form == "NFD" else "NFD"))
    photo(tmp_path / "images" / name)
    write(tmp_path, coco(outline(), images=({"id": 1, "file_name": other},)))
    assert np.array_equal(labels(tmp_path, "train"), box())


def test_one_bad_polygon_of_many_is_left_out_alone(root):
    write(root, coco(outline(parts=((1, 1, 4, 1, 4, 3, 1, 3), (7, 1, 8, 2)))))
    assert np.array_equal(labels(root, "train"), box())
    (problem,) = check(root).problems
    assert (problem.kind, problem.severity) == ("part left out", "warning")
    assert problem.what == "annotation 1: 1 of its polygons have fewer than three points"
    write(root, coco(outline(), outline(2, parts=((7, 1, 8, 2),))))
    with pytest.raises(ValueError, match=r"annotation 2 cannot be drawn"):
        labels(root, "train")


def test_swapped_sizes_name_the_photo(root):
    write(root, coco(outline(), images=({"id": 1, "file_name": "a.png", "height": WIDTH, "width": HEIGHT},)))
    (problem,) = check(root).problems
    assert problem.what == "labels of 10×6 pixels (H×W) for the photo a.png of 6×10"
    assert problem.fix.startswith("height and width are swapped")


def test_background_by_either_name(root):
    categories = ({"id": 5, "name": "_background_"}, {"id": 1, "name": "cat"})
    write(root, coco(outline(), categories=categories))
    for name in ("background", "_background_"):
        text(root / "classes.txt", f"{name}\ncat\n")
        dataset = open_dataset(root, "train")
        assert dataset.class_names == ("background", "cat")
        assert np.array_equal(dataset[0].read_labels(), box())


# --- folders


def test_capitalised_folders(tmp_path):
    for split in ("Train", "Val"):
        photos(tmp_path, f"Images/{split}/a.png")
        save(tmp_path / "Masks" / split.lower() / "a.png", box())
    dataset = open_dataset(tmp_path, "train")
    assert [sample.name for sample in dataset] == ["a"]
    assert np.array_equal(dataset[0].read_labels(), box())
    assert len(open_dataset(tmp_path, "Val")) == 1


def test_capitalised_coco(tmp_path):
    photo(tmp_path / "Images/a.png")
    text(tmp_path / "Annotations/instances_train.json", coco(outline()))
    assert np.array_equal(labels(tmp_path, "train"), box())


def test_photos_and_masks_in_other_unicode_forms(tmp_path):
    photo(tmp_path / "images" / unicodedata.normalize("NFC", "café.png"))
    save(tmp_path / "masks" / unicodedata.normalize("NFD", "café.png"), box())
    text(tmp_path / "lists/train.txt", unicodedata.normalize("NFD", "café"))
    assert np.array_equal(labels(tmp_path, "train"), box())
