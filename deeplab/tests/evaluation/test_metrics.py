import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, distance_transform_cdt
from torchmetrics.classification import MulticlassJaccardIndex

from deeplab.evaluation.metrics import (
    band_matrices,
    boundary_band,
    class_iou,
    class_recall,
    confusion_matrix,
    frequency_weighted_iou,
    mean_iou,
    mean_recall,
    pixel_accuracy,
    void_distance,
)

# 4×4 pixels that count, and a column of void
TRUTH = np.array([[0, 0, 1, 1, 255], [0, 0, 1, 1, 255], [2, 2, 1, 1, 255], [2, 2, 2, 2, 255]])
GUESS = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 1, 1], [2, 2, 2, 1, 2], [2, 2, 0, 2, 3]])


def test_by_hand():
    confusion = confusion_matrix(TRUTH, GUESS, 4)
    assert confusion.tolist() == [[3, 1, 0, 0], [0, 5, 1, 0], [1, 0, 5, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(class_iou(confusion), [3 / 5, 5 / 7, 5 / 7, np.nan])
    assert mean_iou(confusion) == pytest.approx((3 / 5 + 5 / 7 + 5 / 7) / 3)
    assert mean_iou(confusion, [0, 3]) == pytest.approx(3 / 5)
    assert pixel_accuracy(confusion) == pytest.approx(13 / 16)
    np.testing.assert_allclose(class_recall(confusion), [3 / 4, 5 / 6, 5 / 6, np.nan])
    assert mean_recall(confusion) == pytest.approx((3 / 4 + 5 / 6 + 5 / 6) / 3)
    assert frequency_weighted_iou(confusion) == pytest.approx((4 * 3 / 5 + 6 * 5 / 7 + 6 * 5 / 7) / 16)


def test_absent_classes_by_their_rule():
    confusion = confusion_matrix(TRUTH, GUESS, 4)
    assert mean_iou(confusion, absent="left out") == mean_iou(confusion)
    assert mean_iou(confusion, absent="counted as zero") == pytest.approx((3 / 5 + 5 / 7 + 5 / 7 + 0) / 4)
    assert mean_iou(confusion, [0, 3], absent="counted as zero") == pytest.approx((3 / 5 + 0) / 2)
    with pytest.raises(ValueError, match="got absent = 'ignored', wanted 'left out' or 'counted as zero'"):
        mean_iou(confusion, absent="ignored")


def test_a_class_that_is_only_predicted_counts():
    confusion = confusion_matrix(np.zeros((2, 4), int), np.array([[0, 0, 0, 1], [0, 0, 0, 0]]), 3)
    np.testing.assert_allclose(class_iou(confusion), [7 / 8, 0, np.nan])
    assert mean_iou(confusion) == pytest.approx(7 / 16)
    np.testing.assert_allclose(class_recall(confusion), [7 / 8, np.nan, np.nan])
    assert mean_recall(confusion) == pytest.approx(7 / 8)
    assert frequency_weighted_iou(confusion) == pytest.approx(7 / 8)


def test_nothing_to_score():
    confusion = confusion_matrix(np.full((2, 3), 255), np.zeros((2, 3), int), 2)
    for measure in (mean_iou, pixel_accuracy, mean_recall, frequency_weighted_iou):
        assert np.isnan(measure(confusion)), measure
    assert mean_iou(confusion, absent="counted as zero") == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(0, 9999))
def test_agrees_with_torchmetrics(classes, seed):
    rng = np.random.default_rng(seed)
    truth, guess = rng.integers(classes, size=(7, 11)), rng.integers(classes, size=(7, 11))
    truth[rng.uniform(size=truth.shape) < 0.2] = 255
    metric = MulticlassJaccardIndex(classes, average="none", ignore_index=255)
    expected = metric(torch.from_numpy(guess), torch.from_numpy(truth)).numpy()
    confusion = confusion_matrix(truth, guess, classes)
    np.testing.assert_allclose(np.nan_to_num(class_iou(confusion)), expected, rtol=1e-5)
    assert mean_iou(confusion, absent="counted as zero") == pytest.approx(expected.mean(), rel=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 8), st.integers(0, 9999))
def test_mean_agrees_with_torchmetrics_where_classes_are_absent(classes, seed):
    rng = np.random.default_rng(seed)
    present = rng.permutation(classes)[: rng.integers(1, classes)]
    truth, guess = rng.choice(present, size=(4, 6)), rng.choice(present, size=(4, 6))
    truth[rng.uniform(size=truth.shape) < 0.3] = 255
    metric = MulticlassJaccardIndex(classes, average="macro", ignore_index=255)
    expected = metric(torch.from_numpy(guess), torch.from_numpy(truth)).item()
    assert np.nan_to_num(mean_iou(confusion_matrix(truth, guess, classes))) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize(
    ("truth", "guess", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "wanted one size"),
        (np.zeros((2, 3), int), np.full((2, 3), 4), "got id 4 in the prediction"),
        (np.full((2, 3), 9), np.zeros((2, 3), int), "got id 9 in the labels"),
        (np.zeros((2, 3), int), np.full((2, 3), 255), "got id 255 in the prediction"),
    ],
)
def test_misfits_are_refused(truth, guess, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(truth, guess, 4)


def test_band_pixel_by_pixel():
    truth = np.zeros((9, 12), int)
    truth[3:5, 4:7] = 255
    picture = [
        "............",
        "............",
        "...#####....",
        "...#   #....",
        "...#   #....",
        "...#####....",
        "............",
        "............",
        "............",
    ]
    expected = np.array([[cell == "#" for cell in line] for line in picture])
    assert np.array_equal(boundary_band(truth, 1), expected)
    assert boundary_band(truth, 2).sum() == 6 * 7 - 6
    assert boundary_band(np.zeros((9, 12), int), 3).sum() == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 25), st.integers(0, 9999))
def test_band_is_a_dilation(height, width, reach, seed):
    void = np.random.default_rng(seed).uniform(size=(height, width)) < 0.05
    grown = binary_dilation(void, np.ones((2 * reach + 1, 2 * reach + 1)))
    assert np.array_equal(boundary_band(np.where(void, 255, 0), reach), grown & ~void)


def test_distance_pixel_by_pixel():
    """All trimap masks at once: a band of width w is where the digit is 1 to w."""
    truth = np.zeros((9, 12), int)
    truth[3:5, 4:7] = truth[8, 11] = 255
    picture = [
        "433333333345",
        "432222222345",
        "432111112345",
        "432100012345",
        "432100012344",
        "432111112333",
        "432222222222",
        "433333333211",
        "444444443210",
    ]
    expected = np.array([[int(cell) for cell in line] for line in picture])
    assert np.array_equal(void_distance(truth, 5), expected)
    assert np.array_equal(void_distance(truth, 2), np.minimum(expected, 3))
    for width in range(1, 6):
        assert np.array_equal(boundary_band(truth, width), (expected > 0) & (expected <= width))
    assert np.array_equal(void_distance(np.zeros((2, 3), int), 4), np.full((2, 3), 5))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 25), st.integers(0, 9999))
def test_distance_is_the_chessboard_distance(height, width, max_distance, seed):
    void = np.random.default_rng(seed).uniform(size=(height, width)) < 0.05
    void[0, 0] = True
    expected = np.minimum(distance_transform_cdt(~void, "chessboard"), max_distance + 1)
    assert np.array_equal(void_distance(np.where(void, 255, 3), max_distance), expected)


def test_bands_by_hand():
    confusion, bands = band_matrices(TRUTH, GUESS, 4, (2, 1, 9))
    assert list(bands) == [1, 2, 9]
    assert np.array_equal(confusion, confusion_matrix(TRUTH, GUESS, 4))
    assert bands[1].tolist() == [[0] * 4, [0, 3, 0, 0], [0, 0, 1, 0], [0] * 4]  # the column beside void
    assert bands[2].tolist() == [[0] * 4, [0, 5, 1, 0], [1, 0, 1, 0], [0] * 4]
    assert np.array_equal(bands[9], confusion)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.sets(st.integers(1, 25), max_size=5), st.integers(0, 9999))
def test_bands_of_one_pass_are_those_one_by_one(height, width, widths, seed):
    rng = np.random.default_rng(seed)
    truth, guess = rng.integers(3, size=(2, height, width)).astype(np.uint8)
    truth[rng.uniform(size=truth.shape) < 0.05] = 255
    confusion, bands = band_matrices(truth, guess, 3, sorted(widths))
    assert np.array_equal(confusion, confusion_matrix(truth, guess, 3))
    assert set(bands) == widths
    for band, matrix in bands.items():
        near = boundary_band(truth, band)
        assert np.array_equal(matrix, confusion_matrix(truth[near], guess[near], 3))


def test_band_needs_a_width():
    for bands in (
        lambda: boundary_band(np.zeros((2, 3), int), 0),
        lambda: band_matrices(TRUTH, GUESS, 4, (5, 0)),
    ):
        with pytest.raises(ValueError, match="got a band of 0 px, wanted at least 1"):
            bands()
