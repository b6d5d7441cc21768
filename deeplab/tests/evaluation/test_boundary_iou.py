import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab.evaluation.boundary_iou import boundary_overlap, class_boundary_iou, inner_band


def ids(*lines):
    return np.array([[255 if cell == "x" else int(cell) for cell in line] for line in lines])


def blocks(rng, height, width, classes=3):
    return np.kron(rng.integers(classes, size=(9, 9)), np.ones((4, 4), int))[:height, :width]


def test_band_pixel_by_pixel():
    labels = ids("1111111", "1111111", "1111100", "1111100", "1111111")
    expected = ids("1111111", "1000111", "1000111", "1000111", "1111111")  # the image's border is a contour
    assert np.array_equal(inner_band(labels, 1), expected == 1)
    assert inner_band(labels, 2).sum() == 35 - 1  # all but (2, 2)
    assert not inner_band(labels, 2)[2, 2]


def test_by_hand():
    """A 4×4 square in 8×10 pixels, predicted one column to the right; bands of one pixel."""
    truth, guess = np.zeros((2, 8, 10), int)
    truth[2:6, 2:6] = 1
    guess[2:6, 3:7] = 1
    overlap = boundary_overlap(truth, guess, 3, width=0.01)
    # Of class 1 the bands are rings of 12 pixels; they share columns 3 to 5 of the first and last row, and no
    # pixel of the rows between: truth has columns 2 and 5 there, the prediction 3 and 6.
    assert overlap[1].tolist() == [6, 12 + 12 - 6]
    # Of class 0: 32 pixels at the border, and 20 around the square: rows 1 and 6, columns 1 and 6 for the
    # truth, 2 and 7 for the prediction. Of these they share columns 2 to 6 of both rows.
    assert overlap[0].tolist() == [32 + 2 * 5, 32 + 2 * 20 - 2 * 5]
    np.testing.assert_allclose(class_boundary_iou(overlap), [42 / 62, 1 / 3, np.nan])


def test_void_takes_the_prediction_and_does_not_count():
    truth = ids(*["0000xx1111"] * 9)
    for column in (4, 5, 6):
        guess = np.zeros((9, 10), int)
        guess[:, column:] = 1
        overlap = boundary_overlap(truth, guess, 2, width=0.15)
        assert (overlap[:, 0] == overlap[:, 1]).all()
        assert overlap.sum() <= 2 * 72
    guess[:, 3:] = 1
    overlap = boundary_overlap(truth, guess, 2, width=0.15)  # now (all rows, column 3) is wrong
    assert (overlap[:, 0] < overlap[:, 1]).all()


def test_missed_and_made_up_classes_score_zero():
    truth, guess = ids("0011", "0011", "0000"), ids("2200", "2200", "0000")
    iou = class_boundary_iou(boundary_overlap(truth, guess, 4))
    assert iou[1] == 0
    assert iou[2] == 0
    assert np.isnan(iou[3])


def brute_force(truth, guess, name, width):
    """Intersection and union of one class, pixel by pixel."""

    def band(mask):
        height, length = mask.shape
        out = np.zeros_like(mask)
        for row, column in np.argwhere(mask):
            rows, columns = (
                slice(max(0, row - width), row + width + 1),
                slice(max(0, column - width), column + width + 1),
            )
            at_border = row < width or column < width or row >= height - width or column >= length - width
            out[row, column] = at_border or not mask[rows, columns].all()
        return out

    valid = truth != 255
    a, b = (band(labels == name) & valid for labels in (np.where(valid, truth, guess), guess))
    return [(a & b).sum(), (a | b).sum()]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0.01, 0.3), st.integers(0, 9999))
def test_agrees_with_brute_force(height, width, share, seed):
    rng = np.random.default_rng(seed)
    truth, guess = blocks(rng, height, width), blocks(rng, height, width)
    truth = np.where(rng.uniform(size=truth.shape) < 0.1, 255, truth).astype(np.uint8)
    pixels = max(1, round(share * np.hypot(height, width)))
    expected = [brute_force(truth, guess, name, pixels) for name in range(3)]
    assert boundary_overlap(truth, guess, 3, width=share).tolist() == expected


def test_agrees_with_the_sources_program_by_opencv():
    """Erosion of the mask with a border of one pixel of zeros, 2 % of the diagonal times."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    rng = np.random.default_rng(0)
    truth, guess = (np.kron(rng.integers(3, size=(6, 8)), np.ones((25, 31), int)) for _ in "ab")
    times = round(0.02 * np.hypot(*truth.shape))
    assert times > 2
    overlap = boundary_overlap(truth, guess, 3)
    for name in range(3):
        bands = []
        for labels in (truth, guess):
            mask = (labels == name).astype(np.uint8)
            padded = np.pad(mask, 1)
            eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=times)[1:-1, 1:-1]
            bands.append((mask - eroded) > 0)
        assert overlap[name].tolist() == [(bands[0] & bands[1]).sum(), (bands[0] | bands[1]).sum()]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9999))
def test_a_prediction_that_is_right_except_on_void_scores_one(seed):
    rng = np.random.default_rng(seed)
    guess = blocks(rng, 31, 23)
    truth = np.where(rng.uniform(size=guess.shape) < 0.2, 255, guess)
    iou = class_boundary_iou(boundary_overlap(truth, guess, 3))
    assert set(iou[np.isfinite(iou)]) == {1.0}


def test_misfits_are_refused():
    with pytest.raises(ValueError, match="wanted one size"):
        boundary_overlap(np.zeros((2, 3), int), np.zeros((3, 2), int), 2)
    with pytest.raises(ValueError, match="got a width of 0, wanted a share"):
        boundary_overlap(np.zeros((2, 3), int), np.zeros((2, 3), int), 2, width=0)
    with pytest.raises(ValueError, match="got ids from 2 to 2 in the labels, wanted 0 to 1"):
        boundary_overlap(np.full((2, 3), 2), np.zeros((2, 3), int), 2)
    with pytest.raises(ValueError, match="in the prediction, wanted 0 to 1"):
        boundary_overlap(np.zeros((2, 3), int), np.full((2, 3), 255), 2)
