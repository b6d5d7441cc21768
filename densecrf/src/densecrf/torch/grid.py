"""The exact Gaussian filter over a grid of points: one small matrix product for each axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class Grid:
    """``Σ_j exp(−|f_i − f_j|² / 2) v_j`` over all points of a grid.

    The Gaussian of a sum of squares is a product of Gaussians, so the (N, N) matrix is a Kronecker product of
    one (n, n) matrix for each axis: N·(H + W) operations for a photo instead of N². Differentiable in
    positions and values.

    Args:
        axes: positions along each axis, (H,) and (W,) for a photo, already divided by their standard
            deviations. Points are numbered with the last axis fastest.
    """

    def __init__(self, axes: Sequence[torch.Tensor]):
        self._matrices = [(-(axis[:, None] - axis).square() / 2).exp() for axis in axes]

    def filter(self, values: torch.Tensor) -> torch.Tensor:
        """(v, N) to (v, N), each row filtered."""
        shape = [len(matrix) for matrix in self._matrices]
        result = values
        for axis, matrix in enumerate(self._matrices):
            inner = math.prod(shape[axis + 1 :])
            result = result.reshape(-1, len(matrix), inner)
            result = matrix @ result if inner > 1 else (result[:, :, 0] @ matrix)
        return result.reshape(values.shape)

    def diagonal(self) -> torch.Tensor:
        """(N,): what a point's own value contributes to its filtered value."""
        first = self._matrices[0]
        return first.new_ones(math.prod(len(matrix) for matrix in self._matrices))


def grid_positions(axes: Sequence[torch.Tensor]) -> torch.Tensor:
    """(N, axes): the positions of all points of a grid, the last axis in the first column."""
    return torch.stack([grid.flatten() for grid in torch.meshgrid(*axes, indexing="ij")[::-1]], dim=1)
