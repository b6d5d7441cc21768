"""Triton kernels for one GPU pass each: the lattice's splat, blur and slice, and the exact Gaussian filter in
tiles.

Imported where Triton is installed only, see ``fused``. All work on float32 rows, one row for a point or a
vertex with its labels side by side, so that neighbouring threads read neighbouring numbers. No sum depends on
the order in which programs run: two runs give the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

LANES = 32
"""Most labels that one program handles."""
ELEMENTS = 512
"""Rows times labels of a program."""
WARPS = 4
QUERIES, KEYS = 64, 64
"""Points in a tile of the exact filter: those that are summed for, and those that are summed over."""
SHIFT = 14
"""The exact filter's kernel values are held as 2^SHIFT times themselves: two float16 then keep 22 bits down
to 1e-5."""


@triton.jit(do_not_specialize=["pieces"])
def _sum_pieces(
    values,
    weights,
    order,
    starts,
    out,
    pieces,
    COLUMNS: tl.constexpr,
    STRIDE: tl.constexpr,
    CORNERS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Each piece's weighted sum of its points' rows; a piece is a stretch of ``order``."""
    piece = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    live = piece < pieces
    first = tl.load(starts + piece, mask=live, other=0)
    last = tl.load(starts + piece + 1, mask=live, other=0)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for step in range(0, tl.max(last - first, axis=0)):
        here = first + step < last
        entry = tl.load(order + first + step, mask=here, other=0)
        weight = tl.load(weights + entry, mask=here, other=0.0)
        place = values + (entry // CORNERS)[:, None] * COLUMNS + column[None, :]
        total += weight[:, None] * tl.load(place, mask=here[:, None] & (column < COLUMNS)[None, :], other=0.0)
    tl.store(
        out + piece[:, None] * STRIDE + column[None, :],
        total,
        mask=live[:, None] & (column < STRIDE)[None, :],
    )


@triton.jit(do_not_specialize=["count"])
def _sum_rows(rows, starts, out, count, STRIDE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Sums of stretches of rows."""
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
    """[½ 1 ½] along one axis."""
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
    corner,
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
    """Each point's weighted sum of its vertices' rows, on top of ``base`` if it adds."""
    point = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    live = point < points
    inside = live[:, None] & (column < COLUMNS)[None, :]
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for c in tl.static_range(CORNERS):
        vertex = tl.load(corner + point * CORNERS + c, mask=live, other=0)
        weight = tl.load(weights + point * CORNERS + c, mask=live, other=0.0)
        total += weight[:, None] * tl.load(
            rows + vertex[:, None] * STRIDE + column[None, :], mask=inside, other=0.0
        )
    total = total * factor
    place = point[:, None] * COLUMNS + column[None, :]
    if ADDS:
        total += tl.load(base + place, mask=inside, other=0.0)
    tl.store(out + place, total, mask=inside)


@triton.jit
def _gaussian(
    points,
    coarse,
    fine,
    tiles,
    begins,
    turn,
    out,
    count,
    AXES: tl.constexpr,
    SHIFTED: tl.constexpr,
    MINE: tl.constexpr,
    THEIRS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """For one tile of points, 2^SHIFTED · Σ_j 2^(−|p_i − p_j|²) v_j over the points j of the tiles listed for
    it.

    Kernel values and values are sums of two float16 each; of their products the tensor cores take all but the
    least.
    """
    row = tl.load(turn + tl.program_id(0))
    at = row * MINE + tl.arange(0, MINE)
    column = tl.arange(0, WIDTH)
    total = tl.zeros((MINE, WIDTH), tl.float32)
    for number in range(tl.load(begins + row), tl.load(begins + row + 1)):
        others = tl.load(tiles + number) * THEIRS + tl.arange(0, THEIRS)
        exponent = tl.full((MINE, THEIRS), SHIFTED, tl.float32)
        for axis in tl.static_range(AXES):
            gap = (
                tl.load(points + axis * count + at)[:, None]
                - tl.load(points + axis * count + others)[None, :]
            )
            exponent -= gap * gap
        near = tl.exp2(exponent)
        first = near.to(tl.float16)
        rest = (near - first.to(tl.float32)).to(tl.float16)
        place = others[:, None] * WIDTH + column[None, :]
        most = tl.load(coarse + place)
        total = tl.dot(first, most, total)
        total = tl.dot(rest, most, total)
        total = tl.dot(first, tl.load(fine + place), total)
    tl.store(out + at[:, None] * WIDTH + column[None, :], total)


def stride_of(columns: int) -> int:
    """Numbers from one vertex's row to the next: rows of many labels begin at multiples of 32 bytes."""
    return columns if columns < 8 else -(-columns // 8) * 8


def _launch(rows: int, columns: int) -> tuple[tuple[int, int], int, int]:
    width = min(LANES, triton.next_power_of_2(columns))
    count = ELEMENTS // width
    return (triton.cdiv(rows, count), triton.cdiv(columns, width)), count, width


def splat(
    values: torch.Tensor,
    weights: torch.Tensor,
    order: torch.Tensor,
    pieces: torch.Tensor,
    wholes: torch.Tensor | None,
) -> torch.Tensor:
    """Weighted sums of points' rows in two rounds, so that a vertex of many points keeps no thread waiting.

    Args:
        values: (N, v) contiguous.
        weights: (N, corners) contiguous.
        order: (N · corners,) int32, entries of ``weights`` sorted by vertex.
        pieces: (P + 1,) int32, ends of the stretches of ``order`` that are summed first.
        wholes: (M + 1,) int32, ends of the stretches of pieces that make up vertices; None where each is one.

    Returns:
        (M, stride_of(v)).
    """
    columns, stride = values.shape[1], stride_of(values.shape[1])
    count = len(pieces) - 1
    grid, rows, width = _launch(count, stride)
    parts = values.new_empty(count, stride)
    _sum_pieces[grid](
        values,
        weights,
        order,
        pieces,
        parts,
        count,
        COLUMNS=columns,
        STRIDE=stride,
        CORNERS=weights.shape[1],
        ROWS=rows,
        WIDTH=width,
        num_warps=WARPS,
    )
    if wholes is None:
        return parts
    count = len(wholes) - 1
    grid, rows, width = _launch(count, stride)
    sums = values.new_empty(count, stride)
    _sum_rows[grid](parts, wholes, sums, count, STRIDE=stride, ROWS=rows, WIDTH=width, num_warps=WARPS)
    return sums


def blur(rows: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """(M, stride) blurred along one axis; up and down are (M,) int32."""
    count, stride = rows.shape
    grid, block, width = _launch(count, stride)
    out = torch.empty_like(rows)
    _blur[grid](rows, up, down, out, count, STRIDE=stride, ROWS=block, WIDTH=width, num_warps=WARPS)
    return out


def slice_rows(
    rows: torch.Tensor,
    weights: torch.Tensor,
    corner: torch.Tensor,
    columns: int,
    factor: float,
    base: torch.Tensor | None = None,
) -> torch.Tensor:
    """(M, stride) to (N, columns), times a factor, on top of ``base`` if given; corner is (N, corners)
    int32."""
    points, corners = corner.shape
    grid, block, width = _launch(points, columns)
    out = rows.new_empty(points, columns)
    _slice[grid](
        rows,
        weights,
        corner,
        out if base is None else base,
        out,
        points,
        factor,
        COLUMNS=columns,
        STRIDE=rows.shape[1],
        CORNERS=corners,
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
    begins: torch.Tensor,
    turn: torch.Tensor,
) -> torch.Tensor:
    """The exact filter of sorted points over pairs of tiles.

    Args:
        points: (d, P) float32, in units in which the kernel is 2^(−|p|²); P a multiple of QUERIES.
        coarse: (P, w) float16, values rounded, w a power of two from 16 to 64.
        fine: (P, w) float16, what the rounding left.
        tiles: (T,) int32, the tiles of KEYS points that each tile of QUERIES is near to, one list after the
            other.
        begins: (P / QUERIES + 1,) int32, where a tile's list begins.
        turn: (P / QUERIES,) int32, the order in which tiles are taken, long lists first.

    Returns:
        (P, w) float32, 2^SHIFT times the filtered values.
    """
    out = torch.empty(coarse.shape, dtype=torch.float32, device=coarse.device)
    _gaussian[(len(turn),)](
        points,
        coarse,
        fine,
        tiles,
        begins,
        turn,
        out,
        points.shape[1],
        AXES=points.shape[0],
        SHIFTED=SHIFT,
        MINE=QUERIES,
        THEIRS=KEYS,
        WIDTH=coarse.shape[1],
        num_warps=WARPS,
    )
    return out


def wrong(device: torch.device) -> list[str]:
    """Names of kernels that do not give on this device what plain PyTorch gives."""
    rng = torch.Generator().manual_seed(0)
    values = torch.rand(90, 21, generator=rng).to(device)
    weights = torch.rand(90, 3, generator=rng).to(device)
    corner = torch.randint(0, 40, (90, 3), generator=rng).to(device)
    corner[:45] = 7  # one vertex of many points
    order = corner.flatten().argsort(stable=True)
    counts = torch.bincount(corner.flatten(), minlength=41)
    pieces = (counts + 7) // 8
    wholes = torch.cat([pieces.new_zeros(1), pieces.cumsum(0)])
    vertex = torch.arange(41, device=device).repeat_interleave(pieces)
    starts = (counts.cumsum(0) - counts)[vertex] + 8 * (
        torch.arange(len(vertex), device=device) - wholes[vertex]
    )
    starts = torch.cat([starts, starts.new_full((1,), 270)])
    sums = torch.zeros(41, 21, device=device)
    for c in range(3):
        sums.index_add_(0, corner[:, c], weights[:, c, None] * values)
    up, down = torch.randint(0, 41, (2, 41), generator=rng).to(device)
    blurred = sums + 0.5 * (sums[up] + sums[down])
    sliced = 1.5 * (weights[:, :, None] * blurred[corner]).sum(1) + values
    found = splat(values, weights, order.int(), starts.int(), wholes.int())
    again = blur(found, up.int(), down.int())
    out = slice_rows(again, weights, corner.int(), 21, 1.5, values)

    size = 2 * QUERIES
    points, exact = (
        torch.rand(4, size, generator=rng).to(device),
        torch.rand(size, 32, generator=rng).to(device),
    )
    coarse = exact.half()
    fine = (exact - coarse).half()
    near = torch.exp2(-(points[:, :, None] - points[:, None]).square().sum(0))
    lists = torch.arange(size // KEYS, device=device).int().repeat(2)
    begins = torch.tensor([0, size // KEYS, 2 * (size // KEYS)], device=device).int()
    turn = torch.tensor([1, 0], device=device).int()
    filtered = gaussian(points, coarse, fine, lists, begins, turn) / 2.0**SHIFT
    pairs = {
        "splat": (found[:, :21], sums),
        "blur": (again[:, :21], blurred),
        "slice": (out, sliced),
        "gaussian": (filtered, (near.double() @ exact.double()).float()),
    }
    return [
        name
        for name, (mine, wanted) in pairs.items()
        if not torch.allclose(mine, wanted, rtol=1e-4, atol=1e-4)
    ]
