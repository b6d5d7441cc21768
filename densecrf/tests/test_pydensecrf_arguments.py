"""Arguments of the drop-in: taken as pydensecrf takes them, refused in one line, or taken with a warning."""

import warnings

import numpy as np
import pytest

import densecrf.pydensecrf as dcrf
from densecrf.pydensecrf import eigen, utils
from scenes import scene

H, W, K = 7, 9, 3
PHOTO, PROBABILITIES, LABELS = scene(H, W, K)
UNARY = -np.log(PROBABILITIES).reshape(K, -1)
IDS = np.arange(H * W).reshape(H, W) % K


def model(unary=UNARY, **options):
    crf = dcrf.DenseCRF2D(W, H, K, **options)
    crf.setUnaryEnergy(unary)
    return crf


def marginals(sxy=5, srgb=13, compat=4, steps=3, image=PHOTO):
    crf = model()
    crf.addPairwiseBilateral(sxy, srgb, image, compat)
    return crf.inference(steps)


@pytest.mark.parametrize(
    "arguments",
    [
        {"steps": 3.0},
        {"steps": np.float64(3)},
        {"steps": np.int8(3)},
        {"steps": np.array(3)},
        {"sxy": (5, 5)},
        {"sxy": [5, 5, 2]},
        {"sxy": np.array([5.0, 5.0])},
        {"sxy": np.float32(5)},
        {"srgb": (13, 13, 13)},
        {"srgb": np.full(5, 13)},
        {"compat": np.float64(4)},
        {"compat": [[0, -4, -4], [-4, 0, -4], [-4, -4, 0]], "expect": 0},
        {"image": PHOTO.astype(np.float64)},
        {"image": PHOTO.transpose(1, 0, 2).copy().transpose(1, 0, 2)},
    ],
)
def test_other_kinds_of_numbers(arguments):
    expect = arguments.pop("expect", 1)
    assert np.array_equal(marginals(**arguments), marginals()) == expect


def test_sizes_may_be_whole_floats():
    crf = dcrf.DenseCRF2D(float(W), np.float32(H), 3.0)
    crf.setUnaryEnergy(UNARY)
    assert crf.inference(1).shape == (K, H * W)
    assert dcrf.DenseCRF(nvar=4.0, nlabels=2).startInference


def test_widths_that_are_missing_leave_the_rest_as_it_is():
    one = utils.create_pairwise_bilateral((5,), (13,), PHOTO, chdim=2)
    assert np.array_equal(one, utils.create_pairwise_bilateral((5, 1), (13, 1, 1), PHOTO, chdim=2))
    assert one.dtype == np.float32
    grid = utils.create_pairwise_gaussian((2,), (2, 3))
    assert grid.tolist() == [[0, 0, 0, 0.5, 0.5, 0.5], [0, 1, 2, 0, 1, 2]]
    assert utils.create_pairwise_gaussian(2, (2, 3)).tolist() == [[0, 0, 0, 0.5, 0.5, 0.5], [0, 0.5, 1] * 2]


def test_energies_are_copied():
    buffer = UNARY.astype(np.float32)
    for give in (
        lambda crf: crf.setUnaryEnergy(buffer),
        lambda crf: crf.setUnary(dcrf.ConstUnary(buffer)),
        lambda crf: crf.setUnaryEnergy(buffer[:, ::-1][:, ::-1]),
    ):
        crf = dcrf.DenseCRF2D(W, H, K)
        give(crf)
        before = crf.inference(1)
        kept, buffer[...] = buffer.copy(), 0
        assert np.array_equal(crf.inference(1), before)
        buffer[...] = kept


def test_matrices_are_arrays():
    q = model().inference(1)
    assert isinstance(q, eigen.MatrixXf)
    assert dcrf.eigen is eigen
    values = np.arange(6.0).reshape(2, 3)
    copy = eigen.matrixXf(values)
    assert copy.dtype == np.float32
    assert np.array_equal(copy, values)
    assert eigen.vectorXf([1, 2]).tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"got an array \(2, 3\), wanted \(length,\)"):
        eigen.vectorXf(values)


def test_threads():
    expected = model().inference(3)
    for threads in (1, 2, 10**9):
        assert np.array_equal(model(threads=threads).inference(3), expected)
        assert dcrf.DenseCRF(4, 2, threads=threads).startInference
    with pytest.raises(ValueError, match="got 0 threads, wanted at least 1"):
        model(threads=0)


REFUSED = [
    (lambda: dcrf.DenseCRF2D(W, 7.5, K), "got h = 7.5, wanted a whole number"),
    (lambda: dcrf.DenseCRF2D(0, H, K), "got w = 0, wanted at least 1"),
    (lambda: dcrf.DenseCRF2D(W, H, "3"), "got nlabels = '3', wanted a number"),
    (lambda: dcrf.DenseCRF(-4, 2), "got nvar = -4, wanted at least 1"),
    (lambda: dcrf.DenseCRF(float("nan"), 2), "got nvar = nan, wanted a whole number"),
    (lambda: dcrf.DenseCRF(10**12, 2), "wanted at least 1 and at most 2147483647"),
    (lambda: dcrf.DenseCRF(4, 2, threads=1.5), "got threads = 1.5, wanted a whole number"),
    (lambda: dcrf.DenseCRF(4, 2).inference(1), "wanted setUnaryEnergy before inference"),
    (lambda: model().inference(5.7), "got niter = 5.7, wanted a whole number"),
    (lambda: model().inference(-1), "got niter = -1, wanted at least 0"),
    (lambda: model().inference(None), "got niter = None, wanted a number"),
    (lambda: model().inference(float("inf")), "got niter = inf, wanted a whole number"),
    (lambda: model(UNARY.T), "wanted (3, 63); give their transpose"),
    (lambda: model(UNARY.reshape(K, H, W)), "wanted (3, 63); give u.reshape(3, -1)"),
    (lambda: model(UNARY[:, 1:]), "got unary energies (3, 62), wanted (3, 63)"),
    (lambda: model(UNARY * np.nan), "got 189 unary energies that are NaN or −inf"),
    (lambda: model(np.where(UNARY > 1, -np.inf, UNARY)), "unary energies that are NaN or −inf"),
    (lambda: model(np.full_like(UNARY, np.inf)), "got 63 pixels whose unary energies are all infinite"),
    (lambda: model(UNARY.astype(complex)), "got unary energies of type complex128"),
    (lambda: model().setUnary(UNARY), "got ndarray, wanted ConstUnary or LogisticUnary"),
    (lambda: marginals(sxy=(5,)), "got sxy = (5,), wanted one number, or (x, y)"),
    (lambda: marginals(sxy=0), "got sxy = 0, wanted a finite number above 0"),
    (lambda: marginals(sxy="5"), "got sxy = '5', wanted a number"),
    (lambda: marginals(sxy=(5, -1)), "got sxy = -1, wanted a finite number above 0"),
    (
        lambda: marginals(srgb=(13, 13)),
        "got srgb = (13, 13), wanted one number, or one for each of 3 channels",
    ),
    (lambda: marginals(srgb=float("nan")), "got srgb = nan, wanted a finite number above 0"),
    (lambda: marginals(srgb=1e-6), "larger standard deviations"),
    (lambda: marginals(compat=[1, 2]), "got compat (2,), wanted a number, (3,) or (3, 3)"),
    (lambda: marginals(compat=np.inf), "got 1 compat that are NaN or infinite"),
    (lambda: marginals(image=PHOTO[None]), "got an image (1, 7, 9, 3), wanted (7, 9, 3)"),
    (lambda: marginals(image=PHOTO.transpose(1, 0, 2)), "DenseCRF2D takes the width first"),
    (lambda: marginals(image=PHOTO * np.nan), "image levels that are NaN or infinite"),
    (lambda: model().addPairwiseGaussian(3, 3, kernel=5), "got kernel = 5, wanted one of: CONST_KERNEL (0)"),
    (
        lambda: model().addPairwiseGaussian(3, 3, 1, "symmetric"),
        "got normalization = 'symmetric', wanted one",
    ),
    (lambda: model().addPairwiseEnergy(np.zeros((H * W, 2)), 3), "wanted (d, 63); give their transpose"),
    (
        lambda: model().addPairwiseEnergy(utils.create_pairwise_bilateral((3, 3), 5, PHOTO), 3),
        "wanted (d, 63); chdim=-1 is for images without channels",
    ),
    (
        lambda: model().stepInference(UNARY.tolist(), None, None),
        "got marginals of type list, wanted the array",
    ),
    (lambda: model().stepInference(UNARY[:2], None, None), "got marginals (2, 63), wanted (3, 63)"),
    (lambda: model().klDivergence(np.zeros(3)), "got marginals (3,), wanted (3, 63)"),
    (lambda: utils.create_pairwise_gaussian((1, 2, 3), (H, W)), "got sdims = (1, 2, 3), wanted at most 2"),
    (lambda: utils.create_pairwise_bilateral((1, 2), (1,) * 4, PHOTO, 2), "one for each of the 3 channels"),
    (lambda: utils.create_pairwise_bilateral((1, 2), 3, PHOTO, 5), "got chdim = 5 and an image (7, 9, 3)"),
    (lambda: utils.unary_from_labels(IDS + 0.5, K, 0.7), "got labels of type float64, wanted integers"),
    (lambda: utils.unary_from_labels(IDS, K, 1.5), "got gt_prob = 1.5, wanted a number between 0 and 1"),
    (lambda: utils.unary_from_labels(IDS, K, "0.7"), "got gt_prob = '0.7', wanted a number"),
    (lambda: utils.unary_from_labels(IDS, 1, 0.7), "got n_labels = 1, wanted at least 2"),
    (lambda: utils.unary_from_labels(IDS, 2.5, 0.7), "got n_labels = 2.5, wanted a whole number"),
    (
        lambda: utils.unary_from_labels(IDS + 1, 2, 0.7),
        "got label 3 at 21 pixels, wanted 1 to 2 for n_labels = 2",
    ),
    (lambda: utils.unary_from_labels(IDS - 1, K, 0.7, False), "got label -1 at 21 pixels, wanted 0 to 2"),
    (lambda: utils.unary_from_labels((IDS > 0) * 255, 2, 0.7), "for a mask of 0 and 255 use labels > 0"),
    (lambda: utils.unary_from_softmax(PROBABILITIES, scale=2), "got scale = 2, wanted a number above 0"),
    (lambda: utils.unary_from_softmax(PROBABILITIES, clip="no"), "got clip = 'no', wanted a number"),
    (
        lambda: utils.unary_from_softmax(PROBABILITIES * np.nan),
        "got 189 probabilities that are NaN or infinite",
    ),
    (lambda: utils.unary_from_softmax(0.5), "got probabilities (), wanted (K, …)"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_one_line_says_what_is_wrong(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


WARNED = [
    (lambda: dcrf.DenseCRF2D(W, H, 1), r"use nlabels = 2 and unary_from_softmax\(np.stack\(\[1 - p, p\]\)\)"),
    (lambda: utils.unary_from_softmax(PROBABILITIES[:1]), r"unary_from_softmax\(np.stack\(\[1 - p, p\]\)\)"),
    (lambda: utils.unary_from_softmax(UNARY), r"energies -log\(p\) go to setUnaryEnergy as they are"),
    (lambda: utils.unary_from_softmax(-UNARY), "for logits take the softmax first"),
    (lambda: model(PROBABILITIES.reshape(K, -1)), r"setUnaryEnergy takes -log\(p\), see unary_from_softmax"),
]


@pytest.mark.parametrize(("call", "cure"), WARNED, ids=[cure[:40] for _, cure in WARNED])
def test_a_warning_names_the_cure(call, cure):
    with pytest.warns(UserWarning, match=cure) as caught:
        call()
    assert caught[0].filename == __file__


def test_usual_input_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(utils.unary_from_softmax(PROBABILITIES))
        model(utils.unary_from_labels(LABELS, K, 0.7, zero_unsure=False))
        model(utils.unary_from_softmax(np.eye(K)[IDS].transpose(2, 0, 1), clip=None))
        marginals()


@pytest.mark.parametrize(
    ("image", "cure"),
    [
        (PHOTO / 255, "multiply by 255"),
        ((PHOTO - 120.0) / 60, "wanted the raw image in levels of 0–255"),
        (PHOTO.astype(np.uint16) * 257, "image / 257"),
    ],
)
def test_levels_that_do_not_fit_the_widths(image, cure):
    for call in (
        lambda: marginals(image=image),
        lambda: utils.create_pairwise_bilateral((5, 5), 13, image, chdim=2),
        lambda: utils.create_pairwise_bilateral((5, 5), (13, 13, 13), image, chdim=2),
    ):
        with pytest.warns(UserWarning, match=cure) as caught:
            call()
        assert caught[0].filename == __file__
        assert "srgb" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        marginals(image=image, srgb=13 * float(image.max() - image.min()) / 255)


def test_map_coordinates_as_features():
    near = np.random.default_rng(0).uniform(0, 3, size=(2, H * W))
    far = near + np.array([[499_980 / 10], [5_412_345 / 10]])  # metres, in widths of 10 m

    def inference(features):
        crf = model()
        crf.addPairwiseEnergy(features, compat=3)
        return crf.inference(3)

    assert np.abs(inference(far) - inference(near)).mean() < 0.02
