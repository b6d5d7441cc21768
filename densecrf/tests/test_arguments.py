"""Numbers that callers pass as lists, NumPy scalars or floats: accepted, or refused in one clear line."""

import json
from dataclasses import asdict

import numpy as np
import pytest

import densecrf.pydensecrf as dcrf
from densecrf import Bilateral, DenseCRF, Features, Gaussian, Params, refine, unary_from_probabilities
from scenes import scene

SIZE = (4, 6)
UNARY = np.random.default_rng(0).uniform(size=(2, *SIZE))
PHOTO = np.random.default_rng(1).integers(0, 256, size=(*SIZE, 3), dtype=np.uint8)
PAIRS = [[3, 2], [np.float32(3), np.int64(2)], np.array([3, 2]), np.array([3.0, 2.0], np.float32)]
SCALARS = [np.float32(3), np.float64(3), np.int64(3), np.array(3), np.array(3.0)]


@pytest.mark.parametrize("xy_std", PAIRS)
def test_sequences_of_widths_are_tuples(xy_std):
    assert np.array_equal(Gaussian(SIZE, xy_std).features(), Gaussian(SIZE, (3.0, 2.0)).features())
    expected = Bilateral(PHOTO, (3.0, 2.0), (5.0, 6.0, 7.0)).features()
    for levels in ([5, 6, 7], np.array([5, 6, 7])):
        assert np.array_equal(Bilateral(PHOTO, xy_std, levels).features(), expected)
    kernels = [Gaussian(list(SIZE), xy_std, origin=[1, 2]), Bilateral(PHOTO, xy_std, [5, 6, 7])]
    same = [Gaussian(SIZE, (3.0, 2.0), origin=(1, 2)), Bilateral(PHOTO, (3.0, 2.0), (5.0, 6.0, 7.0))]
    for backend in ("lattice", "exact"):
        result = DenseCRF(kernels, backend=backend).infer(UNARY)
        assert np.array_equal(result, DenseCRF(same, backend=backend).infer(UNARY))


@pytest.mark.parametrize("number", SCALARS)
def test_numpy_scalars_are_numbers(number):
    kernels = [Gaussian(SIZE, number, number), Bilateral(PHOTO, number, number, number)]
    expected = DenseCRF([Gaussian(SIZE, 3, 3), Bilateral(PHOTO, 3, 3, 3)]).infer(UNARY, iterations=3)
    assert np.array_equal(DenseCRF(kernels).infer(UNARY, iterations=np.int64(3)), expected)
    params = Params(appearance_weight=number, smoothness_xy_std=number)
    assert params == Params(appearance_weight=3, smoothness_xy_std=3)
    assert json.loads(json.dumps(asdict(params))) == asdict(params)
    photo, probabilities, _ = scene(*SIZE)
    assert np.array_equal(
        refine(photo, probabilities, params=params, iterations=np.int8(2)),
        refine(photo, probabilities, params=Params(appearance_weight=3, smoothness_xy_std=3), iterations=2),
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Gaussian(SIZE, "3").features(), "got xy_std = '3', wanted a number"),
        (lambda: Gaussian(SIZE, None).features(), "got xy_std = None, wanted a number"),
        (lambda: Gaussian(SIZE, ["3", 2]).features(), "got xy_std = '3', wanted a number"),
        (lambda: Gaussian(SIZE, [[3, 2], 2]).features(), "got xy_std = [3, 2], wanted a number"),
        (lambda: DenseCRF([Gaussian(SIZE, 3, [1])]), "got weight = [1], wanted a number"),
        (lambda: Bilateral(PHOTO, 3, "5").features(), "got channel_std = '5', wanted a number"),
        (lambda: Bilateral(PHOTO, {3: 2}, 5).features(), "got xy_std = {3: 2}, wanted a number"),
        (lambda: DenseCRF([Features(np.zeros((4, 2)), "1")]), "got weight = '1', wanted a number"),
        (lambda: Params(appearance_xy_std=[50]), "got appearance_xy_std = [50], wanted a number"),
        (lambda: Params(smoothness_weight="3"), "got smoothness_weight = '3', wanted a number"),
        (lambda: Params(smoothness_weight=1j), "got smoothness_weight = 1j, wanted a number"),
        (lambda: DenseCRF([], merge_threshold="0"), "got merge_threshold = '0', wanted a number"),
        (lambda: DenseCRF([], convergence_tolerance=None), "got convergence_tolerance = None, wanted"),
        (lambda: DenseCRF([]).infer(UNARY, tolerance="1"), "got tolerance = '1', wanted a number"),
        (lambda: DenseCRF([]).infer(UNARY, iterations=10.0), "got iterations = 10.0, wanted a whole"),
        (lambda: refine(PHOTO, UNARY, iterations=10.0), "got iterations = 10.0, wanted a whole number"),
        (lambda: refine(PHOTO, UNARY, params={"appearance_weight": 3}), "wanted densecrf.Params or None"),
        (lambda: unary_from_probabilities(UNARY, floor="0.1"), "got floor = '0.1', wanted a number"),
        (lambda: dcrf.DenseCRF2D(6, 4, 2).addPairwiseGaussian("3", 3), "got sxy = '3', wanted a number"),
    ],
)
def test_other_types_get_one_line(call, message):
    with pytest.raises(TypeError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Gaussian(SIZE, [3]).features(), "wanted one number, or one for each axis of shape (4, 6)"),
        (lambda: Gaussian(SIZE, [3, -2]).features(), "got xy_std = -2, wanted a finite number above 0"),
        (lambda: Gaussian(SIZE, 10**400).features(), "for xy_std, wanted a finite number"),
        (lambda: Bilateral(PHOTO, [3, 2, 1], 5).features(), "wanted one number, or (σ_y, σ_x)"),
        (lambda: Bilateral(PHOTO, 3, [5, 6]).features(), "wanted one number, or one for each of 3 channels"),
        (lambda: dcrf.DenseCRF2D(6, 4, 2).addPairwiseGaussian([3], 3), "wanted one number, or (x, y)"),
    ],
)
def test_sequences_of_another_length_are_refused(call, message):
    with pytest.raises(ValueError, match=r"^got ") as caught:
        call()
    assert message in str(caught.value)


def test_the_torch_module_takes_the_same_numbers():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from densecrf.torch import DenseCRF as Module

    image = torch.from_numpy(PHOTO).permute(2, 0, 1)[None]
    logits = torch.from_numpy(-UNARY).float()[None]
    expected = Module(spacing=(1.0, 2.0), iterations=3)(image, logits)
    for spacing in ([1, 2], np.array([1, 2]), torch.tensor([1.0, 2.0])):
        assert torch.equal(Module(spacing=spacing, iterations=np.int64(3))(image, logits), expected)
    for options, message in (
        ({"iterations": 10.0}, "got iterations = 10.0, wanted a whole number"),
        ({"iterations": "3"}, "got iterations = '3', wanted a whole number"),
        ({"spacing": 2.0}, "got spacing = 2.0, wanted a number for each axis of the image"),
        ({"spacing": ("1", 2)}, "got spacing = '1', wanted a number"),
        ({"merge_threshold": "0"}, "got merge_threshold = '0', wanted a number"),
        ({"params": {"appearance_weight": 3}}, "wanted densecrf.Params or None"),
    ):
        with pytest.raises(TypeError) as caught:
            Module(**options)
        assert message in str(caught.value)
    with pytest.raises(TypeError, match="got image of type ndarray, wanted a tensor"):
        Module()(PHOTO, logits)
