import numpy as np
import pytest

import densecrf
from densecrf import lattice
from lattice_twin import filter_points

torch = pytest.importorskip("torch", reason="torch is not installed")
from densecrf.torch import Kernel, Lattice  # noqa: E402

SPACING = np.sqrt(3) / 2  # of the vertices of the 1-D lattice, in standard deviations


def test_one_point_by_hand():
    # As in test_lattice.py: splat (1, 0) on a vertex and the next; two blurs give (5/4, 1); the slice divides
    # by 3/2.
    one = Lattice(torch.zeros(1, 1))
    assert one.filter(torch.ones(1, 1)).item() == pytest.approx(5 / 4 / 1.5)
    assert one.diagonal().item() == pytest.approx(5 / 4 / 1.5)
    assert one.vertices == 2


def test_gradient_to_a_feature_by_hand():
    # A point at a share s of the way between its two vertices: splat (1 − s, s), blurs (1 − s + s/2, s + (1 −
    # s)/2) and then (first + second/2, second + first/2); the slice is their mean with weights (1 − s, s),
    # over 3/2.
    share = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)

    def by_hand(s):
        first, second = 1 - s + s / 2, s + (1 - s) / 2
        return ((1 - s) * (first + second / 2) + s * (second + first / 2)) / 1.5

    result = Lattice(share * SPACING).filter(torch.ones(1, 1, dtype=torch.float64))
    expected = by_hand(share)
    assert result.item() == pytest.approx(expected.item())
    (slope,) = torch.autograd.grad(result, share)
    (expected_slope,) = torch.autograd.grad(expected, share)
    assert slope.item() == pytest.approx(expected_slope.item())


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5, 8, 20])
def test_agrees_with_the_slow_twin(dimensions):
    rng = np.random.default_rng(dimensions)
    features, values = rng.normal(scale=1.5, size=(60, dimensions)), rng.normal(size=(60, 3))
    result = Lattice(torch.from_numpy(features)).filter(torch.from_numpy(values.T)).numpy().T
    np.testing.assert_allclose(result, filter_points(features, values), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spread", [0.3, 3.0, 30.0])
@pytest.mark.parametrize("dimensions", [1, 2, 3, 6])
@pytest.mark.parametrize("points", [1, 2, 60, 500])
def test_is_the_native_lattice(points, dimensions, spread):
    rng = np.random.default_rng(points)
    features = rng.normal(scale=spread, size=(points, dimensions)).astype(np.float32)
    values = rng.normal(size=(points, 4)).astype(np.float32)
    native, plain = densecrf.Lattice(features), Lattice(torch.from_numpy(features))
    assert abs(plain.vertices - native.vertices) <= 1  # rounding decides for a point on a face
    result = plain.filter(torch.from_numpy(values.T)).numpy().T
    np.testing.assert_allclose(result, native.filter(values), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("normalization", ["symmetric", "after", "before", "none"])
@pytest.mark.parametrize("include_self", [True, False])
def test_kernel_is_the_native_kernel(normalization, include_self):
    rng = np.random.default_rng(5)
    features, values = (
        rng.normal(size=(500, 4)).astype(np.float32),
        rng.normal(size=(500, 3)).astype(np.float32),
    )
    native = lattice.Kernel(features, normalization, include_self)
    plain = Kernel(torch.from_numpy(features), normalization=normalization, include_self=include_self)
    np.testing.assert_allclose(
        plain(torch.from_numpy(values.T)).numpy().T, native.filter(values), rtol=1e-3, atol=1e-4
    )


def test_diagonal_by_filtering_the_identity():
    features = torch.from_numpy(np.random.default_rng(6).normal(size=(40, 3)))
    one = Lattice(features)
    torch.testing.assert_close(one.diagonal(), one.filter(torch.eye(40, dtype=torch.float64)).diagonal())


def test_coordinates_too_wide_for_a_key():
    # Keys of random units, for 20 dimensions over many cells. The native lattice hashes whole coordinates.
    rng = np.random.default_rng(7)
    features = rng.normal(scale=30, size=(50, 20)).astype(np.float32)
    features[25:] = features[:25] + rng.normal(scale=0.2, size=(25, 20)).astype(np.float32)
    values = rng.normal(size=(50, 2)).astype(np.float32)
    result = Lattice(torch.from_numpy(features)).filter(torch.from_numpy(values.T)).numpy().T
    expected = densecrf.Lattice(features).filter(values)
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-3)


def test_no_points_and_no_values():
    assert Lattice(torch.zeros(0, 3)).filter(torch.zeros(4, 0)).shape == (4, 0)
    assert Lattice(torch.zeros(5, 3)).filter(torch.zeros(0, 5)).shape == (0, 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_unusable_features_are_refused(value):
    with pytest.raises(ValueError, match="not finite or span more lattice cells"):
        Lattice(torch.tensor([[0.0, value]]))


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (torch.zeros(5), {}, r"got features \(5,\)"),
        (torch.zeros(5, 2).long(), {}, r"wanted \(N, d\) floats"),
        (torch.zeros(5, 2), {"normalization": "sym"}, "wanted one of: symmetric, after, before, none"),
        (torch.zeros(5, 2), {"backend": "native"}, "wanted one of: torch, exact"),
    ],
)
def test_unusable_kernels_are_refused(features, options, message):
    with pytest.raises(ValueError, match=message):
        Kernel(features, **options)
