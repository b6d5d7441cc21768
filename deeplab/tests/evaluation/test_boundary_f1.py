import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from deeplab.evaluation.boundary_f1 import boundary_f1, boundary_pixels, mean_boundary_f1


def ids(*lines):
    return np.array([[255 if cell == "x" else int(cell) for cell in line] for line in lines])


def test_boundary_pixel_by_pixel():
    labels = ids("00000", "01100", "01120", "00000")
    expected = ids(
        "01100", "11110", "11111", "01110"
    )  # the corner touches nothing; the picture's edge is no boundary
    assert np.array_equal(boundary_pixels(labels), expected == 1)


def test_by_hand():
    """3×4, diagonal 5, tolerance 0.3: nearer than 1.5 px is a match, so a diagonal neighbour still is one."""
    truth = ids("0001", "0001", "0001")
    guess = ids("0011", "0001", "0000")
    # Boundary of class 1: column 3; guessed (0, 2) and (1, 3). Of class 0: column 2; guessed (0, 1), (1, 2),
    # (2, 3).
    scores = boundary_f1(truth, guess, 3, tolerance=0.3)
    np.testing.assert_allclose(scores, [1, 1, np.nan])
    # Nearer than 1 px is only the same pixel: of class 1 (1, 3), 1 of 2 and 1 of 3; of class 0 (1, 2), 1 of 3
    # and of 3.
    scores = boundary_f1(truth, guess, 3, tolerance=0.2)
    np.testing.assert_allclose(scores, [1 / 3, 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3), np.nan])
    assert mean_boundary_f1(np.stack([scores, [np.nan, np.nan, 1], [np.nan] * 3])) == pytest.approx(
        ((1 / 3 + 0.4) / 2 + 1) / 2
    )


def test_a_class_that_is_missed_scores_zero_and_one_that_is_made_up_does_not_count():
    truth, guess = ids("0011", "0011", "0000"), ids("2200", "2200", "0000")
    scores = boundary_f1(truth, guess, 4, tolerance=0.2)
    assert scores[1] == 0
    assert np.isnan(scores[2:]).all()


def test_unmatched_boundary_on_void_is_left_out():
    truth = ids(*["00x111xx"] * 4)  # boundaries: of 0 column 1, of 1 columns 3 and 5
    guess = ids(*["00011111"] * 4)  # boundaries: of 0 column 2, of 1 column 3
    tolerance = 1.05 / np.hypot(4, 8)
    np.testing.assert_allclose(
        boundary_f1(truth, guess, 2, tolerance=tolerance), [1, 2 * 1 * (4 / 8) / (1 + 4 / 8)]
    )
    guess[:, 7] = (
        0  # further boundaries: of 0 column 7, which has no match but lies on void; of 1 column 6, matched
    )
    np.testing.assert_allclose(boundary_f1(truth, guess, 2, tolerance=tolerance), [1, 1])
    truth[:, 7] = 1  # now column 7 is known not to be 0; true boundaries of 1: columns 3, 5 and 7
    np.testing.assert_allclose(boundary_f1(truth, guess, 2, tolerance=tolerance), [2 / 3, 1])


def test_nothing_to_score():
    whole = np.zeros((3, 5), int)
    assert np.isnan(boundary_f1(whole, whole, 2)).all()
    assert np.isnan(mean_boundary_f1(np.full((2, 3), np.nan)))
    assert np.isnan(mean_boundary_f1(np.empty((0, 3))))


def test_misfits_are_refused():
    with pytest.raises(ValueError, match="wanted one size"):
        boundary_f1(np.zeros((2, 3), int), np.zeros((3, 2), int), 2)
    with pytest.raises(ValueError, match="got a tolerance of 0, wanted a share"):
        boundary_f1(np.zeros((2, 3), int), np.zeros((2, 3), int), 2, tolerance=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 25), st.integers(2, 25), st.floats(0.02, 0.5), st.integers(0, 9999))
def test_agrees_with_a_distance_transform(height, width, tolerance, seed):
    rng = np.random.default_rng(seed)
    truth, guess = (
        np.kron(rng.integers(3, size=(9, 9)), np.ones((3, 3), int))[:height, :width] for _ in "ab"
    )
    truth = np.where(rng.uniform(size=truth.shape) < 0.1, 255, truth)
    radius = tolerance * np.hypot(height, width)
    found = boundary_f1(truth, guess, 3, tolerance=tolerance)
    for name in range(3):
        real, predicted = (boundary_pixels(labels) & (labels == name) for labels in (truth, guess))
        if not real.any():
            assert np.isnan(found[name])
            continue
        to_real = distance_transform_edt(~real) < radius
        to_predicted = (
            distance_transform_edt(~predicted) < radius if predicted.any() else np.zeros_like(predicted)
        )
        counted = predicted & (to_real | (truth != 255))
        precision, recall = (to_real & counted).sum() / max(1, counted.sum()), to_predicted[real].mean()
        expected = 2 * precision * recall / (precision + recall) if precision and recall else 0
        assert found[name] == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9999))
def test_a_perfect_prediction_scores_one(seed):
    labels = np.kron(np.random.default_rng(seed).integers(4, size=(4, 5)), np.ones((3, 4), int))
    scores = boundary_f1(labels, labels, 5)
    assert set(scores[np.isfinite(scores)]) <= {1.0}
