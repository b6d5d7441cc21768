import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassCalibrationError

from deeplab.evaluation.calibration import Calibration


def two_classes(confidence):
    """Probabilities (2, H, W) that choose class 1."""
    confidence = np.asarray(confidence)
    return np.stack([1 - confidence, confidence])


def test_by_hand():
    """5 bins. 4×4 pixels that count and a column of void: eight of 0.9, four of 0.7, four of 0.55."""
    confidence = np.array([[0.9, 0.9, 0.7, 0.55, 0.99]] * 4)
    truth = np.array([[1, 1, 1, 0, 255], [1, 1, 1, 1, 255], [1, 0, 0, 1, 255], [0, 1, 0, 0, 255]])
    calibration = Calibration(5)
    calibration.add(truth, two_classes(confidence))
    found = calibration.reliability()
    assert found.pixels.tolist() == [0, 0, 4, 4, 8]
    np.testing.assert_allclose(found.accuracy, [np.nan, np.nan, 2 / 4, 2 / 4, 6 / 8])
    np.testing.assert_allclose(found.confidence, [np.nan, np.nan, 0.55, 0.7, 0.9])
    assert found.error == pytest.approx((4 * 0.05 + 4 * 0.2 + 8 * 0.15) / 16)
    assert found.bias == pytest.approx(found.error)  # overconfident everywhere


def test_the_edges_of_bins():
    calibration = Calibration(4)
    calibration.add(np.ones((1, 5), int), two_classes([[0.5, 0.5000001, 0.75, 1.0, 1.0004]]))
    assert calibration.reliability().pixels.tolist() == [0, 1, 2, 2]  # a bin ends with its upper bound


def test_underconfidence_has_the_other_sign():
    calibration = Calibration()
    calibration.add(np.ones((2, 3), int), two_classes(np.full((2, 3), 0.6)))
    assert calibration.reliability().error == pytest.approx(0.4)
    assert calibration.reliability().bias == pytest.approx(-0.4)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 9999))
def test_agrees_with_torchmetrics_over_several_photos(classes, photos, seed):
    rng = np.random.default_rng(seed)
    calibration, metric = (
        Calibration(15),
        MulticlassCalibrationError(classes, n_bins=15, norm="l1", ignore_index=255),
    )
    for _ in range(photos):
        probabilities = (
            rng.dirichlet(np.full(classes, 0.5), size=(6, 9)).transpose(2, 0, 1).astype(np.float32)
        )
        truth = rng.integers(classes, size=(6, 9))
        truth[rng.uniform(size=truth.shape) < 0.2] = 255
        calibration.add(truth, probabilities)
        metric.update(torch.from_numpy(probabilities.copy())[None], torch.from_numpy(truth)[None])
    assert calibration.reliability().error == pytest.approx(metric.compute().item(), abs=1e-5)


def test_nothing_to_score():
    calibration = Calibration()
    calibration.add(np.full((2, 3), 255), two_classes(np.full((2, 3), 0.8)))
    assert np.isnan(calibration.reliability().error)
    assert np.isnan(calibration.reliability().bias)


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (np.full((2, 3, 2), 0.5), "wanted \\(K, H, W\\)"),
        (np.full((2, 3), 0.5), "wanted \\(K, H, W\\)"),
        (np.full((2, 2, 3), 7.5), "got confidences from 7.5 to 7.5, wanted probabilities"),
        (np.full((2, 2, 3), np.nan), "wanted probabilities"),
    ],
)
def test_misfits_are_refused(probabilities, message):
    with pytest.raises(ValueError, match=message):
        Calibration().add(np.zeros((2, 3), int), probabilities)
    with pytest.raises(ValueError, match="got 0 bins"):
        Calibration(0)
