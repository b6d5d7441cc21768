"""The CRF over photos, volumes and video as an ``nn.Module``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache, partial

import torch
from torch import nn

from densecrf import crf as face
from densecrf import lattice
from densecrf.kernels import Gaussian
from densecrf.params import Params
from densecrf.threads import thread_count
from densecrf.torch.kernel import Kernel, Rows, mean_field
from densecrf.torch.native import Messages, pooled_marginals

BACKENDS = ("auto", "native", "torch", "exact")
AnyKernel = Kernel | lattice.Kernel


class DenseCRF(nn.Module):
    """A fully connected CRF with an appearance and a smoothness kernel; the same numbers as
    ``densecrf.refine``.

    Learns by gradient: ``weights`` (appearance, smoothness), ``compatibility`` if given, and, once
    ``crf.log_widths.requires_grad_()`` was called, the widths. Gradients reach the logits always.

    What is differentiable where:

    ========  ================  ==============================  =============================
    ======================= backend   device, type      logits, weights, compatibility  widths, image
            cost ========  ================  ==============================  =============================
            =======================
    native    CPU, float32      yes, the lattice's own adjoint  no                             linear in
    pixels torch     any, float32/64   yes, the lattice's own adjoint  through barycentric weights    linear,
    about 4 × native exact     any, float32/64   yes                             yes
     quadratic in pixels ========  ================  ==============================
     =============================  =======================

    On a GPU with Triton the lattice's steps and the exact filter are kernels of their own (``fused``); the
    exact filter then leaves out pairs of points that are too far apart to count. The smoothness kernel of
    "exact" is a product of small matrices, one for each axis (``Grid``), on any device.

    "auto" is native on the CPU, where widths and image ask for no gradient and logits are no float64; else
    torch. There are no gradients of gradients. Under autocast, and for half-precision logits, all is computed
    in float32. ``torch.compile`` leaves this module as it is, between breaks of the graph: a lattice's size
    depends on the photo, so there is nothing to compile ahead. Two runs on the CPU give the same bits.

    Args:
        params: weights and widths to begin with, and the normalisation; a kernel of weight 0 is left out for
            good.
        compatibility: μ: None is Potts; (K,) how strongly each label attracts itself; (K, K) penalties for
            pairs [label, other label]. What is given becomes a parameter that learns.
        include_self: whether a pixel's own belief is part of its message.
        iterations: mean-field steps.
        marginals: whether the result is marginals or their logits.
        backend: "auto", "native", "torch" or "exact", see above.
        spacing: of pixels along each axis of the image, (H, W) first to last; 1 by default. For voxels of
            unlike sides, and for video, where it says how many pixels a frame counts as.
        merge_threshold: see ``densecrf.DenseCRF``, as is ``convergence_tolerance``. Unlike there 0 by
            default, which gives the same numbers with gradients and without; more has an effect only on
            marginals by the native lattice without gradients.
        threads: how many the native lattice uses; by default as many as this process may run on.

    Raises:
        ValueError: for unknown options, or a compatibility of another shape.

    Source: DeepLab, section 3.3; Zheng et al. 2015 (CRF as RNN).
    """

    def __init__(
        self,
        params: Params | None = None,
        *,
        compatibility: torch.Tensor | Sequence[float] | Sequence[Sequence[float]] | None = None,
        include_self: bool = True,
        iterations: int = 10,
        marginals: bool = False,
        backend: str = "auto",
        spacing: Sequence[float] | None = None,
        merge_threshold: float = 0.0,
        convergence_tolerance: float = 0.0,
        threads: int | None = None,
    ):
        super().__init__()
        params = params or Params()
        if backend not in BACKENDS:
            raise ValueError(f"got backend {backend!r}, wanted one of: {', '.join(BACKENDS)}")
        if iterations < 0:
            raise ValueError(f"got {iterations} iterations, wanted at least 0")
        if not (0 <= merge_threshold < 1 and 0 <= convergence_tolerance < 1):
            raise ValueError(
                f"got merge_threshold = {merge_threshold} and convergence_tolerance = {convergence_tolerance}, wanted at least 0 and under 1"
            )
        if spacing is not None and not all(math.isfinite(step) and step > 0 for step in spacing):
            raise ValueError(f"got spacing {tuple(spacing)}, wanted finite numbers above 0")
        self.normalization, self.include_self, self.iterations = (
            params.normalization,
            include_self,
            iterations,
        )
        self.marginals, self.backend, self.merge_threshold, self.convergence_tolerance = (
            marginals,
            backend,
            merge_threshold,
            convergence_tolerance,
        )
        self.spacing = None if spacing is None else tuple(float(step) for step in spacing)
        self.threads = thread_count(threads)
        self.weights = nn.Parameter(
            torch.tensor([params.appearance_weight, params.smoothness_weight], dtype=torch.float32)
        )
        widths = [params.appearance_xy_std, params.appearance_rgb_std, params.smoothness_xy_std]
        self.register_buffer("first_widths", torch.tensor(widths, dtype=torch.float32))
        self.log_widths = nn.Parameter(torch.zeros(3), requires_grad=False)
        self._present = [params.appearance_weight > 0, params.smoothness_weight > 0]
        self.compatibility: nn.Parameter | None = None
        if compatibility is not None:
            values = torch.as_tensor(compatibility).detach().clone().float()
            if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[0] != values.shape[1]):
                raise ValueError(f"got compatibility {tuple(values.shape)}, wanted (K,) or (K, K)")
            self.compatibility = nn.Parameter(values)

    first_widths: torch.Tensor
    """(3,): appearance_xy_std, appearance_rgb_std, smoothness_xy_std at the beginning; now ×
    exp(log_widths)."""

    def params(self) -> Params:
        """The weights and widths as they are now, for ``densecrf.refine`` and for files.

        Raises:
            ValueError: if a weight has become negative.
        """
        weights = self.weights.tolist()
        return Params(
            appearance_weight=weights[0] * self._present[0],
            appearance_xy_std=self._width(0),
            appearance_rgb_std=self._width(1),
            smoothness_weight=weights[1] * self._present[1],
            smoothness_xy_std=self._width(2),
            normalization=self.normalization,
        )

    def forward(self, image: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Logits made consistent with the edges of the images they belong to.

        Args:
            image: (B, C, H, W) in 0–255 levels, or any C features with ``appearance_rgb_std`` for a width;
                more axes than two for volumes and video, (B, C, D, H, W).
            logits: (B, K, H, W) class scores, up to a constant for each pixel.

        Returns:
            Logits, or marginals if so asked for, of logits' shape, type and device.

        Raises:
            ValueError: for shapes or devices that do not fit, or gradients that the backend cannot give.
        """
        self._check(image, logits)
        on = torch.cuda.device(logits.device) if logits.is_cuda else nullcontext()
        with on, torch.autocast(logits.device.type, enabled=False):
            number = torch.float64 if logits.dtype == torch.float64 else torch.float32
            backend = self._backend(image, logits)
            scores, channels = logits.to(number).flatten(2), image.to(number).flatten(2)
            size = tuple(image.shape[2:])
            smoothness = (
                self._smoothness(size, scores, backend) if self._present[1] and logits.numel() else None
            )
            found = [
                self._infer(
                    score, [*self._appearance(size, colours, backend), *([smoothness] if smoothness else [])]
                )
                for colours, score in zip(channels, scores, strict=True)
                if logits.numel()
            ]
        return torch.stack(found).reshape(logits.shape).to(logits.dtype) if found else logits.clone()

    def _smoothness(self, size: tuple[int, ...], like: torch.Tensor, backend: str) -> AnyKernel:
        options = (self.normalization, self.include_self)
        if backend == "exact":
            axes = self._axes(size, 2, like)
            return Kernel.of_grid(axes, normalization=self.normalization, include_self=self.include_self)
        moves = torch.is_grad_enabled() and self.log_widths.requires_grad
        if backend == "torch" and (moves or math.prod(size) > face.GRID_POINTS_KEPT):
            return self._kernel(self._positions(size, 2, like), backend)
        stds = tuple(self._width(2) / step for step in self._steps(size))
        if backend == "torch":
            return _grid_lattice(size, stds, *options, like.device, like.dtype)
        if math.prod(size) <= face.GRID_POINTS_KEPT:  # as photos of a set often share their size
            return face._grid_kernel(Gaussian(size, stds), *options, 0, self.threads)
        return lattice.Kernel(Gaussian(size, stds).features(), *options, threads=self.threads)

    def _appearance(self, size: tuple[int, ...], colours: torch.Tensor, backend: str) -> list[AnyKernel]:
        if not self._present[0]:
            return []
        scaled = colours.t() / self._widths(colours)[1]
        return [self._kernel(torch.cat([self._positions(size, 0, colours), scaled], dim=1), backend)]

    def _kernel(self, features: torch.Tensor, backend: str) -> AnyKernel:
        if backend == "native":
            array = features.detach().numpy()
            return lattice.Kernel(array, self.normalization, self.include_self, threads=self.threads)
        return Kernel(
            features, normalization=self.normalization, include_self=self.include_self, backend=backend
        )

    def _infer(self, scores: torch.Tensor, kernels: Sequence[AnyKernel]) -> torch.Tensor:
        """(K, N) logits to (K, N) results."""
        weights = self.weights[self._present].to(scores.dtype)
        mu = None if self.compatibility is None else self.compatibility.to(scores.dtype)
        native = [kernel for kernel in kernels if isinstance(kernel, lattice.Kernel)]
        others = [kernel for kernel in kernels if isinstance(kernel, Kernel)]
        saves = (
            (self.merge_threshold or self.convergence_tolerance)
            and self.marginals
            and (mu is None or mu.ndim == 1)
        )
        learns = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in (scores, *self.parameters())
        )
        if native and saves and not learns:
            return pooled_marginals(
                scores,
                native,
                weights,
                mu,
                self.iterations,
                merge_threshold=self.merge_threshold,
                convergence_tolerance=self.convergence_tolerance,
                threads=self.threads,
            )
        if others and self.backend != "exact" and not torch.is_grad_enabled():
            rows, rest = Rows(others, weights), scores.t().contiguous()
            current = rest
            for _ in range(self.iterations):
                current = rows.step(current, rest, mu)
            return (current.softmax(dim=1) if self.marginals else current).t()
        messages = Messages(weights, native, self.threads) if native else partial(_add_up, weights, others)
        found = mean_field(scores, messages, compatibility=mu, iterations=self.iterations if kernels else 0)
        return found.softmax(dim=0) if self.marginals else found

    def _widths(self, like: torch.Tensor) -> torch.Tensor:
        """(3,): appearance_xy_std, appearance_rgb_std, smoothness_xy_std."""
        return (self.first_widths * self.log_widths.exp()).to(like.dtype)

    def _width(self, which: int) -> float:
        return self.first_widths[which].item() * math.exp(self.log_widths[which].item())

    def _steps(self, size: tuple[int, ...]) -> tuple[float, ...]:
        return self.spacing or (1.0,) * len(size)

    def _positions(self, size: tuple[int, ...], width: int, like: torch.Tensor) -> torch.Tensor:
        """(N, axes): places divided by a width, the last axis first, as in ``densecrf.Gaussian``."""
        return _all_places(self._axes(size, width, like))

    def _axes(self, size: tuple[int, ...], width: int, like: torch.Tensor) -> list[torch.Tensor]:
        """Places along each axis divided by a width."""
        std = self._widths(like)[width]
        return [
            torch.arange(count, dtype=like.dtype, device=like.device) * step / std
            for count, step in zip(size, self._steps(size), strict=True)
        ]

    def _backend(self, image: torch.Tensor, logits: torch.Tensor) -> str:
        """The backend that is used for these."""
        moves = torch.is_grad_enabled() and (image.requires_grad or self.log_widths.requires_grad)
        can = logits.device.type == "cpu" and not moves and logits.dtype != torch.float64
        if self.backend == "native" and not can:
            raise ValueError(
                f"got backend 'native' for {logits.dtype} on {logits.device}"
                f"{' with gradients to widths or image' if moves else ''}, wanted float32 on the CPU and gradients to "
                "logits, weights and compatibility alone; use backend 'auto', 'torch' or 'exact'"
            )
        return ("native" if can else "torch") if self.backend == "auto" else self.backend

    def _check(self, image: torch.Tensor, logits: torch.Tensor) -> None:
        fits = (
            image.ndim == logits.ndim >= 3
            and image.shape[0] == logits.shape[0]
            and image.shape[2:] == logits.shape[2:]
        )
        if not fits or not logits.is_floating_point() or image.is_complex():
            raise ValueError(
                f"got an image {tuple(image.shape)} of {image.dtype} and logits {tuple(logits.shape)} of "
                f"{logits.dtype}, wanted (B, C, H, W) real numbers and (B, K, H, W) floats"
            )
        if len({image.device, logits.device, self.weights.device}) > 1:
            raise ValueError(
                f"got an image on {image.device}, logits on {logits.device} and a CRF on {self.weights.device}, wanted "
                "one device"
            )
        if self.spacing is not None and len(self.spacing) != image.ndim - 2:
            raise ValueError(
                f"got spacing {self.spacing} for {image.ndim - 2} axes, wanted a number for each"
            )
        if self.compatibility is not None and self.compatibility.shape[0] != logits.shape[1]:
            raise ValueError(
                f"got compatibility {tuple(self.compatibility.shape)} and {logits.shape[1]} labels, wanted as many"
            )


def _add_up(weights: torch.Tensor, kernels: Sequence[Kernel], marginals: torch.Tensor) -> torch.Tensor:
    total = torch.zeros_like(marginals)
    for weight, kernel in zip(weights, kernels, strict=True):
        total = total + weight * kernel(marginals)
    return total


def _all_places(axes: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([grid.flatten() for grid in torch.meshgrid(*axes, indexing="ij")[::-1]], dim=1)


@lru_cache(maxsize=2)
def _grid_lattice(
    size: tuple[int, ...],
    stds: tuple[float, ...],
    normalization: str,
    include_self: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> Kernel:
    """A smoothness kernel; the last two are kept, as photos of a set often share their size."""
    with torch.inference_mode(False), torch.no_grad():
        axes = [torch.arange(n, dtype=dtype, device=device) / std for n, std in zip(size, stds, strict=True)]
        return Kernel(_all_places(axes), normalization=normalization, include_self=include_self)
