"""The permutohedral lattice in PyTorch: the same code on every device, differentiable in features and values.

``locate`` finds the simplex around each point as in the native kernels; ``vertices`` has the steps of the
filter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from densecrf.torch.vertices import VertexGraph, connect

MAX_CELLS = 2**24
"""Limit on coordinates in lattice cells, as in the native kernels: float32 counts integers up to here."""


class Lattice:
    """A Gaussian filter over N points: ``densecrf.Lattice`` on any device.

    The filter is differentiable in values, exactly, and in features through the points' barycentric weights.
    It is piecewise smooth in features: which vertices a point touches counts as fixed.

    Args:
        features: (N, d), float32 or float64, already divided by their standard deviations.

    Raises:
        ValueError: for features that are not finite, or whose range is too wide for the lattice.

    Source: Adams, Baek, Davis 2010, "Fast High-Dimensional Filtering Using the Permutohedral Lattice".
    """

    weights: torch.Tensor
    """(N, d + 1) barycentric weights of the points."""
    graph: VertexGraph
    """The vertices that the points touch, and their neighbours."""

    def __init__(self, features: torch.Tensor):
        self.weights, cells, axes = locate(features)
        self.graph = connect(cells, axes, self.weights)

    @property
    def vertices(self) -> int:
        """Number of lattice vertices that the points touch."""
        return len(self.graph)

    def filter(self, values: torch.Tensor) -> torch.Tensor:
        """Filter each row: (v, N) to (v, N); ``densecrf.Lattice.filter`` takes the transpose, (N, v)."""
        if not values.numel():
            return values.clone()
        rows: torch.Tensor = _Filter.apply(values.t().contiguous(), self.weights, self.graph)  # type: ignore[no-untyped-call]
        return rows.t()

    @torch.no_grad()
    def scaled_weights(self, factors: torch.Tensor | None) -> torch.Tensor:
        """(N, d + 1) weights for ``add_filtered``: the points' weights, times factors (N,) if given."""
        return self.weights if factors is None else self.weights * factors[:, None]

    @torch.no_grad()
    def add_filtered(
        self, base: torch.Tensor, rows: torch.Tensor, splat_weights: torch.Tensor, slice_weights: torch.Tensor
    ) -> torch.Tensor:
        """Filter rows with weights for splat and slice, and add them to a tensor.

        Args:
            base: (N, v), contiguous.
            rows: (N, v), contiguous.
            splat_weights: (N, d + 1).
            slice_weights: (N, d + 1).

        Returns:
            (N, v).
        """
        blurred = self.graph.splat_and_blur(rows, splat_weights)
        return self.graph.slice(blurred, slice_weights, rows.shape[1], base)

    def diagonal(self) -> torch.Tensor:
        """(N,): what a point's own value contributes to its filtered value.

        There are two paths for the blur from one corner of a simplex to another: down the axes between them,
        or up all other axes.
        """
        graph, weights = self.graph, self.weights
        corners = weights.shape[1]
        total = torch.zeros_like(weights[:, 0])
        for first in range(corners):
            for distance in range(corners):
                between = torch.zeros(graph.axes.shape, dtype=torch.bool, device=weights.device)
                steps = (first + torch.arange(distance, device=weights.device)) % corners
                between.scatter_(1, graph.axes[:, steps], True)
                start = graph.corners[:, first]
                paths = graph.path_factor(start, between, up=False)
                paths = paths + graph.path_factor(start, between, up=True)
                if distance == 0:  # back to the same vertex: no step, up all axes, or down all axes
                    paths = paths + graph.path_factor(start, ~between, up=False)
                last = (first + distance) % corners
                total = total + weights[:, first] * weights[:, last] * paths
        return total * graph.slice_factor


def locate(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the simplex around each point.

    Args:
        features: (N, d).

    Returns:
        weights: (N, d + 1) barycentric coordinates of the vertices of remainder 0 … d, differentiable.
        cells: (N, d) int64, the vertex of remainder 0 in steps along axes 1 … d.
        axes: (N, d + 1) int64: from corner c to corner c + 1 is a step back along axis axes[:, c].

    Raises:
        ValueError: for features that are not finite, or whose range is too wide for the lattice.
    """
    points, d = features.shape
    corners = d + 1
    elevated = _elevate(features)
    with torch.no_grad():
        cells = elevated * (1 / corners)
        if points and not bool(cells.abs().amax() < MAX_CELLS):  # also false for NaN
            raise ValueError(
                "got features that are not finite or span more lattice cells than can be told apart, wanted "
                "|feature / std| under about 10⁶: use larger standard deviations or smaller feature values"
            )
        nearest = torch.trunc(cells + torch.where(cells < 0, -0.5, 0.5))
        offset = elevated - nearest * corners
        rank = torch.zeros_like(offset, dtype=torch.long)  # of each coordinate's offset, the largest first
        numbers = torch.arange(corners, device=offset.device)
        for j in range(corners):  # faster on a GPU than sorting so few numbers
            other = offset[:, j : j + 1]
            rank += (other > offset) | ((other == offset) & (j < numbers))
        rank += nearest.sum(dim=1, keepdim=True).long()  # the sum of a lattice point's coordinates is 0
        shift = (rank < 0).long() - (rank > d).long()
        rank = (rank + shift * corners).clamp(0, d)
        axes = torch.empty_like(rank).scatter_(1, d - rank, numbers.expand_as(rank))
    ascending = ((elevated - nearest * corners) * (1 / corners) - shift).gather(1, axes)
    weights = ascending - ascending.roll(1, dims=1)
    weights = weights + (numbers == 0)
    steps = nearest.long() + shift
    return weights, steps[:, 1:] - steps[:, :1], axes


def _elevate(features: torch.Tensor) -> torch.Tensor:
    """(N, d) to (N, d + 1) coordinates that sum to 0, scaled so that the blur is a Gaussian of unit width."""
    d = features.shape[1]
    number = np.float32 if features.dtype == torch.float32 else np.float64
    elevated: list[torch.Tensor] = []
    total = torch.zeros_like(features[:, 0])
    for j in range(d, 0, -1):
        scale = number(d + 1) * np.sqrt(number(2 / 3)) / np.sqrt(number(j * (j + 1)))
        scaled = features[:, j - 1] * float(scale)
        elevated.insert(0, total - j * scaled)
        total = total + scaled
    return torch.stack([total, *elevated], dim=1)


class _Filter(torch.autograd.Function):
    """Splat, blur and slice; the gradient is the transpose of each, in reverse order."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weights: torch.Tensor, graph: VertexGraph) -> torch.Tensor:
        ctx.save_for_backward(values, weights)
        ctx.graph = graph
        return graph.slice(graph.splat_and_blur(values, weights), weights, values.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        values, weights = ctx.saved_tensors
        graph: VertexGraph = ctx.graph
        grad = grad.contiguous()
        back = graph.splat_and_blur(grad, weights, transposed=True)
        to_weights = None
        if ctx.needs_input_grad[1]:
            rows = graph.splat_and_blur(values, weights)
            count = values.shape[1]
            products = [
                (grad * rows[corner, :count] + values * back[corner, :count]).sum(dim=1)
                for corner in graph.corners.t()
            ]
            to_weights = torch.stack(products, dim=1) * graph.slice_factor
        return graph.slice(back, weights, values.shape[1]), to_weights, None
