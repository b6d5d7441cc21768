import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_folders import SHARED, needs_data, photos, save, text
from deeplab.classes import VOC_CLASSES, palette
from deeplab.datasets.opening import find_layout, open_dataset, read_ids, voc
from deeplab.datasets.splits import split_by_hash

HEIGHT, WIDTH = 6, 9


def ids(*values):
    """(6, 9) uint8: background with each value in a pixel of its own."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask.flat[1 : len(values) + 1] = values
    return mask


def names_of(dataset):
    return [sample.name for sample in dataset]


@pytest.fixture
def voc_root(tmp_path):
    """Pairs a, b and sub/c with different endings; a mask without ids 3 in VOC's palette."""
    photos(tmp_path / "JPEGImages", "a.jpg", "b.JPEG", "sub/c.png", ".d.jpg")
    for name in ("SegmentationClass/a.png", "SegmentationClassAug/b.png", "SegmentationClass/sub/c.png"):
        save(tmp_path / name, ids(3, 255))
    text(tmp_path / "ImageSets/Segmentation/train.txt", "a\nsub/c\n\n")
    text(tmp_path / "ImageSets/Segmentation/val.txt", "b\r\n")
    return tmp_path


@pytest.fixture
def folder_root(tmp_path):
    """Twenty photos p0 … p19 with masks of ids 0, 1, 2 and 255, and two class names."""
    for i in range(20):
        photos(tmp_path / "images", f"p{i}.jpg")
        save(tmp_path / f"masks/p{i}.png", ids(1, 2, 255))
    text(tmp_path / "classes.txt", "ground\ncat\nsea horse\n")
    return tmp_path


# --- PASCAL VOC and CVAT


def test_voc_with_any_ending(voc_root):
    assert find_layout(voc_root).name == "PASCAL VOC"
    assert find_layout(voc_root).splits == ("train", "val")
    train = open_dataset(voc_root, "train")
    assert names_of(train) == ["a", "sub/c"]
    assert train.class_names == VOC_CLASSES
    assert train[1].photo == voc_root / "JPEGImages/sub/c.png"
    val = open_dataset(str(voc_root), "val")
    assert val[0].labels == voc_root / "SegmentationClassAug/b.png"
    assert np.array_equal(val[0].read_labels(), ids(3, 255))
    assert voc(voc_root, "val") == val


def test_voc_folder_mask_of_the_first_folder_wins(voc_root):
    save(voc_root / "SegmentationClassAug/a.png", ids(7))
    assert open_dataset(voc_root, "train")[0].labels == voc_root / "SegmentationClass/a.png"


def test_voc_classes_from_a_file_come_first(voc_root):
    text(voc_root / "classes.txt", "0 background\n1 car\n2 bus\n3 van\n255 void\n")
    val = open_dataset(voc_root, "val")
    assert val.class_names == ("background", "car", "bus", "van")
    assert np.array_equal(val[0].read_labels(), ids(3, 255))


def test_lists_name_files_in_many_ways(voc_root):
    lines = "a.jpg\n/JPEGImages/sub/c.png /SegmentationClass/sub/c.png\nJPEGImages\\b.jpg\n"
    text(voc_root / "ImageSets/Segmentation/train.txt", lines)
    assert names_of(open_dataset(voc_root, "train")) == ["a", "sub/c", "b"]


@pytest.fixture
def cvat_root(tmp_path):
    """CVAT's export: one list, colour masks, labelmap.txt with background in its alphabetical place."""
    colours = {"apple": (250, 50, 50), "background": (0, 0, 0), "pear tree": (50, 200, 50), "void": (9, 9, 9)}
    labelmap = "# label:color_rgb:parts:actions\n"
    labelmap += "".join(f"{name}:{','.join(map(str, colour))}::\n" for name, colour in colours.items())
    text(tmp_path / "labelmap.txt", labelmap)
    text(tmp_path / "ImageSets/Segmentation/default.txt", "".join(f"p{i}\n" for i in range(20)))
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[0, :3], mask[1, :4], mask[5, 8] = colours["apple"], colours["pear tree"], colours["void"]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[0, :3], expected[1, :4], expected[5, 8] = 1, 2, 255
    for i in range(20):
        photos(tmp_path / "JPEGImages", f"p{i}.png")
        save(tmp_path / f"SegmentationClass/p{i}.png", mask)
    return tmp_path, mask, expected


def test_cvat_colours_become_ids(cvat_root):
    root, mask, expected = cvat_root
    whole = open_dataset(root, "default")
    assert whole.class_names == ("background", "apple", "pear tree")
    assert len(whole) == 20
    assert np.array_equal(whole[0].read_labels(), expected)
    assert whole[0].read_labels().dtype == np.uint8
    Image.fromarray(mask).quantize(16).save(root / "SegmentationClass/p0.png")  # a palette in any order
    with Image.open(root / "SegmentationClass/p0.png") as file:
        assert file.mode == "P"
    assert np.array_equal(whole[0].read_labels(), expected)
    save(root / "SegmentationClass/p0.png", np.dstack([mask, np.full((HEIGHT, WIDTH), 255, np.uint8)]))
    assert np.array_equal(whole[0].read_labels(), expected)


def test_cvat_grey_masks_hold_line_numbers(cvat_root):
    root, _, _ = cvat_root
    save(root / "SegmentationClass/p0.png", ids(1, 2, 3, 255, 200))  # apple is line 0, background 1
    read = open_dataset(root, "default")[0].read_labels()
    assert np.array_equal(read, np.where(ids(1, 2, 3, 255, 200) == 0, 1, ids(0, 2, 255, 255, 200)))


def test_cvat_default_is_split_by_hash(cvat_root):
    root, _, _ = cvat_root
    assert find_layout(root).splits == ("train", "val")
    assert names_of(open_dataset(root, "val")) == ["p7", "p19"]
    assert len(open_dataset(root, "train")) == 18


def test_palette_void_is_always_known(cvat_root):
    root, _, _ = cvat_root
    mask = Image.fromarray(ids(1, 255))
    colours = palette()
    colours[:2] = (0, 0, 0), (250, 50, 50)
    mask.putpalette(colours.tobytes())
    mask.save(root / "SegmentationClass/p0.png")
    assert np.array_equal(open_dataset(root, "default")[0].read_labels(), ids(1, 255))


def test_an_unknown_colour_is_named_with_count_and_file(cvat_root):
    root, mask, _ = cvat_root
    mask[3, :5], mask[4, 0] = (1, 2, 3), (4, 5, 6)
    save(root / "SegmentationClass/p0.png", mask)
    message = (
        r"p0.png: colour \(1, 2, 3\) in 5 pixels and 1 more colours in 1 pixels, not in labelmap.txt; give"
    )
    with pytest.raises(ValueError, match=message):
        open_dataset(root, "default")[0].read_labels()


# --- folders of photos and masks


@pytest.mark.parametrize("folder", ["masks", "labels", "annotations", "gt"])
def test_subfolders_make_splits(tmp_path, folder):
    photos(tmp_path / "images", "train/a.jpg", "train/b.webp", "val/a.jpg", "train/.c.jpg", ".hidden/d.jpg")
    for name in ("train/a.png", "train/b.bmp", "val/a.png"):
        save(tmp_path / folder / name, ids(1))
    text(tmp_path / folder / "train/notes.md", "not meant")
    text(tmp_path / "classes.txt", "a\nb\n")
    assert find_layout(tmp_path).splits == ("train", "val")
    train = open_dataset(tmp_path, "train")
    assert names_of(train) == ["a", "b"]
    assert train[1].labels == tmp_path / folder / "train/b.bmp"
    assert open_dataset(tmp_path, "val")[0].photo == tmp_path / "images/val/a.jpg"
    assert names_of(open_dataset(tmp_path, "all")) == ["train/a", "train/b", "val/a"]
    with pytest.raises(FileNotFoundError, match="no split 'test'; splits there: train, val, all"):
        open_dataset(tmp_path, "test")


def test_a_list_chooses_within_its_subfolder(tmp_path):
    for split in ("train", "val"):
        for name in "ab":
            photos(tmp_path / "images", f"{split}/{name}.jpg")
            save(tmp_path / f"labels/{split}/{name}.png", ids(1))
    text(tmp_path / "lists/train.txt", "b\nmissing\n")
    with pytest.raises(
        FileNotFoundError, match=r"train.txt: names 'missing', but there is no .*images/train/missing\.\*"
    ):
        open_dataset(tmp_path, "train")
    text(tmp_path / "lists/train.txt", "b\n")
    train = open_dataset(tmp_path, "train")
    assert [str(sample.photo.relative_to(tmp_path)) for sample in train] == ["images/train/b.jpg"]


@pytest.mark.parametrize("place", ["lists", "splits", "."])
def test_list_files_make_splits(folder_root, place):
    text(folder_root / place / "train.txt", "\ufeffp3\nimages/p1.jpg\n")
    text(folder_root / place / "test.txt", "p2\n")
    assert find_layout(folder_root).splits == ("train", "test")
    assert names_of(open_dataset(folder_root, "train")) == ["p3", "p1"]
    assert names_of(open_dataset(folder_root, "test")) == ["p2"]
    with pytest.raises(FileNotFoundError, match="no split 'val'; splits there: train, test, all"):
        open_dataset(folder_root, "val")


def test_without_lists_a_hash_splits_them(folder_root):
    text(folder_root / "README.txt", "no list")
    assert find_layout(folder_root).splits == ("train", "val")
    everything = names_of(open_dataset(folder_root, "all"))
    train, val = (names_of(open_dataset(folder_root, split)) for split in ("train", "val"))
    assert sorted(train + val) == everything
    assert len(everything) == 20
    assert val == ["p19", "p7"]
    photos(folder_root / "images", "new.jpg")
    save(folder_root / "masks/new.png", ids(1))
    assert names_of(open_dataset(folder_root, "val")) == val  # more photos move none


def test_the_hash_never_changes():
    assert [name for name in "abcdefgh" if split_by_hash(name) == "val"] == ["a", "c"]
    assert split_by_hash("stra\u00dfe") == "val"
    assert split_by_hash("folder/a") == split_by_hash("a")
    assert split_by_hash("e\u0301t\u00e9") == split_by_hash(
        "\u00e9te\u0301"
    )  # file systems differ in how they spell an accent


@given(st.sets(st.text("abcdefghij0123456789_", min_size=1, max_size=12), min_size=400, max_size=500))
def test_about_a_fifth_is_for_validation(names):
    share = sum(split_by_hash(name) == "val" for name in names) / len(names)
    assert 0.08 < share < 0.32  # six standard deviations


def test_samples_can_be_pickled(folder_root):
    text(folder_root / "classes.txt", "0 sky\n1 road\n2 void\n")
    sample = pickle.loads(pickle.dumps(open_dataset(folder_root, "all")[0]))
    assert np.array_equal(sample.read_labels(), ids(1, 255, 255))


def test_classes_found_in_the_masks_of_all_splits(folder_root):
    (folder_root / "classes.txt").unlink()
    save(folder_root / "masks/p7.png", ids(4, 255))  # p7 is in "val"
    assert open_dataset(folder_root, "train").class_names == tuple(f"class {i}" for i in range(5))
    assert open_dataset(folder_root, "train")[0].read_labels().max() == 255


def test_black_and_white_masks_are_refused_where_classes_must_be_found(folder_root):
    (folder_root / "classes.txt").unlink()
    for path in (folder_root / "masks").iterdir():
        save(path, ids(255, 255))
    with pytest.raises(ValueError, match=r"masks: the masks hold no id but 0 and 255.*'object 255 255 255'"):
        open_dataset(folder_root, "train")


def test_colour_masks_without_a_table_are_refused(folder_root):
    (folder_root / "classes.txt").unlink()
    save(folder_root / "masks/p3.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    message = r"p3.png: got a RGB mask, wanted .*; .*'name red green blue'"
    one = next(sample for sample in open_dataset(folder_root, "all") if sample.name == "p3")
    with pytest.raises(ValueError, match=message):
        one.read_labels()
    for file in (folder_root / "masks").iterdir():
        save(file, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    with pytest.raises(ValueError, match=message.replace("3", "0")):
        open_dataset(folder_root, "all")


def test_missing_and_clashing_files_are_named(folder_root):
    (folder_root / "masks/p4.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"images/p4.jpg: no mask of that stem in .*masks; put it there as p4.png"
    ):
        open_dataset(folder_root, "train")
    (folder_root / "masks/p5.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"\(1 more problems: deeplab check-data"):
        open_dataset(folder_root, "train")
    for name in ("p4", "p5"):
        save(folder_root / f"masks/{name}.png", ids(1))
    save(folder_root / "masks/extra.png", ids(1))
    assert len(open_dataset(folder_root, "all")) == 20  # a mask without photo does no harm
    photos(folder_root / "images", "p6.png")
    with pytest.raises(ValueError, match=r"two photos: p6\.jpg and p6\.png; keep one"):
        open_dataset(folder_root, "all")
    (folder_root / "images/p6.png").unlink()
    save(folder_root / "gt/p6.png", ids(1))
    with pytest.raises(ValueError, match="masks in masks and in gt; wanted one folder"):
        open_dataset(folder_root, "all")


def test_a_split_that_would_be_empty(tmp_path):
    photos(tmp_path / "images", "b.jpg")
    save(tmp_path / "masks/b.png", ids(1))
    with pytest.raises(
        ValueError,
        match=r"no photos in split 'val' \(1 in all, split by a hash of their names\); .*lists/val.txt",
    ):
        open_dataset(tmp_path, "val")
    text(tmp_path / "val.txt", "\n")
    with pytest.raises(ValueError, match=r"the list .*val.txt is empty"):
        open_dataset(tmp_path, "val")


def test_folders_that_are_no_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        open_dataset(tmp_path / "nowhere", "train")
    text(tmp_path / "images/notes.txt", "")
    with pytest.raises(ValueError, match=r"unknown layout; wanted PASCAL VOC or CVAT .* labelme"):
        open_dataset(tmp_path, "train")
    text(tmp_path / "file.txt", "")
    with pytest.raises(ValueError, match=r"file\.txt"):
        open_dataset(tmp_path / "file.txt", "train")


def test_links_to_folders_are_followed_once(folder_root):
    (folder_root / "images").rename(folder_root / "elsewhere")
    (folder_root / "images").mkdir()
    (folder_root / "images/train").symlink_to(folder_root / "elsewhere")
    (folder_root / "elsewhere/loop").symlink_to(folder_root / "images")
    (folder_root / "masks").rename(folder_root / "old")
    (folder_root / "old").rename(folder_root / "masks")
    (folder_root / "masks/train").mkdir()
    for path in (folder_root / "masks").glob("*.png"):
        path.rename(folder_root / "masks/train" / path.name)
    assert len(open_dataset(folder_root, "train")) == 20


# --- masks as files


@pytest.mark.parametrize("kind", ["grey", "palette", "16 bits", "1 bit", "tiff"])
def test_ids_of_masks_in_many_forms(tmp_path, kind):
    path = tmp_path / ("mask.tif" if kind == "tiff" else "mask.png")
    expected = ids(1) if kind == "1 bit" else ids(1, 7, 255)
    mask = Image.fromarray(expected.astype({"1 bit": bool, "16 bits": np.uint16}.get(kind, np.uint8)))
    if kind == "palette":
        mask.putpalette(palette()[::-1].tobytes())
    mask.save(path)
    read = read_ids(path)
    assert read.dtype == np.uint8
    assert np.array_equal(read, expected)


def test_masks_that_cannot_be_read_say_why(tmp_path):
    path = tmp_path / "mask.png"
    with pytest.raises(FileNotFoundError, match=r"mask.png"):
        read_ids(path)
    save(path, np.full((HEIGHT, WIDTH), 300, np.uint16))
    with pytest.raises(ValueError, match=r"mask.png: ids from 300 to 300; ids must be 0 to 254"):
        read_ids(path)
    save(path, ids(1), format="JPEG")
    with pytest.raises(ValueError, match=r"mask.png: a mask saved as JPEG.*; export the labels again as PNG"):
        read_ids(path)
    noise = np.random.default_rng(0).integers(0, 9, (60, 90)).astype(np.uint8)
    save(path, noise)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"mask.png: cannot be decoded \(.+\); copy or export it again"):
        read_ids(path)
    path.write_text("no picture")
    with pytest.raises(ValueError, match=r"mask.png: cannot be decoded \(cannot identify image file\)"):
        read_ids(path)
    Image.new("LA", (WIDTH, HEIGHT)).save(path)
    with pytest.raises(ValueError, match="got a LA mask"):
        read_ids(path)


# --- the data for measuring


@needs_data
def test_the_measuring_data_opens_without_options():
    train = open_dataset(SHARED / "camvid", "train")
    assert (len(train), len(open_dataset(SHARED / "camvid", "test"))) == (367, 233)
    assert train.class_names[0::10] == ("sky", "bicyclist")
    read = train[0].read_labels()
    assert read.shape == (360, 480)
    assert set(np.unique(read)) <= {*range(11), 255}
    assert np.array_equal(read == 255, read_ids(train[0].labels) == 11)
    for split, count in (("train", 457), ("train_aug", 1623), ("val", 80)):
        dataset = open_dataset(SHARED / "voc", split)
        assert len(dataset) == count
        assert dataset.class_names == VOC_CLASSES
