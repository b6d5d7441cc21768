import numpy as np
import pytest

from data_folders import photos, save, text
from deeplab.datasets.opening import open_dataset

HEIGHT, WIDTH = 6, 9


def ids(*values):
    """(6, 9) uint8: background with each value in a pixel of its own."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask.flat[1 : len(values) + 1] = values
    return mask


@pytest.fixture
def folder_root(tmp_path):
    """One sample of a photo and a mask of ids 0, 1, 2 and 255, and three class names."""
    photos(tmp_path / "images", "p0.jpg")
    save(tmp_path / "masks/p0.png", ids(1, 2, 255))
    text(tmp_path / "classes.txt", "ground\ncat\nsea horse\n")
    return tmp_path


def test_classes_as_camvid_writes_them(folder_root):
    text(folder_root / "classes.txt", "0 sky\n1 traffic light\n2 Void\n")
    dataset = open_dataset(folder_root, "all")
    assert dataset.class_names == ("sky", "traffic light")
    assert np.array_equal(dataset[0].read_labels(), ids(1, 255, 255))


VOID_FOR_0 = np.where(ids(1, 2) == 0, 255, ids(1, 2))


@pytest.mark.parametrize(
    ("files", "names", "mask", "expected"),
    [
        ({"classes.txt": "sky\nclass 1\n"}, ("sky", "class 1"), ids(1, 255), ids(1, 255)),
        ({"classes.txt": "0: sky\n2: road\n"}, ("sky", "class 1", "road"), ids(2), ids(2)),
        (
            {"classes.txt": "0 unlabeled\n1 sky\n2 road\n"},
            ("unlabeled", "sky", "road"),
            ids(1, 2),
            VOID_FOR_0,
        ),
        ({"class_names.txt": "__ignore__\nsky\ncat\n"}, ("__ignore__", "sky", "cat"), ids(1, 2), VOID_FOR_0),
        ({"classes.txt": "7\n3\n"}, ("7", "3"), ids(1), ids(1)),
        ({"classes.txt": "no 0 0 0\nyes 255 255 255\n"}, ("no", "yes"), ids(255), ids(1)),
        ({"classes.txt": "sky 0 0 0\nvoid 7 7 7\nroad 9 8 7\n"}, ("sky", "road"), ids(2, 1), ids(1, 255)),
    ],
)
def test_class_files_for_grey_masks(folder_root, files, names, mask, expected):
    (folder_root / "classes.txt").unlink()
    for name, content in files.items():
        text(folder_root / name, content)
    save(folder_root / "masks/p0.png", mask)
    dataset = open_dataset(folder_root, "all")
    assert dataset.class_names == names
    assert np.array_equal(dataset[0].read_labels(), expected)


@pytest.mark.parametrize(
    "files",
    [
        {"classes.txt": "sky 10 20 30\nroad 40 50 60\nvoid 0 0 0"},
        {"classes.txt": "0 sky 10 20 30\n1 road 40 50 60\n2 void 0 0 0"},
        {"classes.txt": "1,road,40,50,60\n0,sky,10,20,30\n2,void,0,0,0"},
        {"colors.txt": "10 20 30\tsky\n40 50 60\troad\n0 0 0\tVoid"},
        {"class_dict.csv": "name,r,g,b\nsky,10,20,30\nroad,40,50,60\nvoid,0,0,0"},
        {"labelmap.txt": "sky:10,20,30::\nroad:40,50,60::\nignored:0,0,0::"},
        {"classes.txt": "sky\nroad\nvoid", "colors.txt": "10 20 30\n40 50 60\n0 0 0"},
        {"classes.txt": "sky\nroad", "colours.txt": "road 40 50 60\nsky 10 20 30\nvoid 0 0 0"},
    ],
)
def test_class_files_for_colour_masks(folder_root, files):
    (folder_root / "classes.txt").unlink()
    for name, content in files.items():
        text(folder_root / name, content)
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[2], mask[3, 1:4] = (10, 20, 30), (40, 50, 60)
    save(folder_root / "masks/p0.png", mask)
    expected = np.full((HEIGHT, WIDTH), 255, np.uint8)
    expected[2], expected[3, 1:4] = 0, 1
    dataset = open_dataset(folder_root, "all")
    assert dataset.class_names == ("sky", "road")
    assert np.array_equal(dataset[0].read_labels(), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0 sky\nroad\n", "none to 'road'; wanted one for all or for none"),
        ("sky\nsky\n", "'sky' is there twice"),
        ("0 sky\n0 road\n", "0 is there twice"),
        ("0 sky\n255 road\n", "got id 255 for 'road', wanted 0 to 254; 255 is void"),
        ("0 sky\n256 void\n", "got id 256 for 'void'"),
        ("sky 1 2 300\n", r"line 1: got colour \(1, 2, 300\), wanted 0 to 255"),
        ("sky 1 2 3\nroad 1 2 3\n", r"colour \(1, 2, 3\) stands for two classes"),
        ("1 2 3\n4 5 6\n", "colours without names"),
        ("\n# nothing\n", "names no classes"),
        ("void\n", "nothing but void"),
        (", ,\n", "line 1: got ', ,', wanted 'name'"),
        ("\n".join(f"c{i}" for i in range(256)), "got id 255 for 'c255'"),
    ],
)
def test_invalid_class_files(folder_root, content, message):
    text(folder_root / "classes.txt", content)
    with pytest.raises(ValueError, match=message) as caught:
        open_dataset(folder_root, "all")
    assert "classes.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_colour_files_that_do_not_fit_the_names(folder_root):
    text(folder_root / "colors.txt", "1 2 3\n")
    with pytest.raises(ValueError, match="got 1 colours for 3 classes"):
        open_dataset(folder_root, "all")
    text(folder_root / "colors.txt", "dog 1 2 3\n")
    with pytest.raises(
        ValueError, match=r"colors.txt: 'dog' is no class; wanted one of ground, cat, sea horse"
    ):
        open_dataset(folder_root, "all")
    (folder_root / "classes.txt").write_bytes(b"\xff\xfe\x00c")
    with pytest.raises(ValueError, match=r"classes.txt: not UTF-8 text"):
        open_dataset(folder_root, "all")
