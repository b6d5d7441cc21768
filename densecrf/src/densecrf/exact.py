"""The filter and the mean field without approximation: plain O(N²) references for the native kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from densecrf.unary import impossible_labels

TILE = 1024
"""Number of points whose distances to all others are computed at a time."""


def gaussian_filter(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``Σ_j exp(−|f_i − f_j|² / 2) v_j`` for every point i, the point itself included.

    Args:
        features: (N, d), already divided by their standard deviations.
        values: (N, v).

    Returns:
        (N, v) float64. Time is O(N²·(d + v)), memory O(N·1024).
    """
    f = np.asarray(features, np.float64)
    v = np.asarray(values, np.float64)
    if len(f):  # distances computed from squares lose digits far from the origin
        f = f - f.mean(axis=0, keepdims=True)
    squares = (f * f).sum(axis=1)
    out = np.empty(v.shape)
    for start in range(0, len(f), TILE):
        tile = slice(start, start + TILE)
        distances = squares[tile, None] + squares[None, :] - 2 * f[tile] @ f.T
        out[tile] = np.exp(-0.5 * np.maximum(distances, 0)) @ v
    return out


class Kernel:
    """The exact counterpart of ``lattice.Kernel``, a normalised Gaussian over features.

    Args:
        features: (N, d).
        normalization: see ``Params.normalization``.
        include_self: whether a pixel's own belief is part of its message.
        gaussian: the filter, ``gaussian_filter`` or another one to compare it with.
    """

    def __init__(
        self,
        features: np.ndarray,
        normalization: str,
        include_self: bool = True,
        gaussian: Callable[[np.ndarray, np.ndarray], np.ndarray] = gaussian_filter,
    ):
        self._features = features
        self._gaussian = gaussian
        self._self_weight = 0.0 if include_self else 1.0
        ones = np.ones((len(features), 1))
        sums = gaussian(features, ones) - self._self_weight
        sums[sums < 1e-5] = np.inf  # a point without another one nearby gets no message
        self._before = {"symmetric": sums**-0.5, "before": 1 / sums}.get(normalization, ones)
        self._after = {"symmetric": sums**-0.5, "after": 1 / sums}.get(normalization, ones)

    def filter(self, values: np.ndarray) -> np.ndarray:
        """Filter and normalise each column, (N, v) to (N, v) float64."""
        scaled = self._before * values
        return self._after * (self._gaussian(self._features, scaled) - self._self_weight * scaled)


class MeanField:
    """The exact counterpart of ``lattice.MeanField``, with the same methods.

    Args:
        unary: (K, N) energies in nats, +inf for labels that a pixel cannot have.
        kernels: kernels of the pairwise terms.
        strengths: for each kernel, (K,) factors of a label's message in its own logit, or a matrix (K, K)
            [to, from].

    Source: Krähenbühl and Koltun 2011, algorithm 1.
    """

    def __init__(self, unary: np.ndarray, kernels: Sequence[Kernel], strengths: Sequence[np.ndarray]):
        impossible_labels(unary)  # ValueError for a pixel without a label; exp(−inf) is 0 for the others
        self._logits = -np.asarray(unary, np.float64)
        self._terms = list(zip(kernels, strengths, strict=True))
        self._marginals = _softmax(self._logits)

    def start_from(self, marginals: np.ndarray) -> None:
        """Start from these marginals (K, N) instead of the softmax of −unary."""
        self._marginals = np.asarray(marginals, np.float64)

    def run(self, steps: int) -> None:
        """Take this many steps."""
        for _ in range(steps):
            update = self._logits.copy()
            for kernel, strength in self._terms:
                message = kernel.filter(self._marginals.T).T
                update += strength[:, None] * message if strength.ndim == 1 else strength @ message
            self._marginals = _softmax(update)

    def marginals(self) -> np.ndarray:
        """(K, N) float64."""
        return self._marginals

    finish = marginals


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=0, keepdims=True))
    return powers / powers.sum(axis=0, keepdims=True)
