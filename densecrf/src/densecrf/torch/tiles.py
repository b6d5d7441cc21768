"""The exact Gaussian filter on a GPU: one Triton kernel over the pairs of nearby tiles of sorted points."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from torch.autograd.function import once_differentiable

MAX_AXES = 16
"""Maximum number of features that the kernel is unrolled for."""
MIN_COLUMNS = 16
"""Minimum number of labels in one pass, which a tensor core multiplies."""
MAX_COLUMNS = 64
"""Maximum number of labels in one pass, which stay in registers."""
MAX_SKIPPED_WEIGHT = 1e-7
"""Limit on the total weight, at any point, of the pairs of points that are skipped because they are far."""
MAX_EXPONENT = 14
"""Values are scaled to at most 2^MAX_EXPONENT before they become float16."""
BITS_PER_AXIS = 10
"""Number of bits of each coordinate that points are sorted by."""
MAX_PAIRS = 2**24
"""Number of pairs of tiles whose distances are in memory at a time."""


class Tiles:
    """``Σ_j exp(−|f_i − f_j|² / 2) v_j`` for every point, differentiable in values.

    Points are sorted along a Z-order curve, so that a tile of neighbours in that order covers a small box of
    feature space. Pairs of tiles whose boxes are so far apart that they do not matter are skipped: seven in
    eight for a photo with the paper's widths. For the others each distance is computed from differences of
    float32 coordinates, which loses no digits however far the points lie from the origin. Kernel values and
    values are each split into two float16 numbers (22 bits together), multiplied on the tensor cores and
    summed in float32.

    Largest errors on a photo of 128×96 with 21 labels, against float64, if both factors were rounded to one
    number instead; for a normalised filter of probabilities, and for marginals after ten steps:

    ==================  =================  ====================  ==================  =====================
    both factors        filter, 50 and 3   marginals, 50 and 3   filter, 121 and 5   marginals, 121 and 5
    ==================  =================  ====================  ==================  =====================
    one bfloat16        2e-3               8e-3                  2e-3                2e-3
    one float16         3e-4               4e-3                  2e-4                4e-4
    ==================  =================  ====================  ==================  =====================

    Args:
        features: (N, d) float32, N at least 1, d at most ``MAX_AXES``.
        kernels: the module ``triton_kernels``.
    """

    @torch.no_grad()
    def __init__(self, features: torch.Tensor, kernels: ModuleType):
        self._kernels = kernels
        count = len(features)
        self._order = order = z_order(features)
        self._padding = -count % math.lcm(kernels.QUERIES, kernels.KEYS)
        order = torch.cat(
            [order, order[-1:].expand(self._padding)]
        )  # copies of the last point, without values
        points = features[order]
        self._tiles, self._bounds, self._schedule = near_tiles(points, kernels.QUERIES, kernels.KEYS)
        self._points = (points * math.sqrt(math.log2(math.e) / 2)).t().contiguous()

    @property
    def computed_share(self) -> float:
        """Share of all pairs of points that are computed."""
        pairs = len(self._tiles) * self._kernels.QUERIES * self._kernels.KEYS
        return pairs / self._points.shape[1] ** 2

    def filter(self, values: torch.Tensor) -> torch.Tensor:
        """(v, N) to (v, N), each row filtered."""
        result: torch.Tensor = _SymmetricFilter.apply(values, self)  # type: ignore[no-untyped-call]
        return result

    def filter_without_gradient(self, values: torch.Tensor) -> torch.Tensor:
        """(v, N) to (v, N), each row filtered, outside of autograd."""
        parts = [self._filter_columns(part) for part in torch.split(values, MAX_COLUMNS)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _filter_columns(self, values: torch.Tensor) -> torch.Tensor:
        """One pass over at most ``MAX_COLUMNS`` rows of values."""
        count, points = values.shape
        width = max(MIN_COLUMNS, 2 ** math.ceil(math.log2(count)))
        exponent = values.abs().amax().clamp_min(torch.finfo(torch.float32).tiny).log2().ceil()
        scale = torch.exp2((MAX_EXPONENT - exponent).clamp(-126, 126))
        scaled = (values.t() * scale)[self._order]
        parts = values.new_zeros(2, points + self._padding, width, dtype=torch.float16)
        parts[0, :points, :count] = scaled
        parts[1, :points, :count] = scaled - scaled.half()
        filtered = self._kernels.gaussian(self._points, *parts, self._tiles, self._bounds, self._schedule)
        out = torch.empty(points, count, dtype=values.dtype, device=values.device)
        out[self._order] = filtered[:points, :count] * (2.0**-self._kernels.SHIFT / scale)
        return out.t()


class _SymmetricFilter(torch.autograd.Function):
    """The filter, whose matrix is symmetric, so that its gradient is the filter itself."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, tiles: Tiles) -> torch.Tensor:
        ctx.tiles = tiles
        return tiles.filter_without_gradient(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        tiles: Tiles = ctx.tiles
        return tiles.filter_without_gradient(grad), None


def z_order(points: torch.Tensor) -> torch.Tensor:
    """(N,): an order (Morton's) in which points that are near each other in (N, d) mostly are neighbours."""
    d = points.shape[1]
    bits = min(BITS_PER_AXIS, 63 // d)
    low = points.amin(dim=0)
    span = (points.amax(dim=0) - low).amax().clamp_min(torch.finfo(points.dtype).tiny)
    cells = ((points - low) / span * (2**bits - 1)).long()
    bit = torch.arange(bits, device=points.device)
    code = torch.zeros_like(cells[:, 0])
    for axis in range(d):
        code += (((cells[:, axis, None] >> bit) & 1) << (bit * d + axis)).sum(dim=1)
    return code.argsort(stable=True)


def near_tiles(
    points: torch.Tensor, queries: int, keys: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the tiles of keys that each tile of queries is near to.

    Args:
        points: (P, d), sorted, P a multiple of both sizes.
        queries: number of points in a tile that is summed for.
        keys: number of points in a tile that is summed over.

    Returns:
        tiles (T,), bounds (P / queries + 1,), schedule (P / queries,), all int32: see
        ``triton_kernels.gaussian``.
    """
    reach = math.log(len(points) / MAX_SKIPPED_WEIGHT)  # nats
    query_low, query_high = _boxes(points, queries)
    key_low, key_high = _boxes(points, keys)
    near = []
    step = max(1, MAX_PAIRS // len(key_low))
    for low, high in zip(torch.split(query_low, step), torch.split(query_high, step), strict=True):
        squares = low.new_zeros(len(low), len(key_low))
        for axis in range(points.shape[1]):
            gap = torch.maximum(
                low[:, None, axis] - key_high[None, :, axis],
                key_low[None, :, axis] - high[:, None, axis],
            )
            squares += gap.clamp_(min=0).square_()
        near.append(squares / 2 < reach)
    counts = torch.cat([part.sum(dim=1) for part in near])
    tiles = torch.cat([part.nonzero()[:, 1] for part in near])
    bounds = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return tiles.int(), bounds.int(), counts.argsort(descending=True, stable=True).int()


def _boxes(points: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lower and upper corners (P / size, d) of the boxes around tiles of points."""
    tiles = points.reshape(-1, size, points.shape[1])
    return tiles.amin(dim=1), tiles.amax(dim=1)
