"""The exact Gaussian filter as attention: quadratic in points, without an N × N matrix in memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from densecrf.torch.fused import kernels_for
from densecrf.torch.tiles import MAX_AXES, Tiles

MAX_ENTRIES = 2**23
"""Number of entries of the N × N matrix that are in memory at a time while row sums are taken."""
HEAD_MULTIPLE = 8
"""Fused attention kernels take heads whose size is a multiple of this."""


class Attention:
    """``Σ_j exp(−|f_i − f_j|² / 2) v_j`` for every point i, exactly; differentiable in features and values.

    With queries (f_i, 1) and keys (f_j, −|f_j|²/2) the softmax over j is exp(−|f_i − f_j|²/2) / D_i:
    attention *is* the filter that is normalised after. Its log-sum-exp, taken in tiles, gives D_i and with it
    all other normalisations.

    On the CPU all is computed in float64. On a GPU with Triton, float32 features that need no gradient are
    filtered by ``Tiles``, which is faster and more accurate. Otherwise the computation is in the type of the
    features.

    An exponent is a difference of numbers as large as |f|²/2, where f is a point's distance from the centre
    of all points in standard deviations, so its error grows with |f|² times the rounding error of the type.
    Largest error of a normalised filter of probabilities on a photo of 128×96, with features rounded to each
    type (``benchmarks/torch_crf.py``):

    =====================  =====  =======  =======  ========
    widths (xy, levels)    |f| ≤  float32  float16  bfloat16
    =====================  =====  =======  =======  ========
    50, 60                 4.2    7e-7     1e-4     7e-4
    50, 20                 12     6e-7     1e-3     7e-3
    3 (smoothness)         26     3e-6     7e-3     5e-2
    121, 5                 49     2e-5     7e-2     0.47
    50, 3                  82     6e-5     0.26     0.80
    =====================  =====  =======  =======  ========

    Half precision fails for all usual widths. Features never have it here, not even under autocast.

    Args:
        features: (N, d), float32 or float64, already divided by their standard deviations.

    Source: Krähenbühl and Koltun 2011, equation 3; attention as in Vaswani et al. 2017.
    """

    tiles: Tiles | None
    """The filter by a Triton kernel, where it is used."""

    def __init__(self, features: torch.Tensor):
        self._like = features.detach()
        kernels = kernels_for(features) if features.shape[1] <= MAX_AXES and features.numel() else None
        self.tiles = None
        if kernels and not (torch.is_grad_enabled() and features.requires_grad):
            self.tiles = Tiles(self._like, kernels)
            return
        features = features.double() if features.device.type == "cpu" else features
        # Distances from squares lose digits far from the centre.
        points = features - features.detach().mean(dim=0)
        self._halves = points.square().sum(dim=1, keepdim=True) / 2  # (N, 1)
        self._queries = torch.cat([points, torch.ones_like(self._halves)], dim=1)
        self._keys = torch.cat([points, -self._halves], dim=1)
        self._sums = (self._log_sums() - self._halves[:, 0]).exp()  # D, (N,)

    def _log_sums(self) -> torch.Tensor:
        """(N,): log Σ_j exp(f_i·f_j − |f_j|²/2), tile by tile; gradients compute the tiles again."""
        keys = self._keys
        size = max(1, MAX_ENTRIES // max(1, len(keys)))
        tiles = torch.split(self._queries, size)
        if torch.is_grad_enabled() and keys.requires_grad:
            parts = [checkpoint(_log_sum, tile, keys, use_reentrant=False) for tile in tiles]
        else:
            parts = [_log_sum(tile, keys) for tile in tiles]
        return torch.cat(parts) if parts else self._halves[:, 0]

    def filter(self, values: torch.Tensor) -> torch.Tensor:
        """(v, N) to (v, N), each row filtered."""
        count, points = values.shape
        if not values.numel():
            return values.clone()
        if self.tiles:
            return self.tiles.filter(values)
        # Fused attention kernels take only queries, keys and values of one width.
        width = -(-max(count, self._keys.shape[1]) // HEAD_MULTIPLE) * HEAD_MULTIPLE
        queries = _as_head(self._queries, width)
        keys = _as_head(self._keys, width)
        rows = _as_head(values.t().to(self._keys.dtype), width)
        # For float64 on a GPU the attention keeps all entries of the rows of its queries in memory.
        size = max(1, MAX_ENTRIES // points) if queries.dtype == torch.float64 and queries.is_cuda else points
        parts = [
            F.scaled_dot_product_attention(part, keys, rows, scale=1.0)
            for part in torch.split(queries, size, dim=2)
        ]
        mean = torch.cat(parts, dim=2)
        return (mean.reshape(points, width)[:, :count].t() * self._sums).to(values.dtype)

    def diagonal(self) -> torch.Tensor:
        """(N,): what a point's own value contributes to its filtered value."""
        return self._like.new_ones(len(self._like))


def _log_sum(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    return (queries @ keys.t()).logsumexp(dim=1)


def _as_head(rows: torch.Tensor, width: int) -> torch.Tensor:
    """(N, w) as one batch of one head (1, 1, N, width), padded with zeros."""
    return F.pad(rows, (0, width - rows.shape[1]))[None, None]
