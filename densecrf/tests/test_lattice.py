import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from densecrf import Lattice, exact
from lattice_twin import filter_points

SPACING = np.sqrt(3) / 2  # distance of the vertices of the 1-D lattice, in standard deviations


def test_one_point_by_hand():
    # The point lies on a vertex: the splat is (1, 0) there and on the next one; two blurs give (1, 1/2) and
    # (5/4, 1); the slice divides by 3/2.
    assert Lattice([[0.0]]).filter([[1.0]])[0, 0] == pytest.approx(5 / 4 / 1.5)
    assert Lattice([[0.0]]).vertices == 2


def test_two_points_half_a_cell_apart_by_hand():
    # One point at 0, the other half way to the next vertex; the splat of the values (1, 2) is 1 + 2·½ and
    # 2·½. The first point lies on a vertex, and its cell extends to the right. With the second point to the
    # right, both share two vertices: (2, 1) blurs to (5/2, 2) and (7/2, 13/4). With the second point to the
    # left, there is a third vertex: (1, 2, 0) blurs to (2, 5/2, 1) and (13/4, 4, 9/4).
    right = Lattice([[0.0], [SPACING / 2]]).filter([1.0, 2.0])
    assert right == pytest.approx([7 / 2 / 1.5, (7 / 2 + 13 / 4) / 2 / 1.5], rel=1e-5)
    left = Lattice([[0.0], [-SPACING / 2]]).filter([1.0, 2.0])
    assert left == pytest.approx([4 / 1.5, (4 + 13 / 4) / 2 / 1.5], rel=1e-5)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5, 8, 17, 24])
def test_agrees_with_the_plain_python_lattice(dimensions):
    rng = np.random.default_rng(dimensions)
    features = rng.normal(scale=1.5, size=(60, dimensions)).astype(np.float32)
    values = rng.normal(size=(60, 3)).astype(np.float32)
    np.testing.assert_allclose(
        Lattice(features).filter(values), filter_points(features, values), rtol=2e-4, atol=2e-5
    )


def test_normalised_filter_is_near_the_exact_gaussian():
    # The error of the approximation, as measured: 8 % for the worst of these points.
    y, x = np.mgrid[:37, :52]
    smooth = np.stack([x.ravel() / 4, y.ravel() / 4], axis=1)
    values = np.random.default_rng(0).uniform(size=(37 * 52, 2))
    ones = np.ones((37 * 52, 1))
    lattice = Lattice(smooth)
    ours = lattice.filter(values) / lattice.filter(ones)
    expected = exact.gaussian_filter(smooth, values) / exact.gaussian_filter(smooth, ones)
    assert np.abs(ours / expected - 1).max() < 0.08
    assert np.abs(ours / expected - 1).mean() < 0.01


@settings(max_examples=30, deadline=None)
@given(
    arrays(
        np.float32, st.tuples(st.integers(1, 40), st.integers(1, 6)), elements=st.floats(-50, 50, width=32)
    ),
    st.floats(-3, 3, width=32),
)
def test_constants_stay_constant_after_normalising(features, level):
    lattice = Lattice(features)
    ones = np.ones(len(features))
    np.testing.assert_allclose(
        lattice.filter(level * ones) / lattice.filter(ones), level, rtol=1e-4, atol=1e-6
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_filter_is_linear_and_order_of_points_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    features, a, b = rng.normal(size=(50, 3)), rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    lattice = Lattice(features)
    np.testing.assert_allclose(
        lattice.filter(2 * a - b), 2 * lattice.filter(a) - lattice.filter(b), rtol=1e-4, atol=1e-4
    )
    order = rng.permutation(50)
    np.testing.assert_allclose(
        Lattice(features[order]).filter(a[order]), lattice.filter(a)[order], rtol=1e-4, atol=1e-4
    )


def test_gives_the_same_bits_with_any_number_of_threads(monkeypatch):
    monkeypatch.setattr("densecrf.threads.processors", lambda: 8)
    rng = np.random.default_rng(1)
    features, values = rng.normal(size=(30_000, 5)), rng.normal(size=(30_000, 7))
    one = Lattice(features, threads=1).filter(values)
    for threads in (2, 3, 7):
        assert np.array_equal(Lattice(features, threads=threads).filter(values), one)


@pytest.mark.parametrize(
    "make", [np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2], np.float16, np.float64]
)
def test_memory_layout_and_type_do_not_matter(make):
    rng = np.random.default_rng(2)
    features = rng.integers(-4, 5, size=(40, 3)).astype(np.float32) / 2
    values = rng.integers(0, 9, size=(40, 2)).astype(np.float32)
    assert np.array_equal(Lattice(make(features)).filter(make(values)), Lattice(features).filter(values))


def test_no_points():
    assert Lattice(np.zeros((0, 2))).filter(np.zeros((0, 4))).shape == (0, 4)


def test_forty_dimensions_and_many_columns():
    rng = np.random.default_rng(3)
    filtered = Lattice(rng.normal(size=(30, 40))).filter(rng.normal(size=(30, 300)))
    assert filtered.shape == (30, 300)
    assert np.isfinite(filtered).all()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros(5), r"wanted \(N, d\)"),
        (np.zeros((5, 0)), r"wanted \(N, d\)"),
        (np.zeros((5, 256)), r"d from 1 to 255"),
        ([[0.0, np.nan]], "1 features that are NaN or infinite"),
        ([[0.0, 0.0], [0.0, 1e30]], "span more lattice cells"),
        ([[-1e9, 0.0], [1e9, 0.0]], "span more lattice cells"),
    ],
)
def test_unusable_features_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        Lattice(features)


def test_unusable_values_and_threads_are_refused():
    lattice = Lattice(np.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"wanted \(5, v\)"):
        lattice.filter(np.zeros((4, 1)))
    with pytest.raises(ValueError, match="2 values that are NaN"):
        lattice.filter([1, np.nan, 0, np.inf, 0])
    with pytest.raises(ValueError, match="wanted at least 1"):
        Lattice(np.zeros((5, 2)), threads=0)


@pytest.mark.parametrize(
    ("dimensions", "size", "fits"),
    [
        (1, 2.9e7, True),
        (1, 3e7, False),
        (2, 2e7, True),
        (2, 2.9e7, False),
        (127, 2.04e7, True),
        (127, 2.9e7, False),
        (128, 1.9e7, True),
        (128, 2.05e7, False),  # coordinates of more than 31 bits
    ],
)
def test_features_near_the_limit_of_the_lattice(dimensions, size, fits):
    features = np.zeros((3, dimensions), np.float32)
    features[1, 0] = features[2, -1] = size
    if fits:
        filtered = Lattice(features).filter(np.ones((3, 2)))
        assert np.isfinite(filtered).all()
        assert ((filtered > 0.5) & (filtered <= 3)).all()
        return
    with pytest.raises(ValueError, match="span more lattice cells"):
        Lattice(features)
