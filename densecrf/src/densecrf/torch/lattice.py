"""The permutohedral lattice in plain PyTorch: the same code on every device, differentiable in features and values.

Points are found on the lattice as in the native kernels. Vertices are numbered by sorting their keys; a splat is a sum
over each vertex's points and a slice one over each point's vertices, both by ``embedding_bag``, so the result does not
depend on the order of additions; a blur gathers each vertex's two neighbours along an axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

MARGIN = 3
"""Steps beyond the cells that a key's fields have room for: corners of simplexes, and their neighbours."""
MOST_BITS = 62
"""That fields may take together in a key."""
MOST_CELLS = 2**24
"""As in the native kernels: float32 counts whole numbers up to here."""


class Lattice:
    """A Gaussian filter over N points: the twin of ``densecrf.Lattice`` on any device.

    The filter is differentiable in values, exactly, and in features through the points' barycentric weights. It is
    piecewise smooth in features: the vertices that points touch count as fixed.

    Args:
        features: (N, d), float32 or float64, already divided by their standard deviations.

    Raises:
        ValueError: for features that are not finite or span more cells than can be told apart.

    Source: Adams, Baek, Davis 2010, "Fast High-Dimensional Filtering Using the Permutohedral Lattice".
    """

    def __init__(self, features: torch.Tensor):
        self._weights, cells, axes = locate(features)
        self._ties = connect(cells, axes)

    @property
    def vertices(self) -> int:
        """How many lattice vertices the points touch."""
        return len(self._ties.first) - 1

    def filter(self, values: torch.Tensor) -> torch.Tensor:
        """(v, N) to (v, N), each row filtered."""
        if not values.numel():
            return values.clone()
        rows: torch.Tensor = _Filter.apply(values.t().contiguous(), self._weights, self._ties)  # type: ignore[no-untyped-call]
        return rows.t()

    def own(self) -> torch.Tensor:
        """(N,): what a point's own value contributes to its filtered value.

        From corner to corner of a simplex the blur has two ways: down the axes between them, or up all others.
        """
        ties, weights = self._ties, self._weights
        corners = weights.shape[1]
        share = torch.zeros_like(weights[:, 0])
        for a in range(corners):
            for distance in range(corners):
                between = torch.zeros(ties.axes.shape, dtype=torch.bool, device=weights.device)
                between.scatter_(1, ties.axes[:, (a + torch.arange(distance, device=weights.device)) % corners], True)
                ways = ties.way(ties.corner[:, a], between, up=False) + ties.way(ties.corner[:, a], between, up=True)
                if distance == 0:  # back to itself: staying, up all axes, or down all
                    ways = ways + ties.way(ties.corner[:, a], ~between, up=False)
                share = share + weights[:, a] * weights[:, (a + distance) % corners] * ways
        return share * ties.factor


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
    for j in range(
        d, 0, -1
    ):  # to the hyperplane whose coordinates sum to zero; scaled to make the blur a unit Gaussian
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
        order = offset.argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(corners, device=order.device).expand_as(order))
        rank += nearest.sum(dim=1, keepdim=True).long()  # by how much the coordinates' sum is off
        turn = (rank < 0).long() - (rank > d).long()
        rank = (rank + turn * corners).clamp(0, d)
        axes = torch.empty_like(order).scatter_(
            1, d - rank, torch.arange(corners, device=order.device).expand_as(order)
        )
    ascending = ((place - nearest * corners) * (1 / corners) - turn).gather(1, axes)
    weights = ascending - ascending.roll(1, dims=1)
    weights = weights + F.one_hot(torch.zeros((), dtype=torch.long, device=weights.device), corners)
    steps = nearest.long() + turn
    return weights, steps[:, 1:] - steps[:, :1], axes


@dataclass(frozen=True)
class Ties:
    """How N points hang on M vertices, and these on each other; vertex M stands for all that no point touches."""

    corner: torch.Tensor
    """(N, d + 1): the vertex at each corner."""
    axes: torch.Tensor
    """(N, d + 1), as ``locate`` found them."""
    order: torch.Tensor
    """(N·(d + 1),): the corners of all points, sorted by vertex."""
    first: torch.Tensor
    """(M + 1,): where each vertex's begin in ``order``."""
    up: torch.Tensor
    """(d + 1, M + 1): the neighbour up each axis."""
    down: torch.Tensor

    @property
    def factor(self) -> float:
        """Of a slice; makes up for what the blurs add (Krähenbühl and Koltun's constant)."""
        return 1 / (1 + 2.0 ** (1 - self.corner.shape[1]))

    def splat(self, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(N, v) to (M + 1, v); the last row is zero."""
        points = self.order // self.corner.shape[1]
        shares = weights.flatten()[self.order]
        return F.embedding_bag(points, values, self.first, mode="sum", per_sample_weights=shares)

    def blur(self, rows: torch.Tensor, axes: Iterable[int]) -> torch.Tensor:
        """[½ 1 ½] along one axis after the other."""
        for axis in axes:
            rows = torch.add(rows, rows[self.up[axis]].add_(rows[self.down[axis]]), alpha=0.5)
        return rows

    def slice(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(M + 1, v) to (N, v)."""
        return F.embedding_bag(self.corner, rows, mode="sum", per_sample_weights=weights) * self.factor

    def way(self, vertex: torch.Tensor, marked: torch.Tensor, *, up: bool) -> torch.Tensor:
        """(N,): the blur's factor from a vertex down the marked axes (N, d + 1), or up the unmarked ones."""
        count = len(self.first) - 1
        steps = marked ^ up
        for axis, neighbours in enumerate(self.up if up else self.down):
            vertex = torch.where(steps[:, axis], neighbours[vertex], vertex)
        return torch.where(vertex < count, 0.5 ** steps.sum(dim=1), 0.0)


@torch.no_grad()
def connect(cells: torch.Tensor, axes: torch.Tensor) -> Ties:
    """Number the vertices that points touch, and find their neighbours."""
    corners = axes.shape[1]
    units, low = _units(cells)
    base = ((cells - low + MARGIN) * units[1:]).sum(dim=1, keepdim=True)
    back = units[axes].cumsum(dim=1)
    keys, corner = torch.unique(torch.cat([base, base - back[:, :-1]], dim=1), return_inverse=True)
    count = len(keys)
    first = torch.bincount(corner.flatten(), minlength=count).cumsum(0)
    up = torch.full((corners, count + 1), count, device=cells.device)
    down = up.clone()
    numbers = torch.arange(count, device=cells.device)
    for axis in range(corners if count else 0):
        wanted = keys + units[axis]
        place = torch.searchsorted(keys, wanted).clamp_(max=count - 1)
        up[axis, :count] = torch.where(keys[place] == wanted, place, count)
        down[axis].scatter_(0, up[axis, :count], numbers)
        down[axis, count] = count
    return Ties(
        corner=corner,
        axes=axes,
        order=corner.flatten().argsort(stable=True),
        first=torch.cat([first.new_zeros(1), first]),
        up=up,
        down=down,
    )


def _units(cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a step along each axis adds to a key, (d + 1,) int64, and the cells' lower ends, (d,).

    Places are packed into a key's bits; where they are too wide together, each axis has a random unit instead: keys of
    two among a million vertices then are alike once in ten million lattices.
    """
    d = cells.shape[1]
    if not len(cells):
        return torch.ones(d + 1, dtype=torch.long, device=cells.device), cells.new_zeros(d)
    low, high = cells.amin(dim=0), cells.amax(dim=0)
    widths = [math.ceil(math.log2(span + 2 * MARGIN + 1)) for span in (high - low).tolist()]
    if sum(widths) <= MOST_BITS:
        units = [1 << sum(widths[i + 1 :]) for i in range(d)]
    else:
        units = np.random.default_rng(0).integers(-(2**62), 2**62, size=d).tolist()
    whole = sum(units) + 2**63
    return torch.tensor([-(whole % 2**64 - 2**63), *units], device=cells.device), low


class _Filter(torch.autograd.Function):
    """Splat, blur, slice; backwards the transpose of each, in reverse order."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weights: torch.Tensor, ties: Ties) -> torch.Tensor:
        ctx.save_for_backward(values, weights)
        ctx.ties = ties
        return ties.slice(ties.blur(ties.splat(values, weights), range(len(ties.up))), weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        values, weights = ctx.saved_tensors
        ties: Ties = ctx.ties
        grad = grad.contiguous()
        back = ties.blur(ties.splat(grad, weights), reversed(range(len(ties.up))))
        to_weights = None
        if ctx.needs_input_grad[1]:
            rows = ties.blur(ties.splat(values, weights), range(len(ties.up)))
            touches = [(grad * rows[at] + values * back[at]).sum(dim=1) for at in ties.corner.t()]
            to_weights = torch.stack(touches, dim=1) * ties.factor
        return ties.slice(back, weights), to_weights, None
