"""The lattice vertices that points touch, their neighbours, and the three steps of the filter.

A splat is a sum over each vertex's points, a blur gathers each vertex's two neighbours along an axis, and a
slice is a sum over each point's vertices. Every sum has a fixed order: two runs give the same bits. With
Triton (see ``fused``) each step is one kernel, else it is plain PyTorch with the same result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F

from densecrf.torch.fused import MAX_ELEMENTS, kernels_for

MARGIN = 3
"""Steps beyond the points' cells that keys have room for: corners of simplexes, and their neighbours."""
MAX_KEY_BITS = 62
"""Number of bits in a key that the coordinates may take together."""
SEGMENT_LENGTH = 64
"""Maximum number of entries that one thread of a GPU adds up; a vertex with more has several segments."""


@dataclass(frozen=True)
class KernelTables:
    """The tables of ``VertexGraph`` with 32-bit integers for the Triton kernels."""

    kernels: ModuleType
    """The module that holds the kernels."""
    corners: torch.Tensor
    order: torch.Tensor
    segments: torch.Tensor
    segments_of_vertex: torch.Tensor | None
    up: list[torch.Tensor]
    down: list[torch.Tensor]


@dataclass(frozen=True)
class VertexGraph:
    """The vertices of N points and their neighbours; vertex M stands for all that no point touches."""

    corners: torch.Tensor
    """(N, d + 1): the vertex at each corner of a point's simplex."""
    axes: torch.Tensor
    """(N, d + 1): the axes between the corners, see ``lattice.locate``."""
    order: torch.Tensor
    """(N·(d + 1),): the corners of all points, sorted by vertex."""
    segments: torch.Tensor
    """(S + 1,): bounds of the segments of ``order`` that are summed first, each of one vertex only."""
    segments_of_vertex: torch.Tensor | None
    """(M + 2,): bounds of the segments that belong to each vertex; None if every vertex has one segment."""
    up: torch.Tensor
    """(d + 1, M + 1): the neighbour up each axis."""
    down: torch.Tensor
    """(d + 1, M + 1): the neighbour down each axis."""
    tables: KernelTables | None
    """The same for the Triton kernels; None if they are not used."""

    def __len__(self) -> int:
        return self.up.shape[1] - 1

    @property
    def slice_factor(self) -> float:
        """Factor of a slice, which undoes the blurs' gain (Krähenbühl and Koltun's constant)."""
        return 1 / (1 + 2.0 ** (1 - self.corners.shape[1]))

    def splat_and_blur(
        self, values: torch.Tensor, weights: torch.Tensor, *, transposed: bool = False
    ) -> torch.Tensor:
        """Sum the points' values at the vertices and blur along all axes.

        Args:
            values: (N, v), contiguous.
            weights: (N, d + 1).
            transposed: whether to blur along the axes in reverse order, which gives the transpose.

        Returns:
            (M + 1, v), or more columns, of which the first v count.
        """
        axes = range(len(self.up))[::-1] if transposed else range(len(self.up))
        tables = self._tables_for(values.shape[1])
        if tables:
            rows = tables.kernels.splat(
                values, weights.contiguous(), tables.order, tables.segments, tables.segments_of_vertex
            )
            for axis in axes:
                rows = tables.kernels.blur(rows, tables.up[axis], tables.down[axis])
            return rows
        points = self.order // self.corners.shape[1]
        sorted_weights = weights.flatten()[self.order]
        rows = F.embedding_bag(
            points, values, self.segments[:-1], mode="sum", per_sample_weights=sorted_weights
        )
        if self.segments_of_vertex is not None:
            numbers = torch.arange(len(rows), device=rows.device)
            rows = F.embedding_bag(numbers, rows, self.segments_of_vertex[:-1], mode="sum")
        for axis in axes:
            rows = torch.add(rows, rows[self.up[axis]].add_(rows[self.down[axis]]), alpha=0.5)
        return rows

    def slice(
        self, rows: torch.Tensor, weights: torch.Tensor, columns: int, base: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Interpolate the vertices' values at the points.

        Args:
            rows: result of ``splat_and_blur``.
            weights: (N, d + 1).
            columns: number of columns v that count.
            base: (N, v) to add the result to, or None.

        Returns:
            (N, v).
        """
        tables = self._tables_for(columns)
        if tables:
            result: torch.Tensor = tables.kernels.slice_rows(
                rows, weights.contiguous(), tables.corners, columns, self.slice_factor, base
            )
            return result
        result = F.embedding_bag(self.corners, rows, mode="sum", per_sample_weights=weights)
        return (
            result * self.slice_factor if base is None else torch.add(base, result, alpha=self.slice_factor)
        )

    def path_factor(self, vertex: torch.Tensor, marked: torch.Tensor, *, up: bool) -> torch.Tensor:
        """Factor of the blur along one path through the lattice; 0 if a vertex of the path is missing.

        Args:
            vertex: (N,), where the paths begin.
            marked: (N, d + 1), the axes between two corners.
            up: whether the path goes up the axes that are not marked, else down the marked ones.

        Returns:
            (N,).
        """
        steps = marked ^ up
        for axis, neighbours in enumerate(self.up if up else self.down):
            vertex = torch.where(steps[:, axis], neighbours[vertex], vertex)
        return torch.where(vertex < len(self), 0.5 ** steps.sum(dim=1), 0.0)

    def _tables_for(self, columns: int) -> KernelTables | None:
        """The tables for the Triton kernels, unless 32 bits cannot number so many elements."""
        rows = max(len(self.corners), len(self.segments))
        return self.tables if self.tables and rows * (columns + 8) < MAX_ELEMENTS else None


@torch.no_grad()
def connect(cells: torch.Tensor, axes: torch.Tensor, like: torch.Tensor) -> VertexGraph:
    """Number the vertices that points touch, and find their neighbours.

    Args:
        cells: (N, d), see ``lattice.locate``.
        axes: (N, d + 1), see ``lattice.locate``.
        like: a tensor with the type and device of the values to filter.
    """
    corner_count = axes.shape[1]
    units, low = _units(cells)
    base = ((cells - low + MARGIN) * units[1:]).sum(dim=1, keepdim=True)
    back = units[axes].cumsum(dim=1)
    sorted_keys, order = torch.cat([base, base - back[:, :-1]], dim=1).flatten().sort(stable=True)
    is_new = torch.ones_like(sorted_keys, dtype=torch.bool)
    torch.ne(sorted_keys[1:], sorted_keys[:-1], out=is_new[1:])
    corners = torch.empty_like(order).scatter_(0, order, is_new.cumsum(0) - 1).reshape(-1, corner_count)
    starts = is_new.nonzero().flatten()
    up, down = _neighbours(sorted_keys[starts], units)
    bounds = torch.cat([starts, starts.new_full((2,), len(order))])  # the last vertex has no points
    kernels = kernels_for(like, corners.numel())
    if cells.device.type == "cpu" and kernels is None:
        segments = bounds
        segments_of_vertex = None
    else:
        segments, segments_of_vertex = _split_segments(bounds)
    tables = None
    if kernels:
        tables = KernelTables(
            kernels,
            corners.int(),
            order.int(),
            segments.int(),
            None if segments_of_vertex is None else segments_of_vertex.int(),
            [row.int() for row in up],
            [row.int() for row in down],
        )
    return VertexGraph(corners, axes, order, segments, segments_of_vertex, up, down, tables)


def _neighbours(keys: torch.Tensor, units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``VertexGraph.up`` and ``down`` of sorted keys (M,)."""
    axes = len(units)
    count = len(keys)
    up = torch.full((axes, count + 1), count, device=keys.device)
    down = up.clone()
    if count:
        neighbour_keys = keys + units[:, None]
        index = torch.searchsorted(keys, neighbour_keys).clamp_(max=count - 1)
        up[:, :count] = torch.where(keys[index] == neighbour_keys, index, count)
        numbers = torch.arange(count, device=keys.device).expand(axes, count)
        down.scatter_(1, up[:, :count], numbers)
        down[:, count] = count
    return up, down


def _split_segments(bounds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``VertexGraph.segments`` and ``segments_of_vertex``, from the bounds (M + 2,) of the vertices."""
    counts = ((bounds.diff() + (SEGMENT_LENGTH - 1)) // SEGMENT_LENGTH).clamp_(min=1)
    segments_of_vertex = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    total = int(segments_of_vertex[-1])
    if total == len(counts):
        return bounds, None
    vertex = torch.repeat_interleave(counts, output_size=total)
    number = torch.arange(total, device=bounds.device) - segments_of_vertex[vertex]
    starts = bounds[vertex] + SEGMENT_LENGTH * number
    return torch.cat([starts, bounds[-1:]]), segments_of_vertex


def _units(cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a step along each axis adds to a key, (d + 1,) int64, and the cells' lower ends, (d,).

    Coordinates are packed into the bits of a key. If they are too wide together, each axis has a random unit
    instead: among a million vertices two then have the same key once in ten million lattices.
    """
    d = cells.shape[1]
    if not len(cells):
        return torch.ones(d + 1, dtype=torch.long, device=cells.device), cells.new_zeros(d)
    low, high = cells.amin(dim=0), cells.amax(dim=0)
    widths = [math.ceil(math.log2(span + 2 * MARGIN + 1)) for span in (high - low).tolist()]
    if sum(widths) <= MAX_KEY_BITS:
        units = [1 << sum(widths[i + 1 :]) for i in range(d)]
    else:
        units = np.random.default_rng(0).integers(-(2**62), 2**62, size=d).tolist()
    total = sum(units) + 2**63
    return torch.tensor([-(total % 2**64 - 2**63), *units], device=cells.device), low
