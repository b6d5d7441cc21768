import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation
from torchmetrics.classification import MulticlassJaccardIndex

from deeplab.metrics import boundary_band, class_iou, confusion_matrix, mean_iou, pixel_accuracy

TRUTH = np.array([[0, 0, 1, 1, 255], [0, 0, 1, 1, 255], [2, 2, 1, 1, 255], [2, 2, 2, 2, 255]])
GUESS = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 1, 1], [2, 2, 2, 1, 2], [2, 2, 0, 2, 3]])


def test_by_hand():
    confusion = confusion_matrix(TRUTH, GUESS, 4)
    assert confusion.tolist() == [[3, 1, 0, 0], [0, 5, 1, 0], [1, 0, 5, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(class_iou(confusion), [3 / 5, 5 / 7, 5 / 7, np.nan])
    assert mean_iou(confusion) == pytest.approx((3 / 5 + 5 / 7 + 5 / 7) / 3)
    assert mean_iou(confusion, [0, 3]) == pytest.approx(3 / 5)
    assert pixel_accuracy(confusion) == pytest.approx(13 / 16)


def test_nothing_to_score():
    confusion = confusion_matrix(np.full((2, 3), 255), np.zeros((2, 3), int), 2)
    assert np.isnan(mean_iou(confusion))
    assert np.isnan(pixel_accuracy(confusion))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(0, 9999))
def test_agrees_with_torchmetrics(classes, seed):
    rng = np.random.default_rng(seed)
    truth, guess = rng.integers(classes, size=(7, 11)), rng.integers(classes, size=(7, 11))
    truth[rng.uniform(size=truth.shape) < 0.2] = 255
    metric = MulticlassJaccardIndex(classes, average="none", ignore_index=255)
    wanted = metric(torch.from_numpy(guess), torch.from_numpy(truth)).numpy()
    found = class_iou(confusion_matrix(truth, guess, classes))
    np.testing.assert_allclose(np.nan_to_num(found), wanted, rtol=1e-5)


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
    wanted = np.array([[cell == "#" for cell in line] for line in picture])
    assert np.array_equal(boundary_band(truth, 1), wanted)
    assert boundary_band(truth, 2).sum() == 6 * 7 - 6
    assert boundary_band(np.zeros((9, 12), int), 3).sum() == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 25), st.integers(0, 9999))
def test_band_is_a_dilation(height, width, reach, seed):
    void = np.random.default_rng(seed).uniform(size=(height, width)) < 0.05
    grown = binary_dilation(void, np.ones((2 * reach + 1, 2 * reach + 1)))
    assert np.array_equal(boundary_band(np.where(void, 255, 0), reach), grown & ~void)


def test_band_needs_a_width():
    with pytest.raises(ValueError, match="wanted at least 1"):
        boundary_band(np.zeros((2, 3), int), 0)
