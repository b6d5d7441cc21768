from types import SimpleNamespace

import numpy as np
import pytest

from densecrf import Bilateral, exact
from scenes import scene

torch = pytest.importorskip("torch", reason="torch is not installed")
from densecrf.torch import tiles  # noqa: E402


def gaussian(points, coarse, fine, listed, bounds, schedule):
    """Plain PyTorch with the interface of the Triton kernel, pair of tiles by pair of tiles."""
    out = torch.full(coarse.shape, float("nan"))
    values = coarse.float() + fine.float()
    for row in schedule.tolist():
        queries = slice(16 * row, 16 * row + 16)
        out[queries] = 0
        for tile in listed[bounds[row] : bounds[row + 1]].tolist():
            keys = slice(32 * tile, 32 * tile + 32)
            squares = (points[:, queries, None] - points[:, None, keys]).square().sum(0)
            out[queries] += 2.0**14 * torch.exp2(-squares) @ values[keys]
    return out


KERNELS = SimpleNamespace(QUERIES=16, KEYS=32, SHIFT=14, gaussian=gaussian)


@pytest.mark.parametrize("points", [1, 31, 700])
@pytest.mark.parametrize("labels", [1, 21, 70])
def test_is_the_exact_filter(points, labels):
    photo = scene(25, 28)[0]
    features = Bilateral(photo, 20, 6).features()[:points]
    values = np.random.default_rng(0).uniform(-1, 1, size=(labels, points)).astype(np.float32)
    result = tiles.Tiles(torch.from_numpy(features), KERNELS).filter(torch.from_numpy(values)).numpy()
    expected = exact.gaussian_filter(features, values.T).T
    np.testing.assert_allclose(result, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e20])
def test_values_of_any_size_keep_their_digits(size):
    features = torch.from_numpy(Bilateral(scene(12, 15)[0], 20, 30).features())
    values = torch.rand(3, 180, generator=torch.Generator().manual_seed(0))
    one = tiles.Tiles(features, KERNELS)
    torch.testing.assert_close(one.filter(size * values) / size, one.filter(values), rtol=1e-5, atol=0)
    assert torch.equal(one.filter(0 * values), 0 * values)


def test_the_gradient_is_the_filter():
    features = torch.from_numpy(Bilateral(scene(12, 15)[0], 20, 30).features())
    one = tiles.Tiles(features, KERNELS)
    values, slope = torch.rand(2, 3, 180, generator=torch.Generator().manual_seed(1))
    values.requires_grad_()
    (result,) = torch.autograd.grad(one.filter(values), values, slope)
    torch.testing.assert_close(result, one.filter(slope))


def test_far_tiles_are_skipped_and_near_ones_are_not(monkeypatch):
    monkeypatch.setattr(tiles, "MAX_PAIRS", 64)  # distances a few tiles at a time
    points = torch.from_numpy(Bilateral(scene(24, 32)[0], 10, 3).features()).double()
    points = points[tiles.z_order(points)]
    listed, bounds, schedule = tiles.near_tiles(points, 16, 32)
    near = (-torch.cdist(points, points).square() / 2).exp()
    left = (
        near.reshape(48, 16, 24, 32).sum(3).permute(0, 2, 1).clone()
    )  # (tile of queries, tile of keys, query)
    for row in range(48):
        left[row, listed[bounds[row] : bounds[row + 1]].long()] = 0
    assert left.sum(1).max() < tiles.MAX_SKIPPED_WEIGHT
    assert len(listed) < 0.7 * 48 * 24
    lengths = bounds.diff()[schedule.long()]
    assert torch.equal(lengths, lengths.sort(descending=True).values)
    assert torch.equal(schedule.sort().values, torch.arange(48, dtype=torch.int32))


def test_z_order_by_hand():
    points = torch.tensor([[3.0, 3.0], [0.0, 3.0], [0.0, 0.0], [1.0, 1.0], [3.0, 0.0]])
    # Bits of x are below those of y: (0,0), (1,1), (3,0), (0,3), (3,3).
    assert tiles.z_order(points).tolist() == [2, 3, 4, 1, 0]
