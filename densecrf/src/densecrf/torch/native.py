"""The native lattice on CPU behind PyTorch: messages with their exact gradient, and inference without
gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from densecrf import _native, lattice


class Messages:
    """Σ_m w_m k_m(Q) by native kernels, differentiable in weights and Q; float32 on CPU.

    Args:
        weights: (M,), one for each kernel.
        kernels: over the same points.
        threads: how many to use.
    """

    def __init__(self, weights: torch.Tensor, kernels: Sequence[lattice.Kernel], threads: int):
        self._weights, self._threads = weights, threads
        self._kernels = [kernel._native for kernel in kernels]

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """(K, N) to (K, N)."""
        message: torch.Tensor = _Messages.apply(values, self._weights, self._kernels, self._threads)  # type: ignore[no-untyped-call]
        return message


def pooled_marginals(
    logits: torch.Tensor,
    kernels: Sequence[lattice.Kernel],
    weights: torch.Tensor,
    compatibility: torch.Tensor | None,
    iterations: int,
    *,
    merge_threshold: float,
    convergence_tolerance: float,
    threads: int,
) -> torch.Tensor:
    """Marginals (K, N) without gradients, with the savings of ``densecrf.DenseCRF``."""
    mu = None if compatibility is None else compatibility.detach().numpy()
    strengths = [
        np.full(len(logits), weight) if mu is None else weight * mu if mu.ndim == 1 else -weight * mu
        for weight in weights.tolist()
    ]
    field = lattice.MeanField(
        -logits.detach().numpy(),
        kernels,
        strengths,
        merge_threshold=merge_threshold,
        convergence_tolerance=convergence_tolerance,
        threads=threads,
    )
    field.run(iterations)
    return torch.from_numpy(field.finish())


class _Messages(torch.autograd.Function):
    """Backwards each kernel's transpose: the same splat and slice, the blurs in reverse order."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, weights: torch.Tensor, kernels: list[_native.Kernel], threads: int
    ) -> torch.Tensor:
        values = values.contiguous()
        ctx.save_for_backward(values, weights)
        ctx.kernels, ctx.threads = kernels, threads
        out, _ = _native.messages(kernels, weights.tolist(), values.numpy(), None, False, threads)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
        values, weights = ctx.saved_tensors
        beside = values.numpy() if ctx.needs_input_grad[1] else None
        out, products = _native.messages(
            ctx.kernels, weights.tolist(), grad.contiguous().numpy(), beside, True, ctx.threads
        )
        return torch.from_numpy(out), torch.tensor(products) if beside is not None else None, None, None
