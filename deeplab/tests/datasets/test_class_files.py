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


@pytest.mark.parametrize(
    "content",
    [
        "sky 0\nroad 1\n",
        "road 1\nsky 0\n",
        "0;sky\n1;road\n",
        "sky = 0\nroad = 1\n",
        "\"sky\"\n'road'\n",
        "name,id\nsky,0\nroad,1\n",
        "id\tname\n0\tsky\n1\troad\n",
        "class_id;class_name\n1;road\n0;sky\n",
        "0 sky\n1 road\n",
    ],
)
def test_names_and_ids_written_in_many_ways(folder_root, content):
    text(folder_root / "classes.txt", content)
    save(folder_root / "masks/p0.png", ids(1, 255))
    dataset = open_dataset(folder_root, "all")
    assert dataset.class_names == ("sky", "road")
    assert np.array_equal(dataset[0].read_labels(), ids(1, 255))


@pytest.mark.parametrize(
    "content",
    [
        "sky #0a141e\nroad #28323C\n",
        "#0a141e sky\n#28323c road\n",
        "sky (10,20,30)\nroad (40, 50, 60)\n",
        "0,sky,[10,20,30]\n1,road,[40,50,60]\n",
        "'sky': (10, 20, 30),\n'road': (40, 50, 60),\n",
        "sky;10;20;30\nroad;40;50;60\n",
        "r,g,b,name\n10,20,30,sky\n40,50,60,road\n",
        "blue;green;red;class\n30;20;10;sky\n60;50;40;road\n",
        'name,color\nsky,"10,20,30"\nroad,#28323c\n',
        "label:color_rgb:parts:actions\nsky:10,20,30::\nroad:40,50,60::\n",
        "0 10 20 30 sky\n1 40 50 60 road\n",
    ],
)
def test_colours_written_in_many_ways(folder_root, content):
    text(folder_root / "classes.txt", content)
    mask = np.full((HEIGHT, WIDTH, 3), (10, 20, 30), np.uint8)
    mask[2, 1:4] = (40, 50, 60)
    save(folder_root / "masks/p0.png", mask)
    dataset = open_dataset(folder_root, "all")
    assert dataset.class_names == ("sky", "road")
    assert np.array_equal(dataset[0].read_labels(), np.all(mask == (40, 50, 60), axis=2))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("sky\nroad 5\n", 2),
        ("['sky', 'road']\n", 1),
        ("{'sky': 0}\n", 1),
        ("sky\n- road\n", 2),
        ("names:\n  0: sky\n", 1),
        ("sky,road,car\n", 1),
        ("sky|road\n", 1),
        ("0.5 0.1 road\n", 1),
        ("sky\nroad 1 128 0 0\n", 2),
        ("name,id\nsky,0\nroad\n", 3),
        ("name,id\nsky,zero\n", 2),
        ("r,g,b,name\n1,2,300,sky\n", 2),
        ("sky #12345\n", 1),
        ('sky\n"road\n', 2),
        ("<item>sky</item>\n", 1),
    ],
)
def test_odd_lines_never_become_names(folder_root, content, line):
    text(folder_root / "classes.txt", content)
    with pytest.raises(ValueError, match=rf"classes.txt, line {line}: ") as caught:
        open_dataset(folder_root, "all")
    assert "wanted" in str(caught.value)


@pytest.mark.parametrize("names", ["background\nCat\ncat\n", "0 sky\n1 Sky\n"])
def test_names_that_differ_only_in_capitals_are_refused(folder_root, names):
    text(folder_root / "classes.txt", names)
    with pytest.raises(ValueError, match=r"'(Cat|sky)' and '(cat|Sky)' differ only in capitals"):
        open_dataset(folder_root, "all")


@pytest.mark.parametrize(
    "content", ["__ignore__\n_background_\ncat\ndog\n", "-1 __ignore__\n0 _background_\n1 cat\n2 dog\n"]
)
def test_file_of_labels_as_labelme_has_it(folder_root, content):
    (folder_root / "classes.txt").unlink()
    text(folder_root / "labels.txt", content)
    dataset = open_dataset(folder_root, "all")
    assert dataset.class_names == ("background", "cat", "dog")
    assert np.array_equal(dataset[0].read_labels(), ids(1, 2, 255))


def test_names_with_numbers_or_other_signs(folder_root):
    text(folder_root / "classes.txt", "class 0\nclass 1\nclass 2\n")
    assert open_dataset(folder_root, "all").class_names == ("class 0", "class 1", "class 2")
    text(folder_root / "classes.txt", '"level 5, upper"\nbull\'s eye\nroad (paved)\n')
    assert open_dataset(folder_root, "all").class_names == ("level 5, upper", "bull's eye", "road (paved)")
    text(folder_root / "classes.txt", "_background_\ncat\ndog\n")
    assert open_dataset(folder_root, "all").class_names == ("background", "cat", "dog")
