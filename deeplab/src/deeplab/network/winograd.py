"""Winograd's algorithm for 3×3 convolutions on the CPU: a quarter of the multiplications of the direct sums.

A tile of 4×4 results is computed from a tile of 6×6 inputs with 36 products instead of 144. For many channels
these are 36 matrix products. The input is transformed before them and the products after them, all in fp32.
The results differ from the direct sums by about 1e-5 of the largest result. With an atrous rate r, the map
consists of r×r interleaved maps, each of which is convolved at rate 1. Libraries for GPUs choose this
algorithm by themselves; torch on CPUs does not.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (arXiv 1509.09308), section 4,
F(4×4, 3×3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

TILE = 4  # side of a tile of results
INPUT_TILE = 6  # side of the tile of inputs that it is computed from
MIN_CHANNELS = 128  # with fewer, the transforms cost as much as the products save
CHUNK_BYTES = 32 << 20  # of tiles computed at once, so that they stay in the processor's caches
# torch's convolutions always use AVX-512 where the processor has it, but its matrix products do not on every
# such processor: on an EPYC, direct sums ran at 250 GMAC/s and matrix products at 108, and the network took
# 0.21 s with direct sums and 0.28 s with Winograd's algorithm.
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
    """The matrix that applies a transform to the rows and columns of a tile that is one vector."""
    one_axis = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(one_axis, one_axis).float()


INPUT = _both_axes(_INPUT)  # (36, 36)
WEIGHT = _both_axes(_WEIGHT)  # (36, 9)
RESULT = _both_axes(_RESULT)  # (16, 36)


@dataclass(frozen=True)
class TileGrid:
    """The tiles of a batch of maps: ``down`` × ``across`` for each of rate² interleaved maps."""

    batch: int
    height: int
    width: int
    rate: int

    @property
    def down(self) -> int:
        """Rows of tiles in each interleaved map."""
        return _tiles(self.height, self.rate)

    @property
    def across(self) -> int:
        """Columns of tiles in each interleaved map."""
        return _tiles(self.width, self.rate)

    def chunks(self, channels: int) -> Iterator[tuple[slice, slice]]:
        """Split the tiles into chunks of about ``CHUNK_BYTES``.

        Args:
            channels: Channels of inputs, transforms and products together.

        Yields:
            Photos and rows of tiles of each chunk.
        """
        row_bytes = 4 * INPUT_TILE**2 * channels * self.rate**2 * self.across
        rows = max(1, CHUNK_BYTES // row_bytes)
        photos = max(1, rows // self.down)
        rows = min(rows, self.down)
        for photo in range(0, self.batch, photos):
            for first in range(0, self.down, rows):
                yield slice(photo, photo + photos), slice(first, min(first + rows, self.down))

    def cut_inputs(self, maps: torch.Tensor, photos: slice, rows: slice) -> torch.Tensor:
        """Cut the input tiles of some rows of tiles.

        Args:
            maps: (B, H, W, C).
            photos: Slice of the batch.
            rows: Slice of the rows of tiles, with T tiles in all.

        Returns:
            (36, T·C), with zeros beyond the border of the maps.
        """
        rate = self.rate
        step = TILE * rate
        first = step * rows.start - rate
        last = step * rows.stop + rate
        inside = maps[photos, max(first, 0) : min(last, self.height)]
        padded = maps.new_zeros(len(inside), last - first, step * self.across + 2 * rate, maps.shape[-1])
        top = max(-first, 0)
        padded[:, top : top + inside.shape[1], rate : rate + self.width] = inside
        return self._cut(padded, INPUT_TILE).reshape(INPUT_TILE**2, -1)

    def cut_results(self, maps: torch.Tensor, photos: slice, rows: slice) -> torch.Tensor:
        """Cut the result tiles of some rows of tiles.

        Args:
            maps: (B, H, W, O).
            photos: Slice of the batch.
            rows: Slice of the rows of tiles, with T tiles in all.

        Returns:
            (16, T·O), with zeros beyond the border of the maps.
        """
        step = TILE * self.rate
        inside = maps[photos, step * rows.start : step * rows.stop]
        padded = maps.new_zeros(
            len(inside), step * (rows.stop - rows.start), step * self.across, maps.shape[-1]
        )
        padded[:, : inside.shape[1], : self.width] = inside
        return self._cut(padded, TILE).reshape(TILE**2, -1)

    def write_results(
        self, tiles: torch.Tensor, bias: torch.Tensor | None, maps: torch.Tensor, photos: slice, rows: slice
    ) -> None:
        """Write result tiles of some rows of tiles into maps.

        Args:
            tiles: (16, T·O).
            bias: (O,), added to the results.
            maps: (B, H, W, O), written to.
            photos: Slice of the batch.
            rows: Slice of the rows of tiles, with T tiles in all.
        """
        step = TILE * self.rate
        target = maps[photos, step * rows.start : step * rows.stop]
        padded = maps.new_empty(
            len(target), step * (rows.stop - rows.start), step * self.across, maps.shape[-1]
        )
        cut = self._cut(padded, TILE)
        cut.copy_(tiles.view(cut.shape))
        inside = padded[:, : target.shape[1], : self.width]
        target.copy_(inside if bias is None else inside.add_(bias))

    def _cut(self, maps: torch.Tensor, side: int) -> torch.Tensor:
        """A view of tiles of ``side`` × ``side``, 4 apart: (side, side, B, down, rate, across, rate, C)."""
        rate = self.rate
        photo, row, column, _ = maps.stride()
        down = maps.shape[1] // (TILE * rate)  # the border that tiles overlap by adds no tile
        shape = (side, side, len(maps), down, rate, self.across, rate, maps.shape[-1])
        steps = (rate * row, rate * column, photo, TILE * rate * row, row, TILE * rate * column, column, 1)
        return maps.as_strided(shape, steps)


def _tiles(length: int, rate: int) -> int:
    """Number of tiles that cover an axis of each interleaved map."""
    return -(-length // (TILE * rate))


def is_worthwhile(height: int, width: int, rate: int) -> bool:
    """Whether whole tiles cover a map without much waste, as they do not cover a small map at a large rate.

    Args:
        height: Height of the map.
        width: Width of the map.
        rate: Atrous rate of the convolution.

    Returns:
        True if the tiles cover at most twice the map, and 64 tiles or more are needed.
    """
    covered = _tiles(height, rate) * _tiles(width, rate) * (TILE * rate) ** 2
    return covered <= 2 * height * width and covered >= 64 * TILE**2


def transform_weight(weight: torch.Tensor) -> torch.Tensor:
    """Transform weights (O, C, 3, 3) into 36 matrices (36, C, O)."""
    outputs, inputs = weight.shape[:2]
    return torch.mm(WEIGHT, weight.permute(2, 3, 1, 0).reshape(9, -1)).view(INPUT_TILE**2, inputs, outputs)


def convolve(
    maps: torch.Tensor, matrices: torch.Tensor, bias: torch.Tensor | None, rate: int
) -> torch.Tensor:
    """Convolve maps by Winograd's algorithm, with zeros beyond the border.

    Args:
        maps: (B, C, H, W) float32; channels-last is fastest.
        matrices: Transformed weights (36, C, O), as ``transform_weight`` gives them.
        bias: (O,) float32, or None.
        rate: Atrous rate.

    Returns:
        (B, O, H, W) float32, channels-last.
    """
    inputs, outputs = matrices.shape[1:]
    grid = TileGrid(maps.shape[0], maps.shape[2], maps.shape[3], rate)
    shape = grid.batch, outputs, grid.height, grid.width
    result = torch.empty(shape, dtype=maps.dtype, memory_format=torch.channels_last)
    source = maps.permute(0, 2, 3, 1)
    target = result.permute(0, 2, 3, 1)
    for photos, rows in grid.chunks(2 * inputs + outputs):
        tiles = torch.mm(INPUT, grid.cut_inputs(source, photos, rows))
        products = torch.bmm(tiles.view(INPUT_TILE**2, -1, inputs), matrices)
        grid.write_results(torch.mm(RESULT, products.view(INPUT_TILE**2, -1)), bias, target, photos, rows)
    return result


def weight_gradient(maps: torch.Tensor, gradient: torch.Tensor, rate: int) -> torch.Tensor:
    """Compute the gradient with respect to the weights.

    Args:
        maps: Input of the convolution (B, C, H, W) float32.
        gradient: Gradient with respect to its output (B, O, H, W) float32.
        rate: Atrous rate.

    Returns:
        (O, C, 3, 3) float32.
    """
    inputs = maps.shape[1]
    outputs = gradient.shape[1]
    grid = TileGrid(maps.shape[0], maps.shape[2], maps.shape[3], rate)
    source = maps.permute(0, 2, 3, 1)
    results = gradient.permute(0, 2, 3, 1)
    total = maps.new_zeros(INPUT_TILE**2, inputs, outputs)
    for photos, rows in grid.chunks(2 * inputs + outputs):
        tiles = torch.mm(INPUT, grid.cut_inputs(source, photos, rows))
        products = torch.mm(RESULT.T, grid.cut_results(results, photos, rows))
        total.baddbmm_(
            tiles.view(INPUT_TILE**2, -1, inputs).transpose(1, 2), products.view(INPUT_TILE**2, -1, outputs)
        )
    return torch.mm(WEIGHT.T, total.view(INPUT_TILE**2, -1)).view(3, 3, inputs, outputs).permute(3, 2, 0, 1)


def cached_bytes(network: nn.Module, *, missing_only: bool = False) -> int:
    """Memory of the transformed weights that a network caches once it predicts.

    Args:
        network: Any module; its ``Convolution3x3`` layers count.
        missing_only: Leave out the layers whose transformed weights are cached already.

    Returns:
        Bytes, at most.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, Convolution3x3) and layer.is_eligible]
    layers = [layer for layer in layers if not (missing_only and layer.is_cached)]
    return sum(layer.weight.numel() // 9 * INPUT_TILE**2 * layer.weight.element_size() for layer in layers)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, maps: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, rate: int
    ) -> torch.Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.rate = rate
        return convolve(maps, transform_weight(weight), bias, rate)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        needs_maps, needs_weight, needs_bias, _ = ctx.needs_input_grad
        mirrored = weight.flip(2, 3).transpose(0, 1)
        return (
            convolve(gradient, transform_weight(mirrored), None, ctx.rate) if needs_maps else None,
            weight_gradient(maps, gradient, ctx.rate) if needs_weight else None,
            gradient.sum((0, 2, 3)) if needs_bias else None,
            None,
        )


class Convolution3x3(nn.Conv2d):
    """A 3×3 ``nn.Conv2d`` that keeps the map's size and uses Winograd's algorithm where that is faster.

    It is faster in fp32 on a CPU without AVX-512, with 128 channels or more, and on maps that tiles cover
    well. Anything else, and whatever is traced, compiled or exported, is computed by direct sums. ``fast =
    False`` turns the algorithm off; ``fast = True`` turns it on with AVX-512 too. Without gradients, the
    transformed weights are cached until the weights change; they take four times the memory of the weights.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        rate: Atrous rate.
    """

    fast: bool = not DIRECT_IS_FASTER

    def __init__(self, inputs: int, outputs: int, rate: int = 1):
        super().__init__(inputs, outputs, 3, padding=rate, dilation=rate)
        self._cache: tuple[torch.Tensor, tuple[int, int], torch.Tensor] | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, H, W) to (B, O, H, W)."""
        if not self._is_faster_on(input):
            return super().forward(input)
        rate = int(self.dilation[0])
        if torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad):
            self._cache = None
            return _Convolve.apply(input, self.weight, self.bias, rate)  # type: ignore[no-untyped-call]
        return convolve(input, self._matrices(), self.bias, rate)

    @property
    def is_eligible(self) -> bool:
        """Whether Winograd's algorithm is used on maps that suit it."""
        return (
            self.fast
            and self.weight.dtype == torch.float32
            and self.weight.device.type == "cpu"
            and min(self.in_channels, self.out_channels) >= MIN_CHANNELS
        )

    @property
    def is_cached(self) -> bool:
        """Whether the transformed weights are cached."""
        return self._cache is not None

    def _is_faster_on(self, maps: torch.Tensor) -> bool:
        return (
            self.is_eligible
            and maps.ndim == 4
            and maps.dtype == torch.float32
            and maps.device.type == "cpu"
            and is_worthwhile(maps.shape[2], maps.shape[3], int(self.dilation[0]))
            and not torch.compiler.is_compiling()
            and not torch._C._get_tracing_state()
            and not torch.is_autocast_enabled("cpu")
        )

    def _matrices(self) -> torch.Tensor:
        """The transformed weights, from the cache if the weights have not changed."""
        weight = self.weight
        if weight.is_inference():  # such tensors have no version that would show a change
            return transform_weight(weight)
        state = weight._version, weight.data_ptr()
        if self._cache is None or self._cache[0] is not weight or self._cache[1] != state:
            self._cache = weight, state, transform_weight(weight.detach())
        return self._cache[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}
