"""SimpleCRF's functions against models of pydensecrf2 that are built as SimpleCRF builds them."""

import numpy as np
import pytest

from densecrf.simplecrf import densecrf, densecrf3d
from scenes import scene

H, W, L = 31, 44, 4
PHOTO, PROBABILITIES, _ = scene(H, W, L)
P = PROBABILITIES.transpose(1, 2, 0)
PARAM = (10.0, 80, 13, 3.0, 3.0, 5.0)
SHAPE = (9, 14, 11)


def volume(modalities=2):
    """Levels (D, H, W, C), and probabilities (D, H, W, 2) of which some are 0."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices(SHAPE)
    ball = (z - 4) ** 2 + (y - 7) ** 2 + (x - 5) ** 2 < 12
    levels = np.where(ball, 150, 80)[..., None] + rng.integers(0, 12, (*SHAPE, modalities))
    p = np.clip(np.where(ball, 0.7, 0.3) + rng.normal(scale=0.3, size=SHAPE), 0, 1)
    return levels.astype(np.uint8), np.stack([1 - p, p], axis=-1)


def param3d(**changes):
    values = {
        "MaxIterations": 3.0,
        "PosW": 2.0,
        "PosRStd": 5,
        "PosCStd": 2,
        "PosZStd": 3,
        "BilateralW": 3.0,
        "BilateralRStd": 7.0,
        "BilateralCStd": 4.0,
        "BilateralZStd": 5.0,
        "ModalityNum": 2,
        "BilateralModsStds": (15.0, 9.0),
    }
    return values | changes


def test_photos():
    dcrf = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")
    labels = densecrf(PHOTO, P, PARAM)
    crf = dcrf.DenseCRF2D(W, H, L)
    energies = -np.log(np.clip(PROBABILITIES, 0.01, 0.99))
    crf.setUnaryEnergy(energies.reshape(L, -1).astype(np.float32))
    crf.addPairwiseBilateral(80, 13, PHOTO, 10)
    crf.addPairwiseGaussian(3, 3)
    assert labels.dtype == np.int8
    assert np.array_equal(labels, np.argmax(crf.inference(5), axis=0).reshape(H, W))
    assert len(np.unique(labels)) > 2
    assert np.array_equal(labels, densecrf(PHOTO.astype(float), P.astype(np.float16), list(PARAM), threads=1))


def test_volumes():
    dcrf = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")
    levels, p = volume()
    labels = densecrf3d(levels, p, param3d())
    z, y, x = np.indices(SHAPE, np.float32)
    crf = dcrf.DenseCRF(levels[..., 0].size, 2)
    with np.errstate(divide="ignore"):
        crf.setUnaryEnergy(-np.log(p.reshape(-1, 2).T).astype(np.float32).copy(order="C"))
    crf.addPairwiseEnergy(np.stack([x / 5, y / 2, z / 3]).reshape(3, -1), compat=2)
    features = np.stack([x / 7, y / 4, z / 5, levels[..., 0] / 15, levels[..., 1] / 9])
    crf.addPairwiseEnergy(features.reshape(5, -1).astype(np.float32), compat=3)
    expected = np.argmax(crf.inference(3), axis=0).reshape(SHAPE)
    assert labels.dtype == np.int8
    assert np.array_equal(labels, expected)
    assert 0 < labels.mean() < 1
    assert not np.array_equal(labels, p.argmax(axis=-1))


def test_other_numbers_of_modalities():
    for modalities in (1, 3, 7):
        levels, p = volume(modalities)
        settings = param3d(ModalityNum=float(modalities), BilateralModsStds=[15.0] * modalities)
        assert densecrf3d(levels, p, settings).shape == SHAPE


VOLUME, P3 = volume()
REFUSED = [
    (lambda: densecrf(PHOTO, P, PARAM[:5]), "got 5 values in param, wanted (w1, alpha, beta, w2, gamma, it)"),
    (lambda: densecrf(PHOTO, P, (10, 0, *PARAM[2:])), "got alpha = 0, wanted a finite number above 0"),
    (lambda: densecrf(PHOTO, P, (*PARAM[:4], "3", 5)), "got gamma = '3', wanted a number"),
    (lambda: densecrf(PHOTO, P, (*PARAM[:5], -1)), "got -1 iterations, wanted at least 0"),
    (lambda: densecrf(PHOTO, P[..., 0], PARAM), "for one foreground map p use np.stack([1 - p, p], axis=-1)"),
    (lambda: densecrf(PHOTO, PROBABILITIES, PARAM), "wanted (H, W, C) and (H, W, L)"),
    (lambda: densecrf(PHOTO, P * np.nan, PARAM), "probabilities that are NaN or infinite"),
    (lambda: densecrf3d(VOLUME, P3, {"PosW": 1}), "got param without MaxIterations, PosRStd"),
    (lambda: densecrf3d(VOLUME, P3, param3d(ModalityNum=1)), "got ModalityNum = 1, wanted 2"),
    (
        lambda: densecrf3d(VOLUME, P3, param3d(BilateralModsStds=(3,))),
        "wanted 2 widths, one for each modality",
    ),
    (lambda: densecrf3d(VOLUME, P3, param3d(PosZStd=None)), "got PosZStd = None, wanted a number"),
    (lambda: densecrf3d(VOLUME, P3 * 0, param3d()), "pixels whose unary energies are all infinite"),
    (lambda: densecrf3d(VOLUME, P3 - 1, param3d()), "got probabilities that are negative"),
    (lambda: densecrf3d(VOLUME, P3[1:], param3d()), "wanted (D, H, W, C) and (D, H, W, L)"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_one_line_says_what_is_wrong(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
