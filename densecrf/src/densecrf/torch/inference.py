"""Mean-field inference with any kernels, with gradients and, faster, without."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from densecrf.torch.kernel import Kernel
from densecrf.torch.lattice import Lattice


def mean_field(
    logits: torch.Tensor,
    messages: Callable[[torch.Tensor], torch.Tensor],
    *,
    compatibility: torch.Tensor | None = None,
    iterations: int = 10,
) -> torch.Tensor:
    """Logits of the approximate marginals after some mean-field steps, differentiable in all arguments.

    Args:
        logits: (K, N) class scores, up to a constant for each point.
        messages: function from marginals (K, N) to the sum of their weighted messages Σ_m w_m k_m(Q), such as
            a ``Kernel``.
        compatibility: None for Potts, (K,) or (K, K), as in ``densecrf.DenseCRF``.
        iterations: number of steps.

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


def sum_messages(weights: torch.Tensor, kernels: Sequence[Kernel], marginals: torch.Tensor) -> torch.Tensor:
    """The sum of weighted messages Σ_m w_m k_m(Q).

    Args:
        weights: (M,), one for each kernel.
        kernels: kernels over the same points.
        marginals: Q, (K, N).

    Returns:
        (K, N).
    """
    total = torch.zeros_like(marginals)
    for weight, kernel in zip(weights, kernels, strict=True):
        total = total + weight * kernel(marginals)
    return total


class FusedMessages:
    """Σ_m w_m k_m(Q) over lattices without gradients, with a point's labels next to each other in memory.

    Normalisation and weights are multiplied into the lattices' own weights once, so that a message costs no
    more than the filter.

    Args:
        kernels: kernels over the same points, with the "torch" backend.
        weights: (M,), one for each kernel.
    """

    @torch.no_grad()
    def __init__(self, kernels: Sequence[Kernel], weights: torch.Tensor):
        self._filters: list[tuple[Lattice, torch.Tensor, torch.Tensor]] = []
        self._diagonal: torch.Tensor | None = None
        for kernel, weight in zip(kernels, weights, strict=True):
            lattice = kernel.gaussian
            before = kernel.scale_before
            assert isinstance(lattice, Lattice)
            after = weight if kernel.scale_after is None else kernel.scale_after * weight
            slice_weights = (
                lattice.scaled_weights(None) * after if after.ndim == 0 else lattice.scaled_weights(after)
            )
            self._filters.append((lattice, lattice.scaled_weights(before), slice_weights))
            if kernel.diagonal is not None:
                own = kernel.diagonal * after if before is None else kernel.diagonal * after * before
                self._diagonal = own if self._diagonal is None else self._diagonal + own

    @torch.no_grad()
    def add(self, base: torch.Tensor, marginals: torch.Tensor) -> torch.Tensor:
        """Add the messages of marginals to a tensor.

        Args:
            base: (N, K).
            marginals: (N, K).

        Returns:
            (N, K).
        """
        for lattice, splat_weights, slice_weights in self._filters:
            base = lattice.add_filtered(base, marginals, splat_weights, slice_weights)
        if self._diagonal is None:
            return base
        return torch.addcmul(base, self._diagonal[:, None], marginals, value=-1)

    @torch.no_grad()
    def step(
        self, current: torch.Tensor, logits: torch.Tensor, compatibility: torch.Tensor | None
    ) -> torch.Tensor:
        """Take one step of ``mean_field``.

        Args:
            current: (N, K) logits of the current marginals.
            logits: (N, K) class scores.
            compatibility: None for Potts, (K,) or (K, K).

        Returns:
            (N, K) logits of the next marginals.
        """
        marginals = current.softmax(dim=1)
        if compatibility is None:
            return self.add(logits, marginals)
        message = self.add(torch.zeros_like(logits), marginals)
        if compatibility.ndim == 1:
            return torch.addcmul(logits, compatibility, message)
        return torch.addmm(logits, message, compatibility.t(), alpha=-1)
