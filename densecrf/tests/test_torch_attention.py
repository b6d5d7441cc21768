import numpy as np
import pytest

from densecrf import Bilateral, exact
from scenes import scene

torch = pytest.importorskip("torch", reason="torch is not installed")
from densecrf.torch import Attention, attention  # noqa: E402


def test_three_points_by_hand():
    a, b, c = np.exp(-0.5), np.exp(-2.0), np.exp(-2.5)
    matrix = torch.tensor([[1, a, b], [a, 1, c], [b, c, 1]], dtype=torch.float64)
    features = torch.tensor([[0, 0], [1, 0], [0, 2]], dtype=torch.float64)
    values = torch.tensor([[1, 10, 100]], dtype=torch.float64)
    torch.testing.assert_close(Attention(features).filter(values), values @ matrix)


@pytest.mark.parametrize(("dimensions", "columns"), [(1, 1), (2, 9), (5, 21), (12, 3)])
def test_is_the_exact_filter(dimensions, columns, monkeypatch):
    monkeypatch.setattr(attention, "MAX_ENTRIES", 1000)  # row sums in tiles of three points, the last of one
    rng = np.random.default_rng(dimensions)
    features = rng.normal(scale=2, size=(301, dimensions)) + 1000  # far from the origin
    values = rng.normal(size=(301, columns))
    result = Attention(torch.from_numpy(features)).filter(torch.from_numpy(values.T)).numpy().T
    np.testing.assert_allclose(result, exact.gaussian_filter(features, values), rtol=1e-8, atol=1e-8)


def test_single_precision_is_computed_in_double():
    photo = scene(40, 56)[0]
    features = Bilateral(photo, 50, 3).features()
    values = np.random.default_rng(0).uniform(size=(40 * 56, 4)).astype(np.float32)
    result = Attention(torch.from_numpy(features)).filter(torch.from_numpy(values.T))
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy().T, exact.gaussian_filter(features, values), rtol=1e-5)


def test_no_points_and_no_values():
    assert Attention(torch.zeros(0, 3)).filter(torch.zeros(4, 0)).shape == (4, 0)
    assert Attention(torch.zeros(5, 3)).filter(torch.zeros(0, 5)).shape == (0, 5)


@pytest.mark.parametrize(
    ("widths", "single", "half"), [((50, 60), 1e-5, 1e-3), ((50, 20), 1e-5, 1e-2), ((50, 3), 1e-3, None)]
)
def test_where_half_precision_fails(widths, single, half):
    # The normalised filter with features rounded to a type: half precision works for very wide kernels only.
    photo, probabilities, _ = scene(40, 56)
    features = torch.from_numpy(Bilateral(photo, *widths).features()).double()
    features = features - features.mean(0)
    halves = features.square().sum(1, keepdim=True) / 2
    values = torch.from_numpy(probabilities.reshape(4, -1).T).double()

    def error(kind):
        rounded, offsets = features.to(kind).double(), halves.to(kind).double()
        result = (rounded @ rounded.T - offsets.T).softmax(1) @ values
        expected = (features @ features.T - halves.T).softmax(1) @ values
        return (result - expected).abs().max().item()

    assert error(torch.float32) < single
    if half is None:
        assert min(error(torch.float16), error(torch.bfloat16)) > 0.02
    else:
        assert error(torch.float16) < half
        assert error(torch.bfloat16) > error(torch.float16)
