"""Triton kernels: the lattice's splat, blur and slice, and the exact Gaussian filter over tiles of points.

This module is imported only if Triton is installed, see ``fused``. The kernels work on float32 rows, one row
for each point or vertex with its labels side by side, so that neighbouring threads read neighbouring numbers.
No sum depends on the order in which programs run: two runs give the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

MAX_COLUMNS = 32
"""Maximum number of labels that one program handles."""
ELEMENTS = 512
"""Number of rows times labels that one program handles."""
WARPS = 4
"""Number of warps in a program."""
QUERIES = KEYS = 64
"""Number of points in a tile of the exact filter that is summed for, and in one that is summed over."""
SHIFT = 14
"""The exact filter's kernel values are multiplied by 2^SHIFT: two float16 then keep 22 bits down to 1e-5."""


@triton.jit(do_not_specialize=["segments"])
def _sum_segments(
    values,
    weights,
    order,
    starts,
    out,
    segments,
    COLUMNS: tl.constexpr,
    STRIDE: tl.constexpr,
    CORNERS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Each segment's weighted sum of its points' rows; a segment is a range of ``order``."""
    segment = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    live = segment < segments
    first = tl.load(starts + segment, mask=live, other=0)
    last = tl.load(starts + segment + 1, mask=live, other=0)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for step in range(0, tl.max(last - first, axis=0)):
        here = first + step < last
        entry = tl.load(order + first + step, mask=here, other=0)
        weight = tl.load(weights + entry, mask=here, other=0.0)
        address = values + (entry // CORNERS)[:, None] * COLUMNS + column[None, :]
        total += weight[:, None] * tl.load(
            address, mask=here[:, None] & (column < COLUMNS)[None, :], other=0.0
        )
    tl.store(
        out + segment[:, None] * STRIDE + column[None, :],
        total,
        mask=live[:, None] & (column < STRIDE)[None, :],
    )


@triton.jit(do_not_specialize=["count"])
def _sum_rows(rows, starts, out, count, STRIDE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Sums of ranges of rows."""
    vertex = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    live = vertex < count
    first = tl.load(starts + vertex, mask=live, other=0)
    last = tl.load(starts + vertex + 1, mask=live, other=0)
    inside = (column < STRIDE)[None, :]
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for step in range(0, tl.max(last - first, axis=0)):
        here = first + step < last
        total += tl.load(
            rows + (first + step)[:, None] * STRIDE + column[None, :], mask=here[:, None] & inside, other=0.0
        )
    tl.store(out + vertex[:, None] * STRIDE + column[None, :], total, mask=live[:, None] & inside)


@triton.jit(do_not_specialize=["count"])
def _blur(rows, up, down, out, count, STRIDE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Blur with weights [½ 1 ½] along one axis."""
    vertex = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    live = vertex < count
    inside = live[:, None] & (column < STRIDE)[None, :]
    above = tl.load(up + vertex, mask=live, other=0)
    below = tl.load(down + vertex, mask=live, other=0)
    own = tl.load(rows + vertex[:, None] * STRIDE + column[None, :], mask=inside, other=0.0)
    one = tl.load(rows + above[:, None] * STRIDE + column[None, :], mask=inside, other=0.0)
    other = tl.load(rows + below[:, None] * STRIDE + column[None, :], mask=inside, other=0.0)
    tl.store(out + vertex[:, None] * STRIDE + column[None, :], own + 0.5 * (one + other), mask=inside)


@triton.jit(do_not_specialize=["points", "factor"])
def _slice(
    rows,
    weights,
    corners,
    base,
    out,
    points,
    factor,
    COLUMNS: tl.constexpr,
    STRIDE: tl.constexpr,
    CORNERS: tl.constexpr,
    ADDS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Each point's weighted sum of its vertices' rows, plus ``base`` if ``ADDS``."""
    point = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    live = point < points
    inside = live[:, None] & (column < COLUMNS)[None, :]
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for c in tl.static_range(CORNERS):
        vertex = tl.load(corners + point * CORNERS + c, mask=live, other=0)
        weight = tl.load(weights + point * CORNERS + c, mask=live, other=0.0)
        total += weight[:, None] * tl.load(
            rows + vertex[:, None] * STRIDE + column[None, :], mask=inside, other=0.0
        )
    total = total * factor
    offset = point[:, None] * COLUMNS + column[None, :]
    if ADDS:
        total += tl.load(base + offset, mask=inside, other=0.0)
    tl.store(out + offset, total, mask=inside)


@triton.jit
def _gaussian(
    points,
    coarse,
    fine,
    tiles,
    bounds,
    schedule,
    out,
    count,
    AXES: tl.constexpr,
    SHIFTED: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """2^SHIFTED · Σ_j 2^(−|p_i − p_j|²) v_j for one tile of points i, over the points j of its listed tiles.

    Kernel values and values are sums of two float16 numbers each. The tensor cores compute all of their
    products but the smallest.
    """
    tile = tl.load(schedule + tl.program_id(0))
    query = tile * QUERY_TILE + tl.arange(0, QUERY_TILE)
    column = tl.arange(0, WIDTH)
    total = tl.zeros((QUERY_TILE, WIDTH), tl.float32)
    for number in range(tl.load(bounds + tile), tl.load(bounds + tile + 1)):
        key = tl.load(tiles + number) * KEY_TILE + tl.arange(0, KEY_TILE)
        exponent = tl.full((QUERY_TILE, KEY_TILE), SHIFTED, tl.float32)
        for axis in tl.static_range(AXES):
            gap = (
                tl.load(points + axis * count + query)[:, None]
                - tl.load(points + axis * count + key)[None, :]
            )
            exponent -= gap * gap
        kernel = tl.exp2(exponent)
        first = kernel.to(tl.float16)
        rest = (kernel - first.to(tl.float32)).to(tl.float16)
        offset = key[:, None] * WIDTH + column[None, :]
        rounded = tl.load(coarse + offset)
        total = tl.dot(first, rounded, total)
        total = tl.dot(rest, rounded, total)
        total = tl.dot(first, tl.load(fine + offset), total)
    tl.store(out + query[:, None] * WIDTH + column[None, :], total)


def stride_of(columns: int) -> int:
    """Distance between vertex rows in elements; rows of many labels start at multiples of 32 bytes."""
    return columns if columns < 8 else -(-columns // 8) * 8


def _launch(rows: int, columns: int) -> tuple[tuple[int, int], int, int]:
    """The grid of programs for a table, and the rows and columns that each program handles."""
    width = min(MAX_COLUMNS, triton.next_power_of_2(columns))
    count = ELEMENTS // width
    return (triton.cdiv(rows, count), triton.cdiv(columns, width)), count, width


def splat(
    values: torch.Tensor,
    weights: torch.Tensor,
    order: torch.Tensor,
    segments: torch.Tensor,
    segments_of_vertex: torch.Tensor | None,
) -> torch.Tensor:
    """Weighted sums of points' rows in two rounds, so that no thread waits for a vertex with many points.

    Args:
        values: (N, v) contiguous.
        weights: (N, corners) contiguous.
        order: (N · corners,) int32, entries of ``weights`` sorted by vertex.
        segments: (S + 1,) int32, bounds of the segments of ``order`` that are summed first.
        segments_of_vertex: (M + 1,) int32, bounds of the segments of each vertex; None if each has one.

    Returns:
        (M, stride_of(v)).
    """
    columns = values.shape[1]
    stride = stride_of(columns)
    count = len(segments) - 1
    grid, rows, width = _launch(count, stride)
    parts = values.new_empty(count, stride)
    _sum_segments[grid](
        values,
        weights,
        order,
        segments,
        parts,
        count,
        COLUMNS=columns,
        STRIDE=stride,
        CORNERS=weights.shape[1],
        ROWS=rows,
        WIDTH=width,
        num_warps=WARPS,
    )
    if segments_of_vertex is None:
        return parts
    count = len(segments_of_vertex) - 1
    grid, rows, width = _launch(count, stride)
    sums = values.new_empty(count, stride)
    _sum_rows[grid](
        parts, segments_of_vertex, sums, count, STRIDE=stride, ROWS=rows, WIDTH=width, num_warps=WARPS
    )
    return sums


def blur(rows: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Blur along one axis.

    Args:
        rows: (M, stride), the result of ``splat`` or ``blur``.
        up: (M,) int32, the neighbour up the axis.
        down: (M,) int32, the neighbour down the axis.

    Returns:
        (M, stride).
    """
    count, stride = rows.shape
    grid, block, width = _launch(count, stride)
    out = torch.empty_like(rows)
    _blur[grid](rows, up, down, out, count, STRIDE=stride, ROWS=block, WIDTH=width, num_warps=WARPS)
    return out


def slice_rows(
    rows: torch.Tensor,
    weights: torch.Tensor,
    corners: torch.Tensor,
    columns: int,
    factor: float,
    base: torch.Tensor | None = None,
) -> torch.Tensor:
    """Weighted sums of vertices' rows, times a factor.

    Args:
        rows: (M, stride), the result of ``splat`` or ``blur``.
        weights: (N, corners) contiguous.
        corners: (N, corners) int32, the vertices of each point.
        columns: number of columns v that count.
        factor: factor of the sums.
        base: (N, v) to add the result to, or None.

    Returns:
        (N, v).
    """
    points, count = corners.shape
    grid, block, width = _launch(points, columns)
    out = rows.new_empty(points, columns)
    _slice[grid](
        rows,
        weights,
        corners,
        out if base is None else base,
        out,
        points,
        factor,
        COLUMNS=columns,
        STRIDE=rows.shape[1],
        CORNERS=count,
        ADDS=base is not None,
        ROWS=block,
        WIDTH=width,
        num_warps=WARPS,
    )
    return out


def gaussian(
    points: torch.Tensor,
    coarse: torch.Tensor,
    fine: torch.Tensor,
    tiles: torch.Tensor,
    bounds: torch.Tensor,
    schedule: torch.Tensor,
) -> torch.Tensor:
    """The exact filter of sorted points over pairs of tiles.

    Args:
        points: (d, P) float32, in units in which the kernel is 2^(−|p|²); P a multiple of QUERIES.
        coarse: (P, w) float16, rounded values, w a power of two from 16 to 64.
        fine: (P, w) float16, the rounding errors of ``coarse``.
        tiles: (T,) int32, the tiles of KEYS points that each tile of QUERIES is near to, one list after the
            other.
        bounds: (P / QUERIES + 1,) int32, where each list begins and the last one ends.
        schedule: (P / QUERIES,) int32, the order in which tiles are taken, long lists first.

    Returns:
        (P, w) float32, 2^SHIFT times the filtered values.
    """
    out = torch.empty(coarse.shape, dtype=torch.float32, device=coarse.device)
    _gaussian[(len(schedule),)](
        points,
        coarse,
        fine,
        tiles,
        bounds,
        schedule,
        out,
        points.shape[1],
        AXES=points.shape[0],
        SHIFTED=SHIFT,
        QUERY_TILE=QUERIES,
        KEY_TILE=KEYS,
        WIDTH=coarse.shape[1],
        num_warps=WARPS,
    )
    return out
