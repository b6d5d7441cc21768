"""The drop-in for pydensecrf against pydensecrf2 itself, script for script."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import densecrf.pydensecrf as ours
from densecrf.pydensecrf import utils
from scenes import scene

theirs = pytest.importorskip(
    "pydensecrf.densecrf", reason="pydensecrf2 is not installed (it needs Python under 3.13)"
)
their_utils = pytest.importorskip("pydensecrf.utils", reason="pydensecrf2 is not installed")

H, W = 47, 66


def energies(labels=5):
    photo, probabilities, _ = scene(H, W, min(labels, 4), seed=labels)
    extra = np.random.default_rng(0).uniform(0.01, 0.05, size=(labels - len(probabilities), H, W))
    probabilities = np.concatenate([probabilities, extra])
    probabilities /= probabilities.sum(0)
    return photo, -np.log(probabilities).reshape(labels, -1).astype(np.float32)


def assert_close(result, expected):
    difference = np.abs(np.array(result) - np.array(expected))
    assert difference.max() < 1e-4
    assert difference.mean() < 1e-6


@pytest.mark.parametrize(
    "normalization", ["NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC"]
)
@pytest.mark.parametrize("labels", [2, 5, 21])
def test_a_usual_script(normalization, labels):
    photo, unary = energies(labels)
    weight = 0.01 if normalization == "NO_NORMALIZATION" else 4

    def script(dcrf):
        crf = dcrf.DenseCRF2D(W, H, labels)
        crf.setUnaryEnergy(unary)
        kind = getattr(dcrf, normalization)
        crf.addPairwiseGaussian(sxy=3, compat=0.75 * weight, kernel=dcrf.DIAG_KERNEL, normalization=kind)
        crf.addPairwiseBilateral(
            sxy=(40, 60),
            srgb=(13, 10, 8),
            rgbim=photo,
            compat=weight,
            kernel=dcrf.FULL_KERNEL,
            normalization=kind,
        )
        return crf.inference(5)

    assert_close(script(ours), script(theirs))


@pytest.mark.parametrize(
    "compat", [np.linspace(1, 3, 5), np.random.default_rng(1).uniform(-1, 1, size=(5, 5))]
)
def test_vector_and_matrix_compatibilities(compat):
    photo, unary = energies()
    compat = compat.astype(np.float32)

    def script(dcrf):
        crf = dcrf.DenseCRF2D(W, H, 5)
        crf.setUnaryEnergy(unary)
        crf.addPairwiseGaussian(3, compat)
        crf.addPairwiseBilateral(50, 13, photo, compat)
        return crf.inference(4)

    assert_close(script(ours), script(theirs))


def test_generic_features_and_stepping():
    photo, unary = energies()
    features = np.concatenate(
        [
            utils.create_pairwise_gaussian((3, 4), (H, W)),
            utils.create_pairwise_bilateral((9, 7), 20, photo, chdim=2),
        ]
    )

    def script(dcrf):
        crf = dcrf.DenseCRF(H * W, 5)
        crf.setUnaryEnergy(unary)
        crf.addPairwiseEnergy(features[:2].copy(), compat=3)
        crf.addPairwiseEnergy(
            features[2:].copy(), compat=5, kernel=dcrf.CONST_KERNEL, normalization=dcrf.NORMALIZE_AFTER
        )
        q, tmp1, tmp2 = crf.startInference()
        divergences = [crf.klDivergence(q)]
        for _ in range(3):
            crf.stepInference(q, tmp1, tmp2)
            divergences.append(crf.klDivergence(q))
        return q, divergences

    (q, result), (expected_q, expected) = script(ours), script(theirs)
    assert_close(q, expected_q)
    np.testing.assert_allclose(result, expected, rtol=1e-3)


def test_logistic_unary():
    rng = np.random.default_rng(0)
    matrix, features = rng.normal(size=(3, 4)), rng.normal(size=(4, 20))
    powers = np.exp(-matrix @ features)
    for give in (
        lambda crf: crf.setUnaryEnergy(
            matrix, features
        ),  # pydensecrf's own check refuses what its signature offers
        lambda crf: crf.setUnary(ours.LogisticUnary(matrix, features)),
        lambda crf: crf.setUnary(ours.ConstUnary(matrix @ features)),
    ):
        crf = ours.DenseCRF(20, 3)
        give(crf)
        np.testing.assert_allclose(crf.inference(1), powers / powers.sum(0), rtol=1e-4)


def test_constants():
    kernels = ("CONST_KERNEL", "DIAG_KERNEL", "FULL_KERNEL")
    for name in (*kernels, "NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC"):
        assert int(getattr(ours, name)) == int(getattr(theirs, name))


def test_helpers():
    _, probabilities, areas = scene(H, W)
    for unsure in (True, False):
        np.testing.assert_allclose(
            utils.unary_from_labels(areas, 4, 0.7, zero_unsure=unsure),
            their_utils.unary_from_labels(areas, 4, 0.7, zero_unsure=unsure),
            rtol=1e-5,
        )
    with pytest.warns(DeprecationWarning, match="compute_unary"):
        assert utils.compute_unary(areas, 4).shape == (4, H * W)
    with pytest.warns(DeprecationWarning, match="softmax_to_unary"):
        assert utils.softmax_to_unary(probabilities).shape == (4, H * W)


WIDTHS = st.floats(0.1, 200) | st.integers(1, 200) | st.floats(0.1, 200).map(np.float64)


@given(st.tuples(WIDTHS, WIDTHS), WIDTHS, st.tuples(WIDTHS, WIDTHS, WIDTHS))
@settings(max_examples=30)
def test_features_have_the_same_bits(sdims, width, schan):
    photo, _, _ = scene(9, 14)
    grid = their_utils.create_pairwise_gaussian(sdims, (9, 14))
    assert np.array_equal(utils.create_pairwise_gaussian(sdims, (9, 14)), grid)
    for stds, image, axis in (
        (width, photo, 2),
        (schan, photo, 2),
        (schan[:2], photo.transpose(2, 0, 1), 0),
        (width, photo[..., 0] / 7, -1),
    ):
        expected = their_utils.create_pairwise_bilateral(sdims, stds, image, axis)
        assert np.array_equal(utils.create_pairwise_bilateral(sdims, stds, image, axis), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("arguments", [(), (0.7,), (None, 0.01), (None, None), (0.5, None)])
def test_energies_have_the_same_bits(dtype, arguments):
    p = np.random.default_rng(0).dirichlet(np.ones(4), size=(9, 14)).transpose(2, 0, 1).astype(dtype)
    p[:, 2, 3] = [0, 1, 0, 0]
    with np.errstate(divide="ignore"):
        expected = their_utils.unary_from_softmax(p, *arguments)
    assert np.array_equal(utils.unary_from_softmax(p, *arguments), expected)


def test_input_that_pydensecrf_refuses_or_gets_wrong():
    photo, unary = energies()
    crf = ours.DenseCRF2D(W, H, 5)
    crf.setUnaryEnergy(np.asfortranarray(unary.astype(np.float64)))  # float64, not contiguous
    frozen = photo.copy()
    frozen.flags.writeable = False
    crf.addPairwiseBilateral(50, 13, frozen, 4)
    assert crf.inference(2).shape == (5, H * W)
    with pytest.raises(ValueError, match="width and height are swapped"):
        ours.DenseCRF2D(H, W, 5).addPairwiseBilateral(50, 13, photo, 4)
    with pytest.raises(ValueError, match="larger standard deviations"):
        crf.addPairwiseBilateral(50, 1e-6, photo, 4)  # pydensecrf crashes
    with pytest.raises(ValueError, match="NaN"):
        crf.setUnaryEnergy(np.full((5, H * W), np.nan))
    with pytest.raises(ValueError, match="wanted at least 0"):
        crf.inference(-1)
    with pytest.raises(ValueError, match="wanted setUnaryEnergy"):
        ours.DenseCRF(3, 2).inference(1)
    with pytest.raises(ValueError, match="got normalization = 7, wanted one of: NO_NORMALIZATION"):
        crf.addPairwiseGaussian(3, 3, normalization=7)
