"""Labels that a point cannot have: energies of +inf, as −log p gives them where p is 0."""

import numpy as np
import pytest

import densecrf.pydensecrf as dcrf
from densecrf import Bilateral, DenseCRF, Gaussian
from scenes import scene

H, W = 17, 23


def problem(labels=3):
    """A photo, energies (K, H, W), and where they are infinite."""
    photo, probabilities, _ = scene(H, W, labels)
    impossible = np.random.default_rng(1).random((labels, H, W)) < 0.4
    impossible[:, impossible.all(axis=0)] = False
    return photo, np.where(impossible, np.inf, -np.log(probabilities)), impossible


@pytest.mark.parametrize("normalization", ["NO_NORMALIZATION", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC"])
@pytest.mark.parametrize("weight", [0.1, 10, 1e4, 1e15, -3])
@pytest.mark.parametrize("labels", [2, 4, 9])
def test_marginals_are_zero_for_every_weight(labels, weight, normalization):
    photo, energies, _ = problem(min(labels, 4))
    extra = np.full((labels - len(energies), H, W), np.inf)
    energies = np.concatenate([energies, extra])
    crf = dcrf.DenseCRF2D(W, H, labels)
    crf.setUnaryEnergy(energies.reshape(labels, -1))
    kind = getattr(dcrf, normalization)
    crf.addPairwiseGaussian(3, weight, normalization=kind)
    crf.addPairwiseBilateral(20, 13, photo, weight, normalization=kind)
    q = crf.inference(4).reshape(energies.shape)
    assert np.isfinite(q).all()
    assert not q[np.isinf(energies)].any()
    np.testing.assert_allclose(q.sum(axis=0), 1, rtol=1e-5)
    forced = np.isfinite(energies).sum(axis=0) == 1
    assert forced.any()
    assert (q.max(axis=0)[forced] == 1).all()


def test_same_as_pydensecrf():
    theirs = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")
    photo, energies, _ = problem()

    def script(module):
        crf = module.DenseCRF2D(W, H, 3)
        crf.setUnaryEnergy(energies.reshape(3, -1).astype(np.float32))
        crf.addPairwiseGaussian(3, 3)
        crf.addPairwiseBilateral(20, 13, photo, 5)
        return np.array(crf.inference(5))

    np.testing.assert_allclose(script(dcrf), script(theirs), atol=1e-5)


def test_steps_and_divergence():
    photo, energies, impossible = problem()
    crf = dcrf.DenseCRF2D(W, H, 3)
    crf.setUnaryEnergy(energies.reshape(3, -1))
    crf.addPairwiseBilateral(20, 13, photo, 5)
    q, tmp1, tmp2 = crf.startInference()
    for _ in range(3):
        crf.stepInference(q, tmp1, tmp2)
        assert not q.reshape(energies.shape)[impossible].any()
        assert np.isfinite(crf.klDivergence(q))
    np.testing.assert_allclose(q, crf.inference(3), atol=1e-6)
    assert crf.klDivergence(np.full_like(q, 1 / 3)) == np.inf


@pytest.mark.parametrize("backend", ["lattice", "accurate", "exact"])
def test_the_model_of_densecrf_takes_them(backend):
    photo, energies, impossible = problem()
    kernels = [Gaussian((H, W), 3, weight=2), Bilateral(photo, 20, 13, weight=3)]
    crf = DenseCRF(kernels, backend=backend)
    q = crf.infer(energies)
    assert not q[impossible].any()
    np.testing.assert_allclose(q.sum(axis=0), 1, rtol=1e-5)
    seen = []
    crf.infer(energies, iterations=2, callback=lambda _, marginals: seen.append(marginals[impossible].max()))
    assert seen == [0, 0]
    assert np.isfinite(crf.kl_divergence(q, energies))
    assert np.isfinite(crf.energy(crf.map(energies), energies))
    assert crf.energy(impossible.argmax(axis=0), energies) == np.inf
    energies[:, 3, 4:6] = np.inf
    with pytest.raises(ValueError, match="got 2 pixels whose unary energies are all infinite"):
        crf.infer(energies)


def test_near_the_exact_model():
    photo, energies, _ = problem()
    kernels = [Gaussian((H, W), 3, weight=2), Bilateral(photo, 20, 13, weight=3)]
    exact = DenseCRF(kernels, backend="exact").infer(energies)
    assert np.abs(DenseCRF(kernels).infer(energies) - exact).mean() < 0.01
