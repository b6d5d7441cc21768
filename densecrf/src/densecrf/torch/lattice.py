"""The permutohedral lattice in PyTorch: the same code on every device, differentiable in features and values.

Points are found on the lattice as in the native kernels; ``vertices`` holds the filter's steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from densecrf.torch.vertices import Vertices, connect

MOST_CELLS = 2**24
"""As in the native kernels: float32 counts whole numbers up to here."""


class Lattice:
    """A Gaussian filter over N points: the twin of ``densecrf.Lattice`` on any device.

    The filter is differentiable in values, exactly, and in features through the points' barycentric weights.
    It is piecewise smooth in features: the vertices that points touch count as fixed.

    Args:
        features: (N, d), float32 or float64, already divided by their standard deviations.

    Raises:
        ValueError: for features that are not finite or span more cells than can be told apart.

    Source: Adams, Baek, Davis 2010, "Fast High-Dimensional Filtering Using the Permutohedral Lattice".
    """

    def __init__(self, features: torch.Tensor):
        self._weights, cells, axes = locate(features)
        self._vertices = connect(cells, axes, self._weights)

    @property
    def vertices(self) -> int:
        """How many lattice vertices the points touch."""
        return len(self._vertices)

    def filter(self, values: torch.Tensor) -> torch.Tensor:
        """(v, N) to (v, N), each row filtered."""
        if not values.numel():
            return values.clone()
        rows: torch.Tensor = _Filter.apply(values.t().contiguous(), self._weights, self._vertices)  # type: ignore[no-untyped-call]
        return rows.t()

    @torch.no_grad()
    def weighted(self, factors: torch.Tensor | None) -> torch.Tensor:
        """(N, d + 1): the points' weights, times a factor for each point (N,) if given, for ``add``."""
        return self._weights if factors is None else self._weights * factors[:, None]

    @torch.no_grad()
    def add(
        self, base: torch.Tensor, rows: torch.Tensor, splat: torch.Tensor, slice: torch.Tensor
    ) -> torch.Tensor:
        """``base`` plus ``rows`` filtered, both (N, v) contiguous, with weights of their own for splat and
        slice."""
        collected = self._vertices.collect(rows, splat)
        return self._vertices.spread(collected, slice, rows.shape[1], base)

    def own(self) -> torch.Tensor:
        """(N,): what a point's own value contributes to its filtered value.

        From corner to corner of a simplex the blur has two ways: down the axes between them, or up all
        others.
        """
        found, weights = self._vertices, self._weights
        corners = weights.shape[1]
        share = torch.zeros_like(weights[:, 0])
        for a in range(corners):
            for distance in range(corners):
                between = torch.zeros(found.axes.shape, dtype=torch.bool, device=weights.device)
                between.scatter_(
                    1, found.axes[:, (a + torch.arange(distance, device=weights.device)) % corners], True
                )
                start = found.corner[:, a]
                ways = found.way(start, between, up=False) + found.way(start, between, up=True)
                if distance == 0:  # back to itself: staying, up all axes, or down all
                    ways = ways + found.way(start, ~between, up=False)
                share = share + weights[:, a] * weights[:, (a + distance) % corners] * ways
        return share * found.factor


def locate(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The simplex around each point.

    Args:
        features: (N, d).

    Returns:
        weights: (N, d + 1) barycentric coordinates of the vertices of remainder 0 … d, differentiable.
        cells: (N, d) int64, the vertex of remainder 0 in steps along axes 1 … d.
        axes: (N, d + 1) int64: from corner c to corner c + 1 is a step back along axis axes[:, c].
    """
    points, d = features.shape
    corners = d + 1
    number = np.float32 if features.dtype == torch.float32 else np.float64
    elevated: list[torch.Tensor] = []
    total = torch.zeros_like(features[:, 0])
    for j in range(d, 0, -1):  # to where coordinates sum to zero; scaled to make the blur a unit Gaussian
        scale = number(corners) * np.sqrt(number(2 / 3)) / np.sqrt(number(j * (j + 1)))
        scaled = features[:, j - 1] * float(scale)
        elevated.insert(0, total - j * scaled)
        total = total + scaled
    place = torch.stack([total, *elevated], dim=1)
    with torch.no_grad():
        cells = place * (1 / corners)
        if points and not bool(cells.abs().amax() < MOST_CELLS):  # NaN compares false
            raise ValueError(
                "got features that are not finite or span more lattice cells than can be told apart, wanted "
                "|feature / std| under about 10⁶: use larger standard deviations or smaller feature values"
            )
        nearest = torch.trunc(cells + torch.where(cells < 0, -0.5, 0.5))
        offset = place - nearest * corners
        rank = torch.zeros_like(offset, dtype=torch.long)  # of each coordinate's offset, the largest first
        places = torch.arange(corners, device=offset.device)
        for j in range(corners):  # faster on a GPU than sorting so few numbers
            other = offset[:, j : j + 1]
            rank += (other > offset) | ((other == offset) & (j < places))
        rank += nearest.sum(dim=1, keepdim=True).long()  # by how much the coordinates' sum is off
        turn = (rank < 0).long() - (rank > d).long()
        rank = (rank + turn * corners).clamp(0, d)
        axes = torch.empty_like(rank).scatter_(1, d - rank, places.expand_as(rank))
    ascending = ((place - nearest * corners) * (1 / corners) - turn).gather(1, axes)
    weights = ascending - ascending.roll(1, dims=1)
    weights = weights + (places == 0)
    steps = nearest.long() + turn
    return weights, steps[:, 1:] - steps[:, :1], axes


class _Filter(torch.autograd.Function):
    """Splat, blur, slice; backwards the transpose of each, in reverse order."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weights: torch.Tensor, vertices: Vertices) -> torch.Tensor:
        ctx.save_for_backward(values, weights)
        ctx.vertices = vertices
        return vertices.spread(vertices.collect(values, weights), weights, values.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        values, weights = ctx.saved_tensors
        vertices: Vertices = ctx.vertices
        grad = grad.contiguous()
        back = vertices.collect(grad, weights, backwards=True)
        to_weights = None
        if ctx.needs_input_grad[1]:
            rows = vertices.collect(values, weights)
            count = values.shape[1]
            touches = [
                (grad * rows[at, :count] + values * back[at, :count]).sum(dim=1) for at in vertices.corner.t()
            ]
            to_weights = torch.stack(touches, dim=1) * vertices.factor
        return vertices.spread(back, weights, values.shape[1]), to_weights, None
