"""One pairwise term, a normalised Gaussian over points, and the mean field that such terms make."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from densecrf.params import NORMALIZATIONS
from densecrf.torch.attention import Attention
from densecrf.torch.grid import Grid
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
        if backend not in ("torch", "exact"):
            raise ValueError(f"got backend {backend!r}, wanted one of: torch, exact")
        if features.ndim != 2 or features.shape[1] < 1 or not features.is_floating_point():
            raise ValueError(
                f"got features {tuple(features.shape)} of {features.dtype}, wanted (N, d) floats"
            )
        _require_known(normalization)
        gaussian = Lattice(features) if backend == "torch" else Attention(features)
        self._normalise(gaussian, features[:, 0], normalization, include_self)

    @classmethod
    def of_grid(
        cls, axes: Sequence[torch.Tensor], *, normalization: str = "symmetric", include_self: bool = True
    ) -> Kernel:
        """An exact one over a grid, see ``Grid``, as are the axes; far less work than features of all its
        points."""
        _require_known(normalization)
        kernel = cls.__new__(cls)
        grid = Grid(axes)
        kernel._normalise(grid, grid.own(), normalization, include_self)
        return kernel

    def _normalise(
        self, gaussian: Lattice | Attention | Grid, like: torch.Tensor, normalization: str, include_self: bool
    ) -> None:
        self._gaussian = gaussian
        self._own = None if include_self else gaussian.own().to(like.dtype)
        self._before: torch.Tensor | None = None
        self._after: torch.Tensor | None = None
        if normalization == "none":
            return
        sums = gaussian.filter(torch.ones_like(like)[None])[0]
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


class Rows:
    """Σ_m w_m k_m over lattices, without gradients, on marginals with a point's labels side by side.

    Normalisation and weights are multiplied into the lattices' own weights once, so that a message is the
    lattices' work alone.

    Args:
        kernels: over the same points, with the "torch" backend.
        weights: (M,), one for each kernel.
    """

    @torch.no_grad()
    def __init__(self, kernels: Sequence[Kernel], weights: torch.Tensor):
        self._steps = []
        self._own: torch.Tensor | None = None
        for kernel, weight in zip(kernels, weights, strict=True):
            lattice, before, after = kernel._gaussian, kernel._before, kernel._after
            assert isinstance(lattice, Lattice)
            after = weight if after is None else after * weight
            slice_weights = lattice.weighted(None) * after if after.ndim == 0 else lattice.weighted(after)
            self._steps.append((lattice, lattice.weighted(before), slice_weights))
            if kernel._own is not None:
                share = kernel._own * after if before is None else kernel._own * after * before
                self._own = share if self._own is None else self._own + share

    @torch.no_grad()
    def add(self, base: torch.Tensor, marginals: torch.Tensor) -> torch.Tensor:
        """``base`` plus the messages, (N, K) all."""
        for lattice, splat, slice_weights in self._steps:
            base = lattice.add(base, marginals, splat, slice_weights)
        return base if self._own is None else torch.addcmul(base, self._own[:, None], marginals, value=-1)

    @torch.no_grad()
    def step(
        self, current: torch.Tensor, logits: torch.Tensor, compatibility: torch.Tensor | None
    ) -> torch.Tensor:
        """One step of ``mean_field``, (N, K) to (N, K)."""
        marginals = current.softmax(dim=1)
        if compatibility is None:
            return self.add(logits, marginals)
        message = self.add(torch.zeros_like(logits), marginals)
        if compatibility.ndim == 1:
            return torch.addcmul(logits, compatibility, message)
        return torch.addmm(logits, message, compatibility.t(), alpha=-1)


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
        messages: takes marginals (K, N) to the sum of their weighted messages, Σ_m w_m k_m(Q), e.g. a
            ``Kernel``.
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


def _require_known(normalization: str) -> None:
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"got normalization {normalization!r}, wanted one of: {', '.join(NORMALIZATIONS)}")
