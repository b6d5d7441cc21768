import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplab.datasets.coco_annotations import outline_mask
from deeplab.datasets.rasterize import circle, decode_run_lengths, mask_from_run_lengths, polygon, rectangle

HEIGHT, WIDTH = 5, 8


def drawn(picture):
    """A mask from lines of # and . (and digits for ids)."""
    rows = [line.strip() for line in picture.strip().splitlines()]
    return np.array([[0 if c == "." else 1 if c == "#" else int(c) for c in row] for row in rows], np.uint8)


def test_a_triangle_by_hand():
    # In row r the line y = r + 0.5 is inside from x = 1 to the slanted side, x = 7 - 1.5 y = 6.25, 4.75,
    # 3.25, 1.75.
    triangle = polygon(np.array([(1, 0), (7, 0), (1, 4)]), HEIGHT, WIDTH)
    assert np.array_equal(
        triangle,
        drawn("""
        .#####..
        .####...
        .##.....
        .#......
        ........
        """),
    )


def test_half_pixels_count_by_their_centres():
    assert np.array_equal(
        np.argwhere(rectangle([(1.5, 2.5), (3.5, 4.5)], HEIGHT, WIDTH)), [(2, 1), (2, 2), (3, 1), (3, 2)]
    )
    assert not rectangle([(1.6, 2.6), (2.4, 3.4)], HEIGHT, WIDTH).any()  # between centres
    assert np.array_equal(
        np.argwhere(rectangle([(3, 2), (2, 1)], HEIGHT, WIDTH)), [(1, 2)]
    )  # corners in any order


def test_a_polygon_that_leaves_the_picture_and_one_that_crosses_itself():
    assert polygon(np.array([(-9, -9), (99, -9), (99, 99), (-9, 99)]), HEIGHT, WIDTH).all()
    bow = polygon(np.array([(0, 0), (8, 4), (8, 0), (0, 4)]), HEIGHT, WIDTH)
    assert np.array_equal(
        bow,
        drawn("""
        #......#
        ###..###
        ###..###
        #......#
        ........
        """),
    )


def test_a_circle_by_hand():
    # About (3, 2) with r = 2: centres at offsets ±0.5 and ±1.5; 1.5² + 0.5² = 2.5 is inside, 1.5² + 1.5² =
    # 4.5 is not.
    assert np.array_equal(
        circle((3, 2), 2, HEIGHT, WIDTH),
        drawn("""
        ..##....
        .####...
        .####...
        ..##....
        ........
        """),
    )


@pytest.mark.parametrize("points", [[(0, 0), (1, 1)], [(0, 0), (1, 1), (np.nan, 0)], [0, 1, 2]])
def test_no_polygon(points):
    with pytest.raises(ValueError, match="wanted at least three points"):
        polygon(np.array(points), HEIGHT, WIDTH)


numbers = st.integers(-8, 24).map(lambda n: n / 2)  # multiples of half a pixel: vertices fall on centres, too
corners = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=7)


@given(corners)
def test_polygon_against_a_ray_from_every_centre(points):
    expected = np.zeros((HEIGHT, WIDTH), bool)
    for row, column in np.ndindex(HEIGHT, WIDTH):
        x, y = column + 0.5, row + 0.5
        for edge in zip(points, points[1:] + points[:1], strict=True):
            (x0, y0), (x1, y1) = sorted(edge, key=lambda end: end[1])
            if (y0 <= y) != (y1 <= y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x:
                expected[row, column] ^= True
    assert np.array_equal(polygon(np.array(points), HEIGHT, WIDTH), expected)


@given(st.tuples(numbers, numbers), st.tuples(numbers, numbers))
def test_neighbours_share_no_pixel_and_leave_no_gap(one, two):
    frame = np.array([(-20, -20), (40, -20), (40, 40), (-20, 40)], float)
    upper = polygon(np.array([frame[0], frame[1], one, two]), HEIGHT, WIDTH)
    lower = polygon(np.array([two, one, frame[2], frame[3]]), HEIGHT, WIDTH)
    left = polygon(np.array([frame[0], two, frame[3]]), HEIGHT, WIDTH)
    right = polygon(np.array([frame[1], frame[2], one]), HEIGHT, WIDTH)
    times = (
        upper.astype(int) + lower + left + right
    )  # four pieces of the frame; each pixel is in an odd number
    assert (times % 2 == 1).all()


def test_runs_go_down_the_columns():
    mask = drawn("""
    .#..
    ..#.
    .#..
    """)
    # column 0: 3 outside; column 1: 1 in, 1 out, 1 in; column 2: 1 out, 1 in, 1 out; column 3: 3 out
    assert np.array_equal(mask_from_run_lengths([3, 1, 1, 1, 1, 1, 4], 3, 4), mask == 1)
    assert np.array_equal(mask_from_run_lengths([0, 12], 3, 4), np.ones((3, 4), bool))
    for counts in ([3, 1], [3, -1, 10]):
        with pytest.raises(ValueError, match=r"got runs of .* pixels, wanted 3·4 = 12, none below 0"):
            mask_from_run_lengths(counts, 3, 4)


def test_compressed_runs_by_hand():
    # 3, 2, 4 as they are; then 1 - 2 = -1 is 11111 or 'O', 2 - 4 = -2 is 11110 or 'N'.
    assert decode_run_lengths("324ON") == [3, 2, 4, 1, 2]
    # 100 = 3·32 + 4: 'T' = 48 + 4 + 32 (more to come), then '3'. 20 has the sign's bit set, so a 0 must
    # follow it.
    assert decode_run_lengths("T3d0") == decode_run_lengths(b"T3d0") == [100, 20]
    for wrong in ("3T", "3~", "3 "):
        with pytest.raises(ValueError, match="run lengths"):
            decode_run_lengths(wrong)


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.integers(1, 90), st.floats(0, 1))
def test_both_run_forms_against_pycocotools(seed, height, width, share):
    oracle = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    mask = np.random.default_rng(seed).random((height, width)) < share
    packed = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(outline_mask(packed, height, width), mask)
    unpacked = decode_run_lengths(packed["counts"])
    assert sum(unpacked) == height * width
    again = oracle.frPyObjects({"size": [height, width], "counts": unpacked}, height, width)
    assert again["counts"] == packed["counts"]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 60)), min_size=3, max_size=8, unique=True))
def test_polygons_against_pycocotools(points):
    oracle = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    flat = [float(value) for point in points for value in point]
    theirs = oracle.decode(oracle.merge(oracle.frPyObjects([flat], 60, 90))).astype(bool)
    ours = polygon(np.array(points, float), 60, 90)
    # They round the outline to fifths of a pixel: pixels whose centres it passes closer than that may differ.
    centres = np.stack(np.meshgrid(np.arange(90) + 0.5, np.arange(60) + 0.5), axis=2)
    nearest = np.full((60, 90), np.inf)
    for one, two in zip(points, points[1:] + points[:1], strict=True):
        a, step = np.array(one, float), np.array(two, float) - one
        along = np.clip((centres - a) @ step / max(step @ step, 1e-9), 0, 1)[..., None]
        nearest = np.minimum(nearest, np.linalg.norm(centres - a - along * step, axis=2))
    assert not ((ours != theirs) & (nearest > 0.36)).any()
