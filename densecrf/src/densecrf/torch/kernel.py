"""One pairwise term, a normalised Gaussian over points, and the mean field that such terms make."""

from __future__ import annotations

from collections.abc import Callable

import torch

from densecrf.params import NORMALIZATIONS
from densecrf.torch.attention import Attention
from densecrf.torch.lattice import Lattice

LEAST_SUM = 1e-5
"""A point whose row of the kernel matrix sums to no more has no other near it and gets no message."""


class Kernel:
    """A Gaussian over any features with normalisation: the twin of ``densecrf.lattice.Kernel`` on any device.

    Differentiable in features and values, float32 or float64.

    Args:
        features: (N, d), already divided by their standard deviations.
        normalization: see ``densecrf.Params.normalization``.
        include_self: whether a point's own value is part of its message.
        backend: "torch" for the permutohedral lattice or "exact".

    Raises:
        ValueError: for unknown options, or features that the lattice cannot number.
    """

    def __init__(
        self,
        features: torch.Tensor,
        *,
        normalization: str = "symmetric",
        include_self: bool = True,
        backend: str = "torch",
    ):
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"got normalization {normalization!r}, wanted one of: {', '.join(NORMALIZATIONS)}")
        if backend not in ("torch", "exact"):
            raise ValueError(f"got backend {backend!r}, wanted one of: torch, exact")
        if features.ndim != 2 or features.shape[1] < 1 or not features.is_floating_point():
            raise ValueError(f"got features {tuple(features.shape)} of {features.dtype}, wanted (N, d) floats")
        self._gaussian: Lattice | Attention = Lattice(features) if backend == "torch" else Attention(features)
        self._own = None if include_self else self._gaussian.own().to(features.dtype)
        self._before = self._after = None
        if normalization == "none":
            return
        sums = self._gaussian.filter(torch.ones_like(features[:, 0])[None])[0]
        if self._own is not None:
            sums = sums - self._own
        power = -0.5 if normalization == "symmetric" else -1.0
        scale = torch.where(sums > LEAST_SUM, sums.clamp_min(LEAST_SUM).pow(power), 0.0)
        self._before = None if normalization == "after" else scale
        self._after = None if normalization == "before" else scale

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """(v, N) to (v, N), each row filtered and normalised."""
        scaled = values if self._before is None else values * self._before
        message = self._gaussian.filter(scaled)
        if self._own is not None:
            message = message - self._own * scaled
        return message if self._after is None else message * self._after


def mean_field(
    logits: torch.Tensor,
    messages: Callable[[torch.Tensor], torch.Tensor],
    *,
    compatibility: torch.Tensor | None = None,
    iterations: int = 10,
) -> torch.Tensor:
    """Logits of the approximate marginals after some steps; differentiable in all that goes in.

    Args:
        logits: (K, N) class scores, up to a constant for each point.
        messages: takes marginals (K, N) to the sum of their weighted messages, Σ_m w_m k_m(Q), e.g. a ``Kernel``.
        compatibility: None for Potts, (K,) or (K, K), as in ``densecrf.DenseCRF``.
        iterations: mean-field steps.

    Returns:
        (K, N) logits; their softmax over K is the marginals.

    Source: Krähenbühl and Koltun 2011, algorithm 1; Zheng et al. 2015 (CRF as RNN).
    """
    current = logits
    for _ in range(iterations):
        message = messages(current.softmax(dim=0))
        if compatibility is None:
            current = logits + message
        elif compatibility.ndim == 1:
            current = logits + compatibility[:, None] * message
        else:
            current = logits - compatibility @ message
    return current
