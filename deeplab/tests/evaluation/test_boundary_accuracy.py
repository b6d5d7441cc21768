import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab.evaluation.boundary_accuracy import (
    boundary_accuracy,
    disk,
    mean_boundary_accuracy,
    radii_for,
)


def test_radii():
    assert radii_for((375, 500)) == [1, 1, 1, 2, 2]
    assert radii_for((3000, 4000)) == [1, 5, 9, 14, 18]
    assert radii_for((20, 30)) == [1, 1, 1, 1, 1]
    assert radii_for((3, 4)) == [1, 1, 1, 1, 1]


def test_by_hand():
    """Small images have the radius 1 alone: a disk of a pixel and its four neighbours."""
    truth = np.zeros((4, 7), int)
    truth[:, 3:] = 1
    guess = truth.copy()
    guess[0, 3] = guess[1, 2] = guess[3, 6] = 0  # (1, 2) is right, (3, 6) is far from the boundary
    assert boundary_accuracy(truth, guess) == pytest.approx(7 / 8)  # of columns 2 and 3 one pixel is wrong
    truth[0, 2] = 255  # then (0, 1) also counts, as next to another id, and (0, 2) not
    assert boundary_accuracy(truth, guess) == pytest.approx(7 / 8)
    truth[0, 3] = 255  # next to void: (0, 4) besides; all 8 that count are right
    assert boundary_accuracy(truth, guess) == 1


def test_nothing_to_score():
    assert np.isnan(boundary_accuracy(np.zeros((3, 5), int), np.ones((3, 5), int)))
    assert np.isnan(boundary_accuracy(np.full((3, 5), 255), np.ones((3, 5), int)))
    assert np.isnan(mean_boundary_accuracy(np.array([np.nan])))
    assert np.isnan(mean_boundary_accuracy(np.array([])))
    assert mean_boundary_accuracy(np.array([0.5, np.nan, 1])) == 0.75


def test_disks_are_those_of_opencv():
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    for radius in range(1, 25):
        side = 2 * radius + 1
        rows = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)).sum(1)
        assert [2 * half + 1 for half in disk(radius)] == rows[radius:].tolist()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9999), st.floats(0, 0.2))
def test_agrees_with_the_sources_program_by_opencv(seed, void):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    rng = np.random.default_rng(seed)
    truth, guess = (
        np.kron(rng.integers(3, size=(8, 9)), np.ones((60, 80), np.uint8)).astype(np.uint8) for _ in "ab"
    )
    truth[rng.uniform(size=(8, 9)).repeat(60, 0).repeat(80, 1) < void] = 255
    expected = []
    for step in range(5):
        radius = 1 + int((sum(truth.shape) / 300 - 1) / 5 * step)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        region = np.zeros(truth.shape, bool)
        for name in set(np.unique(truth)) - {255}:
            region |= cv2.morphologyEx((truth == name).astype(np.uint8), cv2.MORPH_GRADIENT, kernel) > 0
        region &= truth != 255
        expected.append((truth == guess)[region].mean())
    assert boundary_accuracy(truth, guess) == pytest.approx(np.mean(expected))


def test_misfits_are_refused():
    with pytest.raises(ValueError, match="wanted one size"):
        boundary_accuracy(np.zeros((2, 3), int), np.zeros((3, 2), int))
