"""The lattice's vertices that points touch: their numbers and neighbours, and the filter's three steps over
them.

A splat is a sum over each vertex's points, a blur gathers each vertex's two neighbours along an axis, and a
slice is a sum over each point's vertices. Every sum has a fixed order: two runs give the same bits. Where
Triton kernels serve (``fused``) each step is one of them, else it is plain PyTorch, their twin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F

from densecrf.torch.fused import MOST_NUMBERS, kernels_for

MARGIN = 3
"""Steps beyond the cells that a key's fields have room for: corners of simplexes, and their neighbours."""
MOST_BITS = 62
"""That fields may take together in a key."""
PIECE = 64
"""Entries that one thread of a GPU adds up: a vertex of more is summed in pieces first, then the pieces."""


@dataclass(frozen=True)
class Tables:
    """The same numbers in 32 bits, as the kernels take them, and the module that holds the kernels."""

    kernels: ModuleType
    corner: torch.Tensor
    order: torch.Tensor
    pieces: torch.Tensor
    wholes: torch.Tensor | None
    up: list[torch.Tensor]
    down: list[torch.Tensor]


@dataclass(frozen=True)
class Vertices:
    """How N points hang on M vertices, and these on each other; vertex M stands for all that no point
    touches."""

    corner: torch.Tensor
    """(N, d + 1): the vertex at each corner."""
    axes: torch.Tensor
    """(N, d + 1), as ``locate`` found them."""
    order: torch.Tensor
    """(N·(d + 1),): the corners of all points, sorted by vertex."""
    pieces: torch.Tensor
    """(P + 1,): ends of the stretches of ``order`` that are summed first, none of them of two vertices."""
    wholes: torch.Tensor | None
    """(M + 2,): ends of the stretches of pieces that make up vertices; None where each vertex is one
    piece."""
    up: torch.Tensor
    """(d + 1, M + 1): the neighbour up each axis."""
    down: torch.Tensor
    tables: Tables | None

    def __len__(self) -> int:
        return self.up.shape[1] - 1

    @property
    def factor(self) -> float:
        """Of a slice; makes up for what the blurs add (Krähenbühl and Koltun's constant)."""
        return 1 / (1 + 2.0 ** (1 - self.corner.shape[1]))

    def collect(
        self, values: torch.Tensor, weights: torch.Tensor, *, backwards: bool = False
    ) -> torch.Tensor:
        """Splat and blur: (N, v) contiguous, with weights (N, d + 1), to (M + 1, v), or more columns of which
        v count.

        Backwards the axes of the blur are taken last to first, which makes the transpose.
        """
        axes = range(len(self.up))[::-1] if backwards else range(len(self.up))
        tables = self._tables(values.shape[1])
        if tables:
            rows = tables.kernels.splat(
                values, weights.contiguous(), tables.order, tables.pieces, tables.wholes
            )
            for axis in axes:
                rows = tables.kernels.blur(rows, tables.up[axis], tables.down[axis])
            return rows
        points = self.order // self.corner.shape[1]
        shares = weights.flatten()[self.order]
        rows = F.embedding_bag(points, values, self.pieces[:-1], mode="sum", per_sample_weights=shares)
        if self.wholes is not None:
            numbers = torch.arange(len(rows), device=rows.device)
            rows = F.embedding_bag(numbers, rows, self.wholes[:-1], mode="sum")
        for axis in axes:
            rows = torch.add(rows, rows[self.up[axis]].add_(rows[self.down[axis]]), alpha=0.5)
        return rows

    def spread(
        self, rows: torch.Tensor, weights: torch.Tensor, columns: int, base: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Slice what ``collect`` gave: to (N, columns), on top of ``base`` if given."""
        tables = self._tables(columns)
        if tables:
            found: torch.Tensor = tables.kernels.slice_rows(
                rows, weights.contiguous(), tables.corner, columns, self.factor, base
            )
            return found
        found = F.embedding_bag(self.corner, rows, mode="sum", per_sample_weights=weights)
        return found * self.factor if base is None else torch.add(base, found, alpha=self.factor)

    def way(self, vertex: torch.Tensor, marked: torch.Tensor, *, up: bool) -> torch.Tensor:
        """(N,): the blur's factor from a vertex down the marked axes (N, d + 1), or up the unmarked ones."""
        steps = marked ^ up
        for axis, neighbours in enumerate(self.up if up else self.down):
            vertex = torch.where(steps[:, axis], neighbours[vertex], vertex)
        return torch.where(vertex < len(self), 0.5 ** steps.sum(dim=1), 0.0)

    def _tables(self, columns: int) -> Tables | None:
        rows = max(len(self.corner), len(self.pieces))
        return self.tables if self.tables and rows * (columns + 8) < MOST_NUMBERS else None


@torch.no_grad()
def connect(cells: torch.Tensor, axes: torch.Tensor, like: torch.Tensor) -> Vertices:
    """Number the vertices that points touch, and find their neighbours.

    Args:
        cells: (N, d), see ``lattice.locate``, as are the axes.
        axes: (N, d + 1).
        like: of the type and on the device of the values to come.
    """
    corners = axes.shape[1]
    units, low = _units(cells)
    base = ((cells - low + MARGIN) * units[1:]).sum(dim=1, keepdim=True)
    back = units[axes].cumsum(dim=1)
    sorted_keys, order = torch.cat([base, base - back[:, :-1]], dim=1).flatten().sort(stable=True)
    fresh = torch.ones_like(sorted_keys, dtype=torch.bool)
    torch.ne(sorted_keys[1:], sorted_keys[:-1], out=fresh[1:])
    corner = torch.empty_like(order).scatter_(0, order, fresh.cumsum(0) - 1).reshape(-1, corners)
    starts = fresh.nonzero().flatten()
    keys, count = sorted_keys[starts], len(starts)
    up = torch.full((corners, count + 1), count, device=cells.device)
    down = up.clone()
    if count:
        wanted = keys + units[:, None]
        place = torch.searchsorted(keys, wanted).clamp_(max=count - 1)
        up[:, :count] = torch.where(keys[place] == wanted, place, count)
        down.scatter_(1, up[:, :count], torch.arange(count, device=cells.device).expand(corners, count))
        down[:, count] = count
    ends = torch.cat([starts, starts.new_full((2,), len(order))])  # the last vertex has no points
    gpu = kernels_for(like, corner.numel())
    pieces, wholes = (ends, None) if cells.device.type == "cpu" and gpu is None else _cut(ends)
    tables = None
    if gpu:
        narrow_wholes = None if wholes is None else wholes.int()
        narrow_up, narrow_down = ([row.int() for row in neighbours] for neighbours in (up, down))
        tables = Tables(gpu, corner.int(), order.int(), pieces.int(), narrow_wholes, narrow_up, narrow_down)
    return Vertices(corner, axes, order, pieces, wholes, up, down, tables)


def _cut(ends: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``Vertices.pieces`` and ``wholes`` of stretches that end at (M + 2,)."""
    counts = ((ends.diff() + (PIECE - 1)) // PIECE).clamp_(min=1)
    wholes = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    pieces = int(wholes[-1])
    if pieces == len(counts):
        return ends, None
    vertex = torch.repeat_interleave(counts, output_size=pieces)
    starts = ends[vertex] + PIECE * (torch.arange(pieces, device=ends.device) - wholes[vertex])
    return torch.cat([starts, ends[-1:]]), wholes


def _units(cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a step along each axis adds to a key, (d + 1,) int64, and the cells' lower ends, (d,).

    Places are packed into a key's bits; where they are too wide together, each axis has a random unit
    instead: keys of two among a million vertices then are alike once in ten million lattices.
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
