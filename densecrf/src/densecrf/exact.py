"""The same filter and mean field without approximation, O(N²) and plain: the twin that native code is held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

TILE = 1024


def gaussian_filter(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``Σ_j exp(−|f_i − f_j|² / 2) v_j`` for every point i, the point itself included.

    Args:
        features: (N, d), already divided by their standard deviations.
        values: (N, v).

    Returns:
        (N, v) float64. Time is O(N²·(d + v)), memory O(N·1024).
    """
    f, v = np.asarray(features, np.float64), np.asarray(values, np.float64)
    f = f - f.mean(axis=0, keepdims=True) if len(f) else f  # distances from squares lose digits far from the origin
    squares = (f * f).sum(axis=1)
    out = np.empty(v.shape)
    for start in range(0, len(f), TILE):
        tile = slice(start, start + TILE)
        distances = squares[tile, None] + squares[None, :] - 2 * f[tile] @ f.T
        out[tile] = np.exp(-0.5 * np.maximum(distances, 0)) @ v
    return out


def mean_field(
    unary: np.ndarray,
    features: Sequence[np.ndarray],
    weights: Sequence[float],
    *,
    normalization: str,
    iterations: int,
    gaussian: Callable[[np.ndarray, np.ndarray], np.ndarray] = gaussian_filter,
) -> np.ndarray:
    """Marginals of the fully connected CRF with Potts compatibility, float64.

    Args:
        unary: (K, N) energies in nats.
        features: one (N, d) array a kernel.
        weights: one a kernel.
        normalization: see ``Params.normalization``.
        iterations: mean-field steps; 0 gives the softmax of −unary.
        gaussian: the filter; another one may stand in for comparison.

    Returns:
        (K, N) float64, columns sum to 1.

    Source: Krähenbühl and Koltun 2011, algorithm 1, as the DeepLab release runs it: each pixel's own contribution is
    kept, and only the attractive part of the Potts term is added.
    """
    logits = -np.asarray(unary, np.float64)
    scales = []
    for f in features:
        sums = gaussian(f, np.ones((len(f), 1)))
        before = {"symmetric": sums**-0.5, "before": 1 / sums}.get(normalization, np.ones_like(sums))
        after = {"symmetric": sums**-0.5, "after": 1 / sums}.get(normalization, np.ones_like(sums))
        scales.append((before, after))
    marginals = _softmax(logits)
    for _ in range(iterations):
        update = logits.copy()
        for f, weight, (before, after) in zip(features, weights, scales, strict=True):
            update += weight * (after * gaussian(f, before * marginals.T)).T
        marginals = _softmax(update)
    return marginals


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=0, keepdims=True))
    return powers / powers.sum(axis=0, keepdims=True)
