"""The Gaussian filter over a grid of points without approximation: one small matrix product for each axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class Grid:
    """``Σ_j exp(−|f_i − f_j|² / 2) v_j`` where the points are all combinations of places along axes.

    The Gaussian of a sum of squares is a product of Gaussians, so the (N, N) matrix is a Kronecker product of
    one (n, n) matrix for each axis: N·(H + W) operations for a photo, not N². Differentiable in places and
    values.

    Args:
        axes: places along each axis, (H,) and (W,) for a photo, already divided by their standard deviations.
            Points are numbered with the last axis fastest.
    """

    def __init__(self, axes: Sequence[torch.Tensor]):
        self._matrices = [(-(axis[:, None] - axis).square() / 2).exp() for axis in axes]

    def filter(self, values: torch.Tensor) -> torch.Tensor:
        """(v, N) to (v, N), each row filtered."""
        shape = [len(matrix) for matrix in self._matrices]
        found = values
        for place, matrix in enumerate(self._matrices):
            behind = math.prod(shape[place + 1 :])
            found = found.reshape(-1, len(matrix), behind)
            found = matrix @ found if behind > 1 else (found[:, :, 0] @ matrix)
        return found.reshape(values.shape)

    def own(self) -> torch.Tensor:
        """(N,): what a point's own value contributes to its filtered value."""
        first = self._matrices[0]
        return first.new_ones(math.prod(len(matrix) for matrix in self._matrices))
