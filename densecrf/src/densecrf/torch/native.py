"""The native lattice on the CPU in PyTorch: messages with exact gradients, and inference without."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch.autograd.function import once_differentiable

from densecrf import lattice
from densecrf.pairwise import message_strengths


class Messages:
    """Σ_m w_m k_m(Q) by native kernels, differentiable in weights and Q; float32 on the CPU.

    Args:
        weights: (M,), one for each kernel.
        kernels: kernels over the same points.
        threads: number of threads.
    """

    def __init__(self, weights: torch.Tensor, kernels: Sequence[lattice.Kernel], threads: int):
        self._weights = weights
        self._threads = threads
        self._kernels = list(kernels)

    def __call__(self, marginals: torch.Tensor) -> torch.Tensor:
        """(K, N) to (K, N)."""
        message: torch.Tensor = _Messages.apply(  # type: ignore[no-untyped-call]
            marginals, self._weights, self._kernels, self._threads
        )
        return message


def infer_marginals(
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
    """Marginals without gradients, with the default approximations of ``densecrf.DenseCRF``.

    Args:
        logits: (K, N) class scores, float32 on the CPU.
        kernels: kernels over the same points.
        weights: (M,), one for each kernel.
        compatibility: None for Potts, (K,) or (K, K).
        iterations: number of mean-field steps.
        merge_threshold: see ``densecrf.DenseCRF``.
        convergence_tolerance: see ``densecrf.DenseCRF``.
        threads: number of threads.

    Returns:
        (K, N) marginals.
    """
    mu = None if compatibility is None else compatibility.detach().numpy()
    field = lattice.MeanField(
        -logits.detach().numpy(),
        kernels,
        message_strengths(weights.tolist(), mu, len(logits)),
        merge_threshold=merge_threshold,
        convergence_tolerance=convergence_tolerance,
        threads=threads,
    )
    field.run(iterations)
    return torch.from_numpy(field.finish())


class _Held:
    """Kernels that a graph of torch keeps.

    When Python ends, torch no longer frees the graphs that are left, and nanobind would call their kernels
    leaked. So the kernels are let go before.
    """

    _all: ClassVar[weakref.WeakSet[_Held]] = weakref.WeakSet()

    def __init__(self, kernels: Sequence[lattice.Kernel]):
        self.kernels = list(kernels)
        self._all.add(self)

    @classmethod
    def release_all(cls) -> None:
        """Let all kernels go."""
        for held in cls._all:
            held.kernels.clear()


atexit.register(_Held.release_all)


class _Messages(torch.autograd.Function):
    """Messages whose gradient is each kernel's transpose: splat and slice, and the blurs in reverse order."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, weights: torch.Tensor, kernels: list[lattice.Kernel], threads: int
    ) -> torch.Tensor:
        values = values.contiguous()
        ctx.save_for_backward(values, weights)
        ctx.kernels = _Held(kernels)
        ctx.threads = threads
        out, _ = lattice.weighted_messages(kernels, weights.tolist(), values.numpy(), threads=threads)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
        values, weights = ctx.saved_tensors
        factors = values.numpy() if ctx.needs_input_grad[1] else None
        to_values, products = lattice.weighted_messages(
            ctx.kernels.kernels,
            weights.tolist(),
            grad.contiguous().numpy(),
            factors=factors,
            transposed=True,
            threads=ctx.threads,
        )
        to_weights = None if factors is None else torch.tensor(products)
        return torch.from_numpy(to_values), to_weights, None, None
