"""Ways in which published programs call pydensecrf, each run with pydensecrf2 and with the drop-in."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import densecrf.pydensecrf as our_crf
from densecrf.pydensecrf import utils as our_utils
from scenes import scene

their_crf = pytest.importorskip(
    "pydensecrf.densecrf", reason="pydensecrf2 is not installed (it needs Python under 3.13)"
)
their_utils = pytest.importorskip("pydensecrf.utils", reason="pydensecrf2 is not installed")

H, W, K = 47, 66, 4
PHOTO, PROBABILITIES, LABELS = scene(H, W, K)
PROBABILITIES = np.sqrt(PROBABILITIES)  # less certain, so that the kernels matter
PROBABILITIES = (PROBABILITIES / PROBABILITIES.sum(axis=0)).astype(np.float32)
MASK = np.where(LABELS == 0, 0.8, 0.3) + np.random.default_rng(6).normal(scale=0.15, size=(H, W))
MASK = np.clip(MASK, 0, 1)  # a foreground probability
HAS_SCRIBBLE = np.random.default_rng(7).random((H, W)) < 0.2


def model(crf, unary, height=H, width=W):
    """A 2-D model with these unary energies."""
    labels = len(unary)
    d = crf.DenseCRF2D(width, height, labels)
    d.setUnaryEnergy(np.ascontiguousarray(unary.reshape(labels, -1), np.float32))
    return d


def text_mask(crf, utils):
    """Text detection: two labels, kernels that are not normalised."""
    mask = (255 * MASK).astype(np.uint8)
    both = np.stack([255 - mask, mask]).astype(np.float32) / 255
    d = model(crf, utils.unary_from_softmax(both))
    plain = {"kernel": crf.DIAG_KERNEL, "normalization": crf.NO_NORMALIZATION}
    d.addPairwiseGaussian(sxy=1, compat=3, **plain)
    d.addPairwiseBilateral(sxy=23, srgb=7, rgbim=PHOTO, compat=20, **plain)
    return d.inference(5)


def ten_steps_67_3_4(crf, utils):
    """DeepLab in PyTorch and unsupervised segmentation: 1/3 and 67/3/4."""
    d = model(crf, utils.unary_from_softmax(PROBABILITIES))
    d.addPairwiseGaussian(sxy=1, compat=3)
    d.addPairwiseBilateral(sxy=67, srgb=3, rgbim=PHOTO, compat=4)
    return d.inference(10)


def ten_steps_64_5_4(crf, utils):
    """Transformers for weak supervision: 3/3 and 64/5/4."""
    d = model(crf, utils.unary_from_softmax(PROBABILITIES))
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=64, srgb=5, rgbim=PHOTO, compat=4)
    return d.inference(10)


def scaled_widths(crf, utils):
    """Class activation maps: widths divided by the factor between photo and map, which gives fractions."""
    factor = 12.0
    d = model(crf, utils.unary_from_softmax(PROBABILITIES))
    d.addPairwiseGaussian(sxy=3 / factor, compat=3)
    d.addPairwiseBilateral(sxy=80 / factor, srgb=13, rgbim=np.copy(PHOTO), compat=10)
    return d.inference(10)


def labels_right_at_0_7(crf, utils):
    """Pseudo-labels from class activation maps, right with probability 0.7."""
    d = model(crf, utils.unary_from_labels(LABELS, K, gt_prob=0.7, zero_unsure=False))
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.ascontiguousarray(PHOTO), compat=10)
    return d.inference(10)


def unsure_labels_at_0_9(crf, utils):
    """Scribbles: 0 means unknown, the others are right with probability 0.9."""
    scribbles = np.where(HAS_SCRIBBLE, LABELS + 1, 0)
    d = model(crf, utils.unary_from_labels(scribbles, K, gt_prob=0.9, zero_unsure=True))
    d.addPairwiseGaussian(sxy=(3, 3), compat=3, kernel=crf.DIAG_KERNEL, normalization=crf.NORMALIZE_SYMMETRIC)
    d.addPairwiseBilateral(
        sxy=(80, 80),
        srgb=(13, 13, 13),
        rgbim=PHOTO,
        compat=10,
        kernel=crf.DIAG_KERNEL,
        normalization=crf.NORMALIZE_SYMMETRIC,
    )
    return d.inference(5)


def volume(crf, utils):
    """Medical volumes: three axes, a grey image, a matrix of penalties."""
    shape = (9, 14, 11)
    grey = np.random.default_rng(1).normal(100, 30, size=shape).astype(np.float32)
    foreground = 1 / (1 + np.exp((100 - grey) / 20))
    d = crf.DenseCRF(int(np.prod(shape)), 2)
    d.setUnaryEnergy(utils.unary_from_softmax(np.stack([1 - foreground, foreground])))
    penalties = np.array([[0, 1.5], [2.5, 0]], np.float32)
    d.addPairwiseEnergy(utils.create_pairwise_gaussian(sdims=(1.3, 2.1, 1.7), shape=shape), compat=penalties)
    features = utils.create_pairwise_bilateral(sdims=(5.3, 4.1, 6.7), schan=(17.0,), img=grey, chdim=-1)
    d.addPairwiseEnergy(features, compat=2 * penalties)
    return d.inference(5)


def raw_logarithm(crf, utils):
    """Energies −log p with p = 0 for some labels: infinite energies."""
    p = np.where(PROBABILITIES < 0.1, 0, PROBABILITIES)
    with np.errstate(divide="ignore"):
        energies = -np.log(p)
    d = model(crf, energies)
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=60, srgb=10, rgbim=PHOTO, compat=5)
    return d.inference(5)


def several_scales(crf, utils):
    """A loop over widths, each with a kernel of its own."""
    d = crf.DenseCRF(H * W, K)
    d.setUnaryEnergy(utils.unary_from_softmax(PROBABILITIES))
    for scale, weight in ((1.1, 1), (3.3, 2), (9.7, 0.5)):
        d.addPairwiseEnergy(utils.create_pairwise_gaussian((scale, scale), (H, W)), compat=weight)
        features = utils.create_pairwise_bilateral((10 * scale, 10 * scale), (9, 9, 9), PHOTO, chdim=2)
        d.addPairwiseEnergy(features, compat=2 * weight)
    return d.inference(5)


def several_photos(crf, utils):
    """Photos in parallel, as joblib.Parallel does it."""

    def refine(seed):
        photo, probabilities, _ = scene(H, W, K, seed)
        d = model(crf, utils.unary_from_softmax(probabilities))
        d.addPairwiseGaussian(sxy=3, compat=3)
        d.addPairwiseBilateral(sxy=70, srgb=7, rgbim=photo, compat=4)
        return np.array(d.inference(3))

    with ThreadPoolExecutor(2) as pool:
        return np.concatenate(list(pool.map(refine, range(3))), axis=1)


def single_steps(crf, utils):
    """Steps one by one until the divergence falls no further."""
    d = model(crf, utils.unary_from_softmax(PROBABILITIES))
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=60, srgb=10, rgbim=PHOTO, compat=4)
    q, tmp1, tmp2 = d.startInference()
    last = np.inf
    for _ in range(5):
        d.stepInference(q, tmp1, tmp2)
        divergence = d.klDivergence(q)
        assert divergence < last
        last = divergence
    return q


def full_kernel(crf, utils):
    """FULL_KERNEL and CONST_KERNEL, which inference does not use, and widths by axis and channel."""
    d = model(crf, utils.unary_from_softmax(PROBABILITIES))
    d.addPairwiseGaussian(
        sxy=(1.5, 2.5), compat=3, kernel=crf.CONST_KERNEL, normalization=crf.NORMALIZE_SYMMETRIC
    )
    d.addPairwiseBilateral(
        sxy=(30, 45),
        srgb=(11, 12, 14),
        rgbim=PHOTO,
        compat=10,
        kernel=crf.FULL_KERNEL,
        normalization=crf.NORMALIZE_SYMMETRIC,
    )
    return d.inference(5)


def release_normalization(crf, utils):
    """The weights of DeepLab's release, normalised after filtering."""
    d = model(crf, utils.unary_from_softmax(PROBABILITIES))
    d.addPairwiseGaussian(sxy=3, compat=3, normalization=crf.NORMALIZE_AFTER)
    d.addPairwiseBilateral(sxy=49, srgb=4, rgbim=PHOTO, compat=5, normalization=crf.NORMALIZE_AFTER)
    return d.inference(10)


def saliency(crf, utils):
    """Salient objects: energies −log of a map and its complement, divided by a temperature."""
    temperature = 1.05
    energies = np.stack([-np.log(1 - MASK + 1e-8), -np.log(MASK + 1e-8)]) / temperature
    d = model(crf, energies)
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=60, srgb=5, rgbim=PHOTO, compat=5)
    return d.inference(1)


def logits(crf, utils):
    """Energies straight from a network's log-softmax, and colours in the order B, G, R."""
    scores = np.log(PROBABILITIES) * 1.7
    energies = np.log(np.exp(scores).sum(axis=0)) - scores
    d = model(crf, energies)
    d.addPairwiseGaussian(sxy=1, compat=3)
    d.addPairwiseBilateral(sxy=66, srgb=3, rgbim=np.ascontiguousarray(PHOTO[..., ::-1]), compat=4)
    return d.inference(np.float64(10))


def many_bands(crf, utils):
    """Remote sensing: seven bands, of which the last two stay as they are."""
    bands = np.concatenate([PHOTO, PHOTO[..., :2] // 2, PHOTO[..., 1:]], axis=2).astype(np.float32)
    d = crf.DenseCRF(H * W, K)
    d.setUnaryEnergy(utils.unary_from_softmax(PROBABILITIES, scale=0.8, clip=None))
    d.addPairwiseEnergy(
        utils.create_pairwise_bilateral(sdims=(21.5, 21.5), schan=(23.0,) * 5, img=bands / 40, chdim=2),
        compat=4,
    )
    return d.inference(5.0)


def spectrum(crf, utils):
    """Hyperspectral images: 200 bands."""
    rng = np.random.default_rng(5)
    areas = np.repeat([[0], [2]], 2, axis=0) + np.zeros(5, int)
    bands = areas[..., None] * rng.uniform(0, 9, 200) + rng.normal(size=(4, 5, 200))
    p = 0.4 * np.eye(K)[areas].transpose(2, 0, 1) + rng.dirichlet(np.ones(K), size=(4, 5)).transpose(2, 0, 1)
    d = crf.DenseCRF(4 * 5, K)
    d.setUnaryEnergy(np.ascontiguousarray(utils.unary_from_softmax(p / 1.4)))
    d.addPairwiseEnergy(utils.create_pairwise_bilateral((7.5, 7.5), 19.5, bands, chdim=2), compat=4)
    return d.inference(3)


def compatibilities(crf, utils):
    """A weight for each label on one kernel, a learned matrix on the other."""
    d = model(crf, utils.unary_from_softmax(PROBABILITIES))
    d.addPairwiseGaussian(sxy=3, compat=-np.linspace(1, 3, K).astype(np.float32))
    matrix = 3 * (1 - np.eye(K, dtype=np.float32)) + np.arange(K, dtype=np.float32)[:, None] / 8
    d.addPairwiseBilateral(sxy=55, srgb=9, rgbim=PHOTO, compat=matrix)
    return d.inference(5)


IDIOMS = [
    text_mask,
    ten_steps_67_3_4,
    ten_steps_64_5_4,
    scaled_widths,
    labels_right_at_0_7,
    unsure_labels_at_0_9,
    volume,
    raw_logarithm,
    several_scales,
    several_photos,
    single_steps,
    full_kernel,
    release_normalization,
    saliency,
    logits,
    many_bands,
    spectrum,
    compatibilities,
]


def whole_number_widths(crf, utils):
    """A volume whose widths are whole numbers of voxels and levels: many points lie between lattice cells."""
    shape = (12, 14, 11)
    z, y, x = np.indices(shape)
    levels = np.where((z - 5) ** 2 + (y - 7) ** 2 + (x - 5) ** 2 < 20, 160.0, 60.0)
    levels += 4 * np.random.default_rng(3).integers(0, 3, shape)
    foreground = 1 / (1 + np.exp((110 - levels) / 60 + np.random.default_rng(4).normal(size=shape)))
    d = crf.DenseCRF(levels.size, 2)
    d.setUnaryEnergy(utils.unary_from_softmax(np.stack([1 - foreground, foreground])))
    d.addPairwiseEnergy(utils.create_pairwise_gaussian((1, 1, 1), shape), compat=2)
    d.addPairwiseEnergy(utils.create_pairwise_bilateral((1, 1, 1), 4, levels), compat=3)
    return d.inference(5)


class MovedFeatures:
    """pydensecrf's helpers, with every feature moved by one unit in the last place."""

    unary_from_softmax = staticmethod(their_utils.unary_from_softmax)

    @staticmethod
    def create_pairwise_gaussian(*arguments):
        return np.nextafter(their_utils.create_pairwise_gaussian(*arguments), np.float32(np.inf))

    @staticmethod
    def create_pairwise_bilateral(*arguments):
        return np.nextafter(their_utils.create_pairwise_bilateral(*arguments), np.float32(np.inf))


@pytest.mark.parametrize("idiom", IDIOMS, ids=lambda idiom: idiom.__name__)
def test_same_marginals_as_pydensecrf(idiom):
    result = np.array(idiom(our_crf, our_utils))
    expected = np.array(idiom(their_crf, their_utils))
    assert np.abs(result - expected).max() < 1e-4
    assert np.array_equal(result.argmax(axis=0), expected.argmax(axis=0))
    assert len(np.unique(expected.argmax(axis=0))) > 1


def test_lattice_ties_change_no_more_than_rounding_changes_pydensecrf():
    expected = np.array(whole_number_widths(their_crf, their_utils))
    ours = np.abs(np.array(whole_number_widths(our_crf, our_utils)) - expected)
    theirs = np.abs(np.array(whole_number_widths(their_crf, MovedFeatures)) - expected)
    assert theirs.max() > 1e-3  # ties do occur
    assert ours.max() < 2 * theirs.max()
    assert ours.mean() < 2 * theirs.mean()
    labels = np.array(whole_number_widths(our_crf, our_utils)).argmax(axis=0)
    assert (labels != expected.argmax(axis=0)).mean() <= 1e-4
