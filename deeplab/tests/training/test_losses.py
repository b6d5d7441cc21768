import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab.training.losses import class_weights_of, cross_entropy_sum, dice_loss, weight_of


def example(seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, classes, 4, 5, generator=generator)
    targets = torch.randint(0, classes, (2, 4, 5), generator=generator, dtype=torch.uint8)
    targets[0, 1, 2:] = 255
    return scores, targets


def test_mean_over_valid_positions_is_that_of_torch():
    scores, targets = example()
    mean = cross_entropy_sum(scores, targets) / weight_of(targets)
    torch.testing.assert_close(mean, F.cross_entropy(scores, targets.long(), ignore_index=255))
    weights = torch.tensor([1.0, 2.0, 0.5])
    mean = cross_entropy_sum(scores, targets, class_weights=weights) / weight_of(targets, weights)
    torch.testing.assert_close(mean, F.cross_entropy(scores, targets.long(), weights, ignore_index=255))


@pytest.mark.parametrize("focal", [0.0, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_void_has_no_gradient(focal, weighted):
    scores, targets = example()
    scores.requires_grad_(True)
    weights = torch.tensor([1.0, 2.0, 0.5]) if weighted else None
    (
        cross_entropy_sum(scores, targets, class_weights=weights, focal=focal) + dice_loss(scores, targets)
    ).backward()
    void = (targets == 255)[:, None].expand_as(scores)
    assert (scores.grad[void] == 0).all()
    assert (scores.grad[~void] != 0).any()


def test_focal_by_hand():
    scores = torch.log(torch.tensor([[0.8, 0.25], [0.2, 0.75]])).T[
        :, :, None, None
    ]  # p of class 0: 0.8 and 0.25
    targets = torch.tensor([0, 0], dtype=torch.uint8)[:, None, None]
    expected = 0.2**2 * -np.log(0.8) + 0.75**2 * -np.log(0.25)
    assert float(cross_entropy_sum(scores, targets, focal=2.0)) == pytest.approx(expected, rel=1e-5)


def test_dice_by_hand():
    # One class of two occurs, at one of two places; p is 0.8 there and 0.4 at the other: 2·0.8 / (1.2 + 1).
    scores = torch.log(torch.tensor([[[[0.2, 0.6]], [[0.8, 0.4]]]]))
    targets = torch.tensor([[[1, 0]]], dtype=torch.uint8)
    one, zero = 2 * 0.8 / (1.2 + 1), 2 * 0.6 / (0.8 + 1)
    assert float(dice_loss(scores, targets)) == pytest.approx(1 - (one + zero) / 2, rel=1e-5)
    assert float(dice_loss(scores, torch.full_like(targets, 255))) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_dice_is_zero_for_certain_and_right_scores_alone(seed):
    scores, targets = example(seed)
    assert 0 < float(dice_loss(scores, targets)) < 1
    certain = 60 * F.one_hot(targets.long().clamp(max=2), 3).movedim(-1, 1).float()
    assert float(dice_loss(certain, targets)) == pytest.approx(0, abs=1e-5)


def test_class_weights_by_hand():
    counts = np.array([[600, 1000], [300, 1000], [100, 400], [0, 0]])
    assert class_weights_of(counts, "none") is None
    inverse = class_weights_of(counts, "inverse")
    np.testing.assert_allclose(inverse[:3] / inverse[0], [1, 2, 6], rtol=1e-6)
    assert inverse[:3].mean() == pytest.approx(1)
    assert inverse[3] == 1
    # Frequencies 0.6, 0.3, 0.25; their median is 0.3.
    np.testing.assert_allclose(class_weights_of(counts, "median"), [0.5, 1.0, 1.2, 1.0], rtol=1e-6)
