"""Steps that splat tile by tile give what other steps give, for any number of threads; small objects stay."""

import numpy as np
import pytest

from densecrf import Bilateral, DenseCRF, Gaussian, Params, refine, unary_from_probabilities
from densecrf import threads as counts
from scenes import scene

NORMALIZATIONS = ("symmetric", "after", "before", "none")


def noisy_scene(height, width, labels, noise, seed=0):
    """A photo of areas and probabilities whose noise, pixel by pixel, lifts every label somewhere."""
    photo, _, areas = scene(height, width, labels=4)
    rng = np.random.default_rng(seed)
    scores = 4.0 * (areas == np.arange(labels)[:, None, None])
    powers = np.exp(scores + rng.normal(scale=noise, size=scores.shape))
    return photo, (powers / powers.sum(axis=0)).astype(np.float32), areas


def terms(photo, xy_std=20.0, channel_std=15.0):
    return [Gaussian(photo.shape[:2], 3, 3.0), Bilateral(photo, xy_std, channel_std, 4.0)]


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("labels", [2, 3, 7, 21, 30])
def test_tiles_give_what_steps_of_whole_images_give(labels, normalization, include_self):
    # A matrix of penalties is not splatted tile by tile; with -1 between like labels it is the same as Potts.
    photo, probabilities, _ = noisy_scene(72, 110, labels, 1.0)
    unary = unary_from_probabilities(probabilities)
    scale = 0.02 if normalization == "none" else 1.0
    kernels = [Gaussian((72, 110), 3, 3.0 * scale), Bilateral(photo, 20.0, 15.0, 4.0 * scale)]
    options = {"normalization": normalization, "include_self": include_self}
    options |= {"merge_threshold": 0, "convergence_tolerance": 0}
    tiled = DenseCRF(kernels, **options)
    whole = DenseCRF(kernels, compatibility=-np.eye(labels), **options)
    for iterations in (0, 1, 4):
        found = tiled.infer(unary, iterations=iterations)
        np.testing.assert_allclose(found, whole.infer(unary, iterations=iterations), atol=2e-5)
        np.testing.assert_allclose(found.sum(0), 1, rtol=1e-5)


def test_each_label_its_own_strength():
    photo, probabilities, _ = noisy_scene(72, 110, 5, 1.0)
    unary = unary_from_probabilities(probabilities)
    strengths = np.array([1.0, 0.5, 2.0, 0.0, 1.5])
    tiled = DenseCRF(terms(photo), compatibility=strengths, convergence_tolerance=0)
    whole = DenseCRF(terms(photo), compatibility=-np.diag(strengths))
    np.testing.assert_allclose(tiled.infer(unary), whole.infer(unary), atol=2e-5)


@pytest.mark.parametrize("labels", [2, 21])
def test_step_by_step_is_the_same_as_at_once(labels):
    photo, probabilities, _ = noisy_scene(72, 110, labels, 1.0)
    crf = DenseCRF(terms(photo), merge_threshold=0, convergence_tolerance=0)
    unary = unary_from_probabilities(probabilities)
    steps = []
    stepwise = crf.infer(unary, iterations=5, callback=lambda step, q: steps.append(step))
    assert steps == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(stepwise, crf.infer(unary, iterations=5), atol=1e-6)


@pytest.mark.parametrize(("labels", "noise"), [(2, 1.0), (21, 0.5), (21, 2.0)])
def test_the_number_of_threads_changes_no_bit(monkeypatch, labels, noise):
    monkeypatch.setattr(counts, "processors", lambda: 5)
    photo, probabilities, _ = noisy_scene(300, 400, labels, noise)
    params = Params(appearance_weight=4, appearance_xy_std=20, appearance_rgb_std=5)
    wanted = refine(photo, probabilities, params=params, threads=1)
    for threads in (2, 3, 5):
        found = refine(photo, probabilities, params=params, threads=threads)
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("noise", [1.0, 1.5])
@pytest.mark.parametrize(("xy_std", "rgb_std"), [(50, 3), (121, 5)])
def test_noise_on_all_labels_changes_next_to_nothing_by_merging(xy_std, rgb_std, noise):
    photo, probabilities, _ = noisy_scene(240, 320, 21, noise)
    assert (probabilities.max(axis=(1, 2)) > 0.1).all()
    unary = unary_from_probabilities(probabilities)
    kernels = terms(photo, xy_std, rgb_std)
    merged = DenseCRF(kernels).infer(unary)
    separate = DenseCRF(kernels, merge_threshold=0, convergence_tolerance=0).infer(unary)
    assert np.abs(merged - separate).mean() < 1e-4
    assert (merged.argmax(0) != separate.argmax(0)).mean() < 5e-4


def with_objects(objects, confidence, noise, seed):
    """21 labels of noise on one background, and objects of some of them: (label, rows, columns)."""
    rng = np.random.default_rng(seed)
    areas = np.zeros((200, 260), int)
    photo = np.full((200, 260, 3), 120.0)
    for label, rows, columns in objects:
        areas[rows, columns] = label
        photo[rows, columns] += 25 * rng.normal(size=3)
    photo = np.clip(photo + rng.normal(scale=3, size=photo.shape), 0, 255).astype(np.uint8)
    scores = confidence * (areas == np.arange(21)[:, None, None])
    powers = np.exp(scores + rng.normal(scale=noise, size=scores.shape))
    return photo, (powers / powers.sum(axis=0)).astype(np.float32), areas


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("confidence", [1.5, 2.5, 4.0])
@pytest.mark.parametrize("xy_std", [30.0, 80.0])
def test_merging_loses_no_object_of_100_pixels(confidence, noise, seed, xy_std):
    s = slice
    objects = [
        (3, s(40, 52), s(60, 72)),  # two of 12 x 12, side by side
        (4, s(40, 52), s(72, 84)),
        (7, s(100, 110), s(100, 110)),  # 100 pixels
        (8, s(150, 155), s(30, 55)),  # long
        (9, s(20, 180), s(200, 201)),  # thin
    ]
    photo, probabilities, _ = with_objects(objects, confidence, noise, seed)
    unary = unary_from_probabilities(probabilities)
    kernels = terms(photo, xy_std, 5.0)
    merged = DenseCRF(kernels).infer(unary).argmax(0)
    separate = DenseCRF(kernels, merge_threshold=0, convergence_tolerance=0).infer(unary).argmax(0)
    for label in range(21):
        there = separate == label
        if there.sum() >= 100:
            assert (merged == label)[there].mean() > 0.9
    assert (merged != separate).mean() < 1e-3
