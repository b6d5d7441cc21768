"""3×3 convolutions of many channels on the CPU with a quarter of the multiplications, forward and backward.

A tile of 4×4 results comes from a tile of 6×6 inputs by 36 products instead of 144. For whole tiles of many
channels these are 36 matrix products, between a transform of the input and one of the products, in fp32
throughout; the results differ from the direct sums by about 1e-5 of the largest. With an atrous rate r the
map is r×r interleaved maps, each convolved at rate 1. Libraries for GPUs choose the same algorithm by
themselves; torch's on CPUs does not.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (arXiv 1509.09308), section 4,
    F(4×4, 3×3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

TILE, SEEN = 4, 6  # side of a tile of results, and of what it sees
LEAST_CHANNELS = 128  # below, the transforms cost what the products save
CHUNK_BYTES = 32 << 20  # of tiles at work at once, so that they stay near the processor
# torch's convolutions use AVX-512 wherever it is, its matrix products not on every such processor: on an EPYC
# direct sums ran at 250 GMAC/s and a matrix product at 108, and the network took 0.21 s against 0.28 s.
DIRECT_IS_FASTER = torch.backends.cpu.get_cpu_capability() == "AVX512"

_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_WEIGHT = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_RESULT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def _both_axes(rows: tuple[tuple[float, ...], ...]) -> torch.Tensor:
    once = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(once, once).float()


INPUT, WEIGHT, RESULT = (
    _both_axes(_INPUT),
    _both_axes(_WEIGHT),
    _both_axes(_RESULT),
)  # (36,36), (36,9), (16,36)


@dataclass(frozen=True)
class Grid:
    """How a batch of maps is cut into tiles: ``down`` × ``across`` of each of rate² interleaved maps."""

    batch: int
    height: int
    width: int
    rate: int

    @property
    def down(self) -> int:
        """Tiles one below the other in each interleaved map."""
        return _tiles(self.height, self.rate)

    @property
    def across(self) -> int:
        """Tiles side by side in each interleaved map."""
        return _tiles(self.width, self.rate)

    def chunks(self, channels: int) -> Iterator[tuple[slice, slice]]:
        """Photos and rows of tiles to take at once; ``channels`` in all of inputs, transforms and
        products."""
        row = 4 * SEEN**2 * channels * self.rate**2 * self.across
        rows = max(1, CHUNK_BYTES // row)
        photos = max(1, rows // self.down)
        rows = min(rows, self.down)
        for photo in range(0, self.batch, photos):
            for first in range(0, self.down, rows):
                yield slice(photo, photo + photos), slice(first, min(first + rows, self.down))

    def seen(self, maps: torch.Tensor, photos: slice, rows: slice) -> torch.Tensor:
        """The tiles (36, T·C) that these rows see of maps (B, H, W, C), zeros beyond the border; T in all."""
        rate, step = self.rate, TILE * self.rate
        first, last = step * rows.start - rate, step * rows.stop + rate
        inside = maps[photos, max(first, 0) : min(last, self.height)]
        padded = maps.new_zeros(len(inside), last - first, step * self.across + 2 * rate, maps.shape[-1])
        top = max(-first, 0)
        padded[:, top : top + inside.shape[1], rate : rate + self.width] = inside
        return self._cut(padded, SEEN).reshape(SEEN**2, -1)

    def given(self, maps: torch.Tensor, photos: slice, rows: slice) -> torch.Tensor:
        """The tiles (16, T·O) of these rows of results (B, H, W, O), zeros at the ends."""
        step = TILE * self.rate
        inside = maps[photos, step * rows.start : step * rows.stop]
        padded = maps.new_zeros(
            len(inside), step * (rows.stop - rows.start), step * self.across, maps.shape[-1]
        )
        padded[:, : inside.shape[1], : self.width] = inside
        return self._cut(padded, TILE).reshape(TILE**2, -1)

    def put(
        self, tiles: torch.Tensor, bias: torch.Tensor | None, maps: torch.Tensor, photos: slice, rows: slice
    ) -> None:
        """Tiles (16, T·O) of these rows, and a bias, into the results (B, H, W, O)."""
        step = TILE * self.rate
        into = maps[photos, step * rows.start : step * rows.stop]
        whole = maps.new_empty(len(into), step * (rows.stop - rows.start), step * self.across, maps.shape[-1])
        cut = self._cut(whole, TILE)
        cut.copy_(tiles.view(cut.shape))
        found = whole[:, : into.shape[1], : self.width]
        into.copy_(found if bias is None else found.add_(bias))

    def _cut(self, maps: torch.Tensor, side: int) -> torch.Tensor:
        """Tiles of ``side`` × ``side``, 4 apart, as a view (side, side, B, down, rate, across, rate, C)."""
        rate, (photo, row, column, _) = self.rate, maps.stride()
        down = maps.shape[1] // (TILE * rate)  # a border of one tile's overlap adds no tile
        shape = (side, side, len(maps), down, rate, self.across, rate, maps.shape[-1])
        steps = (rate * row, rate * column, photo, TILE * rate * row, row, TILE * rate * column, column, 1)
        return maps.as_strided(shape, steps)


def _tiles(length: int, rate: int) -> int:
    return -(-length // (TILE * rate))


def worthwhile(height: int, width: int, rate: int) -> bool:
    """Whether whole tiles cover the map without much waste; a small map at a large rate is left to the direct
    sums."""
    covered = _tiles(height, rate) * _tiles(width, rate) * (TILE * rate) ** 2
    return covered <= 2 * height * width and covered >= 64 * TILE**2


def transformed(weight: torch.Tensor) -> torch.Tensor:
    """Weights (O, C, 3, 3) as 36 matrices (36, C, O)."""
    outputs, inputs = weight.shape[:2]
    return torch.mm(WEIGHT, weight.permute(2, 3, 1, 0).reshape(9, -1)).view(SEEN**2, inputs, outputs)


def convolve(
    maps: torch.Tensor, matrices: torch.Tensor, bias: torch.Tensor | None, rate: int
) -> torch.Tensor:
    """Maps (B, C, H, W) fp32, best channels-last, convolved with zeros at the border to (B, O, H, W),
    channels-last."""
    inputs, outputs = matrices.shape[1:]
    grid = Grid(maps.shape[0], maps.shape[2], maps.shape[3], rate)
    shape = grid.batch, outputs, grid.height, grid.width
    result = torch.empty(shape, dtype=maps.dtype, memory_format=torch.channels_last)
    source, target = maps.permute(0, 2, 3, 1), result.permute(0, 2, 3, 1)
    for photos, rows in grid.chunks(2 * inputs + outputs):
        tiles = torch.mm(INPUT, grid.seen(source, photos, rows))
        products = torch.bmm(tiles.view(SEEN**2, -1, inputs), matrices)
        grid.put(torch.mm(RESULT, products.view(SEEN**2, -1)), bias, target, photos, rows)
    return result


def weight_gradient(maps: torch.Tensor, gradient: torch.Tensor, rate: int) -> torch.Tensor:
    """The gradient (O, C, 3, 3) to the weights, from maps (B, C, H, W) and the gradient (B, O, H, W) to the
    results."""
    inputs, outputs = maps.shape[1], gradient.shape[1]
    grid = Grid(maps.shape[0], maps.shape[2], maps.shape[3], rate)
    source, results = maps.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    total = maps.new_zeros(SEEN**2, inputs, outputs)
    for photos, rows in grid.chunks(2 * inputs + outputs):
        tiles = torch.mm(INPUT, grid.seen(source, photos, rows))
        wanted = torch.mm(RESULT.T, grid.given(results, photos, rows))
        total.baddbmm_(tiles.view(SEEN**2, -1, inputs).transpose(1, 2), wanted.view(SEEN**2, -1, outputs))
    return torch.mm(WEIGHT.T, total.view(SEEN**2, -1)).view(3, 3, inputs, outputs).permute(3, 2, 0, 1)


def kept_bytes(network: nn.Module, *, to_come: bool = False) -> int:
    """Bytes of transformed weights that a network keeps at most once it predicts, or of those it does not
    keep yet."""
    layers = [layer for layer in network.modules() if isinstance(layer, Convolution3x3) and layer.may_pay]
    layers = [layer for layer in layers if not (to_come and layer.keeps)]
    return sum(layer.weight.numel() // 9 * SEEN**2 * layer.weight.element_size() for layer in layers)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, maps: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, rate: int
    ) -> torch.Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.rate = rate
        return convolve(maps, transformed(weight), bias, rate)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        wants_maps, wants_weight, wants_bias, _ = ctx.needs_input_grad
        mirrored = weight.flip(2, 3).transpose(0, 1)
        return (
            convolve(gradient, transformed(mirrored), None, ctx.rate) if wants_maps else None,
            weight_gradient(maps, gradient, ctx.rate) if wants_weight else None,
            gradient.sum((0, 2, 3)) if wants_bias else None,
            None,
        )


class Convolution3x3(nn.Conv2d):
    """An ``nn.Conv2d`` of 3×3 with zeros at the border, size kept, that takes the fast way where it pays.

    It pays for fp32 on a CPU without AVX-512, 128 channels or more, and maps that tiles cover well; all else,
    and whatever is traced, compiled or exported, goes the direct way. ``fast = False`` turns it off, ``fast =
    True`` has it with AVX-512 too. Without gradients the transformed weights are kept, at four times the
    memory of the weights, until these change.
    """

    fast: bool = not DIRECT_IS_FASTER

    def __init__(self, inputs: int, outputs: int, rate: int = 1):
        super().__init__(inputs, outputs, 3, padding=rate, dilation=rate)
        self._kept: tuple[torch.Tensor, tuple[int, int], torch.Tensor] | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, H, W) to (B, O, H, W)."""
        if not self._pays(input):
            return super().forward(input)
        rate = int(self.dilation[0])
        if torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad):
            self._kept = None
            return _Convolve.apply(input, self.weight, self.bias, rate)  # type: ignore[no-untyped-call]
        return convolve(input, self._matrices(), self.bias, rate)

    @property
    def may_pay(self) -> bool:
        """Whether the fast way may be taken, were the maps to suit it."""
        return (
            self.fast
            and self.weight.dtype == torch.float32
            and self.weight.device.type == "cpu"
            and min(self.in_channels, self.out_channels) >= LEAST_CHANNELS
        )

    @property
    def keeps(self) -> bool:
        """Whether transformed weights are kept just now."""
        return self._kept is not None

    def _pays(self, maps: torch.Tensor) -> bool:
        return (
            self.may_pay
            and maps.ndim == 4
            and maps.dtype == torch.float32
            and maps.device.type == "cpu"
            and worthwhile(maps.shape[2], maps.shape[3], int(self.dilation[0]))
            and not torch.compiler.is_compiling()
            and not torch._C._get_tracing_state()
            and not torch.is_autocast_enabled("cpu")
        )

    def _matrices(self) -> torch.Tensor:
        weight = self.weight
        if weight.is_inference():  # these do not say when they change
            return transformed(weight)
        state = weight._version, weight.data_ptr()
        if self._kept is None or self._kept[0] is not weight or self._kept[1] != state:
            self._kept = weight, state, transformed(weight.detach())
        return self._kept[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}
