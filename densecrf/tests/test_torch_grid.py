import numpy as np
import pytest

from densecrf import exact

torch = pytest.importorskip("torch", reason="torch is not installed")
from densecrf.torch import Kernel  # noqa: E402
from densecrf.torch.grid import Grid  # noqa: E402


def positions(*axes):
    """(N, axes) of all combinations, the last axis fastest."""
    return torch.stack([grid.flatten() for grid in torch.meshgrid(*axes, indexing="ij")], dim=1)


def test_three_positions_by_hand():
    a, b, c = np.exp(-0.5), np.exp(-2.0), np.exp(-0.5)
    matrix = torch.tensor([[1, a, b], [a, 1, c], [b, c, 1]], dtype=torch.float64)
    values = torch.tensor([[1.0, 10.0, 100.0]], dtype=torch.float64)
    torch.testing.assert_close(Grid([torch.arange(3.0, dtype=torch.float64)]).filter(values), values @ matrix)


@pytest.mark.parametrize("shape", [(7,), (5, 8), (3, 4, 6), (1, 9), (9, 1)])
def test_is_the_exact_filter_of_all_its_points(shape):
    rng = np.random.default_rng(0)
    axes = [torch.from_numpy(np.sort(rng.normal(scale=2, size=n))) for n in shape]
    values = rng.normal(size=(4, np.prod(shape)))
    result = Grid(axes).filter(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(
        result.T, exact.gaussian_filter(positions(*axes).numpy(), values.T), atol=1e-10
    )


@pytest.mark.parametrize("normalization", ["symmetric", "after", "before", "none"])
@pytest.mark.parametrize("include_self", [True, False])
def test_the_kernel_of_a_grid_is_the_kernel_of_its_points(normalization, include_self):
    axes = [torch.arange(6.0, dtype=torch.float64) / 1.7, torch.arange(9.0, dtype=torch.float64) / 2.3]
    options = {"normalization": normalization, "include_self": include_self}
    values = torch.rand(3, 54, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = Kernel(positions(*axes), backend="exact", **options)(values)
    torch.testing.assert_close(Kernel.of_grid(axes, **options)(values), expected)


def test_gradients_to_positions_and_values():
    axes = [torch.linspace(0, 2, n, dtype=torch.float64).requires_grad_() for n in (3, 4)]
    values = torch.rand(
        2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b, v: Kernel.of_grid([a, b])(v), (*axes, values))


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="wanted one of: symmetric, after, before, none"):
        Kernel.of_grid([torch.zeros(3)], normalization="sym")
