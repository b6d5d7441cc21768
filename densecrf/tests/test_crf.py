import multiprocessing
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densecrf import Bilateral, DenseCRF, Features, Gaussian, Params, exact, refine, unary_from_probabilities
from scenes import scene

NORMALIZATIONS = ("symmetric", "after", "before", "none")


def test_two_pixels_two_labels_by_hand():
    # K = [[1, k], [k, 1]] with k = exp(-1/2); start Q = p; one step: logits log p + 2 K Q.
    p = np.array([[0.8, 0.4], [0.2, 0.6]])
    k = np.exp(-0.5)
    message = 2 * p @ np.array([[1, k], [k, 1]])
    expected = p * np.exp(message) / (p * np.exp(message)).sum(0)
    crf = DenseCRF([Features([[0.0], [1.0]], weight=2)], normalization="none", backend="exact")
    np.testing.assert_allclose(crf.infer(-np.log(p), iterations=1), expected, rtol=1e-6)
    row_sum = 1 + k  # all normalisations agree here: both rows of K have one sum
    message /= row_sum
    expected = p * np.exp(message) / (p * np.exp(message)).sum(0)
    for normalization in ("symmetric", "after", "before"):
        crf = DenseCRF([Features([[0.0], [1.0]], weight=2)], normalization=normalization, backend="exact")
        np.testing.assert_allclose(crf.infer(-np.log(p), iterations=1), expected, rtol=1e-6)


def test_exact_filter_by_hand():
    features = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    a, b, c = np.exp(-0.5), np.exp(-2.0), np.exp(-2.5)
    expected = np.array([[1, a, b], [a, 1, c], [b, c, 1]]) @ np.array([[1.0], [10.0], [100.0]])
    np.testing.assert_allclose(exact.gaussian_filter(features, np.array([[1.0], [10.0], [100.0]])), expected)


def test_features_of_kernels_by_hand():
    image = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)  # one row, two columns
    assert Gaussian((1, 2), xy_std=2).features().tolist() == [[0, 0], [0.5, 0]]
    assert Bilateral(image, xy_std=2, channel_std=10).features().tolist() == [
        [0, 0, 1, 2, 3],
        [0.5, 0, 4, 5, 6],
    ]


@pytest.mark.parametrize("normalization", NORMALIZATIONS[:3])
@pytest.mark.parametrize("widths", [(20.0, 8.0), (60.0, 15.0)])
def test_lattice_is_near_the_exact_twin(normalization, widths):
    photo, probabilities, areas = scene(30, 44)
    params = Params(
        appearance_xy_std=widths[0],
        appearance_rgb_std=widths[1],
        smoothness_weight=1,
        normalization=normalization,
    )
    ours = refine(photo, probabilities, params=params)
    expected = refine(photo, probabilities, params=params, backend="exact")
    assert np.abs(ours - expected).mean() < 0.01
    assert (ours.argmax(0) != expected.argmax(0)).mean() < 0.01
    assert (ours.argmax(0) != areas).mean() < 0.5 * (probabilities.argmax(0) != areas).mean()


@pytest.mark.parametrize("normalization", ["symmetric", "after", "before"])
@pytest.mark.parametrize("labels", [2, 5, 21])
def test_same_numbers_as_pydensecrf(normalization, labels):
    dcrf = pytest.importorskip(
        "pydensecrf.densecrf", reason="pydensecrf2 is not installed (it needs Python under 3.13)"
    )
    kind = {
        "symmetric": dcrf.NORMALIZE_SYMMETRIC,
        "after": dcrf.NORMALIZE_AFTER,
        "before": dcrf.NORMALIZE_BEFORE,
    }[normalization]
    photo, probabilities, _ = scene(61, 84, labels, seed=labels)
    ours = refine(photo, probabilities, params=Params(normalization=normalization))
    crf = dcrf.DenseCRF2D(84, 61, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(probabilities).reshape(labels, -1).astype(np.float32)))
    crf.addPairwiseGaussian(3, 3, normalization=kind)
    crf.addPairwiseBilateral(50, 3, photo.copy(), 5, normalization=kind)
    theirs = np.array(crf.inference(10)).reshape(labels, 61, 84)
    assert np.abs(ours - theirs).max() < 1e-3
    assert np.abs(ours - theirs).mean() < 1e-5


def test_no_iterations_and_no_weight_return_the_probabilities():
    photo, probabilities, _ = scene()
    for same in (
        refine(photo, probabilities, iterations=0),
        refine(photo, probabilities, params=Params(appearance_weight=0, smoothness_weight=0)),
    ):
        np.testing.assert_allclose(same, probabilities, rtol=1e-5, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(2, 5),
    st.sampled_from(NORMALIZATIONS),
    st.integers(0, 999),
)
def test_marginals_are_distributions(height, width, labels, normalization, seed):
    rng = np.random.default_rng(seed)
    photo = rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    probabilities = rng.dirichlet(np.full(labels, 0.3), size=(height, width)).transpose(2, 0, 1)
    marginals = refine(photo, probabilities, params=Params(normalization=normalization))
    assert marginals.shape == probabilities.shape
    assert marginals.dtype == np.float32
    assert (marginals >= 0).all()
    np.testing.assert_allclose(marginals.sum(0), 1, rtol=1e-5)


def test_impossible_labels_do_not_change_the_others():
    photo, probabilities, _ = scene(labels=3)
    padded = np.concatenate([probabilities, np.zeros((298, *probabilities.shape[1:]))])
    marginals = refine(photo, padded)
    np.testing.assert_allclose(marginals[:3], refine(photo, probabilities), atol=1e-5)
    assert marginals[3:].max() < 1e-6


def test_same_bits_with_any_number_of_threads(monkeypatch):
    monkeypatch.setattr("densecrf.threads.processors", lambda: 8)
    photo, probabilities, _ = scene(120, 170, 5)
    one = refine(photo, probabilities, threads=1)
    for threads in (2, 5):
        assert np.array_equal(refine(photo, probabilities, threads=threads), one)


def test_layouts_and_types_give_the_same():
    photo, probabilities, _ = scene()
    probabilities = np.round(probabilities * 256) / 256  # exact in half precision
    expected = refine(photo, probabilities)
    read_only = probabilities.copy()
    read_only.flags.writeable = False
    for variant in (
        probabilities.astype(np.float16),
        probabilities.astype(np.float32),
        np.asfortranarray(probabilities),
        np.moveaxis(np.ascontiguousarray(np.moveaxis(probabilities, 0, -1)), -1, 0),
        read_only,
    ):
        assert np.array_equal(refine(photo, variant), expected)
    for variant in (
        photo.astype(np.float64),
        photo.astype(np.int16),
        np.asfortranarray(photo),
        photo[::-1][::-1],
    ):
        assert np.array_equal(refine(variant, probabilities), expected)


def test_a_grey_photo_has_one_channel():
    photo, probabilities, _ = scene()
    grey = photo[:, :, 0]
    assert np.array_equal(refine(grey, probabilities), refine(grey[:, :, None], probabilities))


def test_other_threads_run_during_inference():
    photo, probabilities, _ = scene(300, 400, 8)
    worker = threading.Thread(
        target=refine, args=(photo, probabilities), kwargs={"iterations": 40, "threads": 1}
    )
    ticks = 0
    worker.start()
    while worker.is_alive():
        time.sleep(0.001)
        ticks += 1
    assert ticks > 20


def _refine_in_child(queue):
    photo, probabilities, _ = scene(80, 110)
    queue.put(refine(photo, probabilities, threads=2))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
def test_works_after_fork():
    photo, probabilities, _ = scene(80, 110)
    expected = refine(photo, probabilities, threads=2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_refine_in_child, args=(queue,))
    child.start()
    result = queue.get(timeout=60)
    child.join()
    assert np.array_equal(result, expected)


def test_empty_image():
    assert refine(np.zeros((0, 5, 3), np.uint8), np.zeros((2, 0, 5))).shape == (2, 0, 5)


def test_certain_pixels_stay_finite():
    photo = np.zeros((5, 7, 3), np.uint8)
    probabilities = np.zeros((3, 5, 7))
    probabilities[1] = 1
    marginals = refine(photo, probabilities)
    assert np.isfinite(marginals).all()
    assert (marginals.argmax(0) == 1).all()


GOOD_PHOTO, GOOD_PROBABILITIES = np.zeros((4, 6, 3), np.uint8), np.full((2, 4, 6), 0.5)


@pytest.mark.parametrize(
    ("image", "probabilities", "message"),
    [
        (
            np.zeros((6, 4, 3), np.uint8),
            GOOD_PROBABILITIES,
            r"got an image \(6, 4, 3\) and probabilities \(2, 4, 6\)",
        ),
        (GOOD_PHOTO, np.full(24, 0.5), r"wanted \(H, W, 3\) and \(K, H, W\)"),
        (GOOD_PHOTO, np.full((0, 4, 6), 0.5), r"K of at least 1"),
        (
            GOOD_PHOTO,
            np.where(np.arange(48).reshape(2, 4, 6) < 2, np.nan, 0.5),
            "2 probabilities that are NaN",
        ),
        (GOOD_PHOTO, GOOD_PROBABILITIES - 1, "for logits use kind='logits'"),
        (GOOD_PHOTO, GOOD_PROBABILITIES.astype(complex), "wanted real numbers"),
        (np.full((4, 6, 3), np.nan), GOOD_PROBABILITIES, "72 image levels that are NaN"),
        (np.full((4, 6, 3), "x"), GOOD_PROBABILITIES, "real numbers"),
        (np.full((4, 6, 3), 1e20), GOOD_PROBABILITIES, "span more lattice cells"),
    ],
)
def test_unusable_arrays_are_refused(image, probabilities, message):
    with pytest.raises(ValueError, match=message):
        refine(image, probabilities)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": -1}, "wanted at least 0"),
        ({"backend": "gpu"}, "wanted one of: lattice, accurate, exact"),
        ({"threads": 0}, "wanted at least 1"),
    ],
)
def test_unusable_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        refine(GOOD_PHOTO, GOOD_PROBABILITIES, **options)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("appearance_weight", -1),
        ("smoothness_weight", np.nan),
        ("appearance_xy_std", 0),
        ("appearance_rgb_std", -3),
        ("smoothness_xy_std", np.inf),
        ("normalization", "sym"),
    ],
)
def test_unusable_params_are_refused(field, value):
    with pytest.raises(ValueError, match=f"got {field}"):
        Params(**{field: value})


def test_extreme_widths_give_a_finite_answer_or_a_clear_error():
    photo, probabilities, _ = scene(9, 14)
    for width in (1e-3, 1e9):
        params = Params(appearance_xy_std=width, appearance_rgb_std=width, smoothness_xy_std=width)
        assert np.isfinite(refine(photo, probabilities, params=params)).all()
    with pytest.raises(ValueError, match="larger standard deviations"):
        refine(photo, probabilities, params=Params(appearance_rgb_std=1e-9))


def test_images_too_large_for_memory_are_refused_at_once(monkeypatch):
    with pytest.raises(
        ValueError, match=r"got 900000000 points of 2 features, wanted points × \(features \+ 1\) under"
    ):
        Gaussian((30_000, 30_000), xy_std=3).features()
    wide = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (30_000, 30_000, 3))  # takes no memory itself
    with pytest.raises(ValueError, match="900000000 points of 5 features"):
        Bilateral(wide, xy_std=3, channel_std=3).features()
    monkeypatch.setattr("densecrf.memory.available", lambda: 10**6)
    photo, probabilities, _ = scene(90, 130)
    with pytest.raises(
        MemoryError, match=r"11700 points of 2 features needs about 0.0 GB, but 0.0 GB are free"
    ):
        refine(photo, probabilities)


def test_unary_by_hand():
    energies = unary_from_probabilities([[1.0, np.exp(-2)], [0.0, 1 - np.exp(-2)]], floor=1e-4)
    expected = [[0, 2], [-np.log(1e-4), -np.log(1 - np.exp(-2))]]
    np.testing.assert_allclose(energies, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="floor"):
        unary_from_probabilities([[0.5]], floor=0)
