"""Merged labels change no result much, however uncertain the scores and however strong the weights are."""

import numpy as np
import pytest

from densecrf import Bilateral, DenseCRF, Gaussian, Params, refine, unary_from_probabilities
from scenes import scene

NORMALIZATIONS = ("symmetric", "after", "before", "none")


def uncertain_scene(labels, highest=0.1, height=24, width=37):
    """A photo, probabilities of at most ``highest`` that slightly favour the right label, and the labels."""
    photo, _, areas = scene(height, width, labels=labels)
    rng = np.random.default_rng(0)
    scores = 0.3 * (areas == np.arange(labels)[:, None, None]) + rng.normal(
        scale=0.1, size=(labels, height, width)
    )
    powers = np.exp(np.minimum(scores, np.log(highest * labels) - 0.15))
    probabilities = powers / powers.sum(axis=0)
    assert probabilities.max() <= highest
    return photo, probabilities, areas


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("labels", [16, 21])
def test_uncertain_scores_are_refined_as_by_the_exact_crf(labels, normalization):
    photo, probabilities, areas = uncertain_scene(labels)
    params = Params(appearance_xy_std=20, appearance_rgb_std=15, normalization=normalization)
    ours = refine(photo, probabilities, params=params)
    expected = refine(photo, probabilities, params=params, backend="exact")
    assert (probabilities.argmax(0) != areas).mean() > 0.01
    assert (expected.argmax(0) == areas).mean() > 0.99
    assert (ours.argmax(0) != expected.argmax(0)).mean() < 1e-3
    assert np.abs(ours - expected).max() < 0.01
    np.testing.assert_allclose(ours.sum(0), 1, rtol=1e-5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("weight", [1.0, 60.0, 1000.0, 1e6])
def test_uniform_scores_stay_uniform(weight, normalization):
    params = Params(appearance_weight=weight, smoothness_weight=weight, normalization=normalization)
    marginals = refine(np.zeros((24, 37, 3)), np.full((21, 24, 37), 1 / 21), params=params)
    np.testing.assert_allclose(marginals, 1 / 21, rtol=1e-4)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("weight", [20.0, 100.0])
def test_strong_weights_give_what_the_exact_crf_gives(weight, normalization):
    photo, probabilities, _ = scene(24, 37, labels=3)
    # On the left, fourteen more labels have nearly all of the probability.
    known = np.where(np.arange(37) < 15, 0.02, 1.0)
    rest = np.broadcast_to((1 - known) / 14, (14, 24, 37))
    params = Params(
        appearance_weight=weight,
        appearance_xy_std=20,
        appearance_rgb_std=15,
        smoothness_weight=weight,
        normalization=normalization,
    )
    scores = np.concatenate([probabilities * known, rest])
    ours = refine(photo, scores, params=params)
    expected = refine(photo, scores, params=params, backend="exact")
    np.testing.assert_allclose(ours.sum(0), 1, rtol=1e-5)
    assert (ours.argmax(0) != expected.argmax(0)).mean() < 0.01
    assert np.abs(ours - expected).mean() < 2e-3


@pytest.mark.parametrize("iterations", [1, 2, 10])
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 3.5, 5.0])
def test_merged_labels_are_near_separate_labels(sharpness, iterations):
    # From maps where merged labels have nearly all of the probability to maps where they have almost none.
    photo, _, areas = scene(36, 52, labels=4)
    rng = np.random.default_rng(1)
    noise = rng.normal(scale=0.6, size=(21, 9, 13)).repeat(4, 1).repeat(4, 2)
    powers = np.exp(sharpness * (areas == np.arange(21)[:, None, None]) + noise)
    unary = unary_from_probabilities(powers / powers.sum(0))
    start = rng.dirichlet(np.full(21, 0.05), size=(36, 52)).transpose(2, 0, 1)
    for weight, normalization in ((1.0, "symmetric"), (8.0, "after"), (60.0, "before"), (0.1, "none")):
        kernels = [Gaussian((36, 52), 3, 0.4 * weight), Bilateral(photo, 20, 10, 0.6 * weight)]
        merged = DenseCRF(kernels, normalization=normalization)
        separate = DenseCRF(kernels, normalization=normalization, merge_threshold=0)
        for options in ({}, {"callback": lambda step, q: None}, {"start": start}):
            ours = merged.infer(unary, iterations=iterations, **options)
            expected = separate.infer(unary, iterations=iterations, **options)
            np.testing.assert_allclose(ours, expected, atol=0.01)
            np.testing.assert_allclose(ours.sum(0), 1, rtol=1e-4)


def test_merged_labels_with_negative_weights():
    rng = np.random.default_rng(0)
    unary = rng.normal(scale=0.3, size=(12, 24, 37)) + 2.0 * (np.arange(12) > 2)[:, None, None]
    kernels = [Gaussian((24, 37), 3, weight=-30.0)]
    merged = DenseCRF(kernels, merge_threshold=0.1)
    separate = DenseCRF(kernels, merge_threshold=0)
    for iterations in (1, 2, 5):
        expected = separate.infer(unary, iterations=iterations)
        np.testing.assert_allclose(merged.infer(unary, iterations=iterations), expected, atol=0.01)


@pytest.mark.parametrize("labels", [1, 2, 3, 5, 21])
@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.filterwarnings("ignore:got energies of 1 label")
def test_large_energies_lose_no_digits(labels, scale):
    rng = np.random.default_rng(labels)
    near = (scale * rng.integers(0, 9, size=(labels, 24, 37)) / 4).astype(np.float32)
    near[0, :12] += 4 * scale
    kernels = [Gaussian((24, 37), 3, 3.0)]
    for iterations in (0, 3):
        for far in (1e6, -1e6):  # sums of quarters are exact there
            result = DenseCRF(kernels).infer(near + np.float32(far), iterations=iterations)
            expected = DenseCRF(kernels).infer(near, iterations=iterations)
            np.testing.assert_allclose(result, expected, atol=1e-6)
            np.testing.assert_allclose(result.sum(0), 1, rtol=1e-5)


@pytest.mark.parametrize("labels", [2, 3, 21])
def test_the_largest_energies_give_distributions(labels):
    rng = np.random.default_rng(labels)
    energies = (rng.uniform(-1, 1, size=(labels, 24, 37)) * 3.3e38).astype(np.float32)
    for iterations in (0, 4):
        marginals = DenseCRF([Gaussian((24, 37), 3, 3.0)]).infer(energies, iterations=iterations)
        np.testing.assert_allclose(marginals.sum(0), 1, rtol=1e-5)
        assert (marginals.argmax(0) == energies.argmin(0)).all()


@pytest.mark.parametrize("labels", [2, 3, 21])
def test_weights_that_would_overflow_are_refused(labels):
    unary = np.random.default_rng(0).uniform(size=(labels, 24, 37))
    for weight in (1e20, -1e20):
        marginals = DenseCRF([Gaussian((24, 37), 3, weight)], normalization="none").infer(unary)
        np.testing.assert_allclose(marginals.sum(0), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="over 1e20"):
        DenseCRF([Gaussian((24, 37), 3, 3e38)]).infer(unary)
    with pytest.raises(ValueError, match="over 1e20"):
        DenseCRF([Gaussian((24, 37), 3, 1e30)], compatibility=np.full(labels, 1e30)).infer(unary)
    with pytest.raises(ValueError, match="over 1e20"):
        refine(np.zeros((24, 37, 3)), unary, kind="energies", params=Params(appearance_weight=3e38))
