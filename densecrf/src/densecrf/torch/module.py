"""The CRF over photos, volumes and video as an ``nn.Module``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn

from densecrf import lattice, pairwise
from densecrf.kernels import Gaussian
from densecrf.params import Params
from densecrf.threads import thread_count, whole_number
from densecrf.torch.grid import grid_positions
from densecrf.torch.inference import FusedMessages, mean_field, sum_messages
from densecrf.torch.kernel import Kernel, grid_kernel
from densecrf.torch.native import Messages, infer_marginals
from densecrf.validation import fraction, one_of, positive_number

MAX_WEIGHT = 1e20
"""Largest weight; messages times it stay finite in float32."""
BACKENDS = ("auto", "native", "torch", "exact")
AnyKernel = Kernel | lattice.Kernel


class DenseCRF(nn.Module):
    """A fully connected CRF with an appearance and a smoothness kernel, as ``densecrf.refine`` has them.

    The following learn by gradient: ``weights`` (appearance, smoothness), ``compatibility`` if it is given,
    and the widths after ``crf.log_widths.requires_grad_()``. Gradients always reach the logits.

    What is differentiable, by backend:

    =======  ===============  ==============================  ===========================  ===================
    backend  device, type     logits, weights, compatibility  widths, image                cost
    =======  ===============  ==============================  ===========================  ===================
    native   CPU, float32     yes, the lattice's own adjoint  no                           linear in pixels
    torch    any, float32/64  yes, the lattice's own adjoint  through barycentric weights  about 4 × native
    exact    any, float32/64  yes                             yes                          quadratic in pixels
    =======  ===============  ==============================  ===========================  ===================

    On a GPU with Triton, the steps of the lattice and the exact filter are Triton kernels (``fused``). The
    exact filter then skips pairs of points that are too far apart to matter. The smoothness kernel of "exact"
    is a product of small matrices, one for each axis (``Grid``), on any device.

    "auto" means native on the CPU if widths and image need no gradient and logits are not float64, else
    torch. There are no second derivatives. Under autocast, and for half-precision logits, the computation is
    in float32. ``torch.compile`` breaks the graph around this module and runs it as it is, since the size of
    a lattice depends on the photo. Two runs on the CPU give the same bits.

    Args:
        params: initial weights and widths, and the normalisation; a kernel of weight 0 is left out for good.
        compatibility: initial μ: None is Potts and does not learn; (K,) how strongly each label attracts
            itself; (K, K) penalties for pairs [label, other label].
        include_self: whether a pixel's own belief is part of its message.
        iterations: number of mean-field steps.
        marginals: whether the result is marginals or their logits.
        backend: "auto", "native", "torch" or "exact", see above.
        spacing: distance of pixels along each axis of the image, in the order of its shape; 1 by default. For
            anisotropic voxels, and for video, where it says how many pixels a frame counts as.
        merge_threshold: see ``densecrf.DenseCRF``; unlike there 0 by default, so that results with and
            without gradients are the same. It has an effect only on marginals by the native lattice without
            gradients.
        convergence_tolerance: see ``merge_threshold``.
        threads: maximum number of threads of the native lattice; by default one for each processor that this
            process may use.

    Raises:
        TypeError: for numbers of another type.
        ValueError: for unknown options, a compatibility of another shape, or weights over 1e20.

    Source: DeepLab, section 3.3; Zheng et al. 2015 (CRF as RNN).
    """

    first_widths: torch.Tensor
    """(3,): initial appearance_xy_std, appearance_rgb_std, smoothness_xy_std; multiply by exp(log_widths)."""

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
        params = _checked_params(params)
        self.normalization = params.normalization
        self.include_self = include_self
        self.iterations = whole_number("iterations", iterations)
        self.marginals = marginals
        self.backend = one_of("backend", backend, BACKENDS)
        self.spacing = _checked_spacing(spacing)
        self.merge_threshold = fraction("merge_threshold", merge_threshold)
        self.convergence_tolerance = fraction("convergence_tolerance", convergence_tolerance)
        self.threads = thread_count(threads)
        weights = [params.appearance_weight, params.smoothness_weight]
        self._has_kernel = [weight > 0 for weight in weights]
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32))
        widths = [params.appearance_xy_std, params.appearance_rgb_std, params.smoothness_xy_std]
        self.register_buffer("first_widths", torch.tensor(widths, dtype=torch.float32))
        self.log_widths = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.compatibility: nn.Parameter | None = None
        if compatibility is not None:
            values = torch.as_tensor(compatibility).detach().clone().float()
            if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[0] != values.shape[1]):
                raise ValueError(f"got compatibility {tuple(values.shape)}, wanted (K,) or (K, K)")
            self.compatibility = nn.Parameter(values)

    def params(self) -> Params:
        """The current weights and widths, for ``densecrf.refine`` and for files.

        Raises:
            ValueError: if a weight has become negative.
        """
        weights = self.weights.tolist()
        return Params(
            appearance_weight=weights[0] * self._has_kernel[0],
            appearance_xy_std=self._width(0),
            appearance_rgb_std=self._width(1),
            smoothness_weight=weights[1] * self._has_kernel[1],
            smoothness_xy_std=self._width(2),
            normalization=self.normalization,
        )

    def forward(self, image: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Make logits consistent with the edges of the images they belong to.

        Args:
            image: (B, C, H, W) in 0–255 levels, or any C features whose standard deviation is
                ``appearance_rgb_std``; more than two axes for volumes and video, (B, C, D, H, W).
            logits: (B, K, H, W) class scores, up to a constant for each pixel.

        Returns:
            Logits, or marginals if the module is set to give them, of logits' shape, type and device.

        Raises:
            TypeError: for arguments that are not tensors.
            ValueError: for shapes or devices that do not fit, or gradients that the backend cannot give.
        """
        self._check(image, logits)
        if not logits.numel():
            return logits.clone()
        gpu = torch.cuda.device(logits.device) if logits.is_cuda else nullcontext()
        with gpu, torch.autocast(logits.device.type, enabled=False):
            dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
            backend = self._backend_for(image, logits)
            scores = logits.to(dtype).flatten(2)
            channels = image.to(dtype).flatten(2)
            size = tuple(image.shape[2:])
            smoothness = [self._smoothness(size, scores, backend)] if self._has_kernel[1] else []
            results = []
            for colours, one in zip(channels, scores, strict=True):
                appearance = [self._appearance(size, colours, backend)] if self._has_kernel[0] else []
                results.append(self._infer(one, [*appearance, *smoothness]))
        return torch.stack(results).reshape(logits.shape).to(logits.dtype)

    def _smoothness(self, size: tuple[int, ...], like: torch.Tensor, backend: str) -> AnyKernel:
        """The smoothness kernel of images of a size, in the type of ``like`` and on its device."""
        options = (self.normalization, self.include_self)
        if backend == "exact":
            axes = self._axes(size, 2, like)
            return Kernel.of_grid(axes, normalization=self.normalization, include_self=self.include_self)
        is_small = math.prod(size) <= pairwise.MAX_CACHED_POINTS
        learns_width = torch.is_grad_enabled() and self.log_widths.requires_grad
        if backend == "torch" and (learns_width or not is_small):
            return self._kernel(grid_positions(self._axes(size, 2, like)), backend)
        stds = tuple(self._width(2) / step for step in self._spacing_for(size))
        if backend == "torch":
            return grid_kernel(size, stds, *options, like.device, like.dtype)
        grid = Gaussian(size, stds)
        if is_small:
            return pairwise.grid_kernel(grid, *options, 0, self.threads)
        return lattice.Kernel(grid.features(), *options, threads=self.threads)

    def _appearance(self, size: tuple[int, ...], colours: torch.Tensor, backend: str) -> AnyKernel:
        """The appearance kernel of an image (C, N)."""
        positions = grid_positions(self._axes(size, 0, colours))
        scaled = colours.t() / self._widths(colours)[1]
        return self._kernel(torch.cat([positions, scaled], dim=1), backend)

    def _kernel(self, features: torch.Tensor, backend: str) -> AnyKernel:
        if backend == "native":
            array = features.detach().numpy()
            return lattice.Kernel(array, self.normalization, self.include_self, threads=self.threads)
        return Kernel(
            features, normalization=self.normalization, include_self=self.include_self, backend=backend
        )

    def _infer(self, scores: torch.Tensor, kernels: Sequence[AnyKernel]) -> torch.Tensor:
        """(K, N) logits to (K, N) results."""
        weights = self.weights[self._has_kernel].to(scores.dtype)
        mu = None if self.compatibility is None else self.compatibility.to(scores.dtype)
        native = [kernel for kernel in kernels if isinstance(kernel, lattice.Kernel)]
        others = [kernel for kernel in kernels if isinstance(kernel, Kernel)]
        if native and self._approximates(scores):
            return infer_marginals(
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
            fused = FusedMessages(others, weights)
            rows = scores.t().contiguous()
            current = rows
            for _ in range(self.iterations):
                current = fused.step(current, rows, mu)
            return (current.softmax(dim=1) if self.marginals else current).t()
        messages = (
            Messages(weights, native, self.threads) if native else partial(sum_messages, weights, others)
        )
        iterations = self.iterations if kernels else 0
        logits = mean_field(scores, messages, compatibility=mu, iterations=iterations)
        return logits.softmax(dim=0) if self.marginals else logits

    def _approximates(self, scores: torch.Tensor) -> bool:
        """Whether merge threshold and convergence tolerance apply: to marginals without gradients."""
        is_asked = bool(self.merge_threshold or self.convergence_tolerance) and self.marginals
        is_diagonal = self.compatibility is None or self.compatibility.ndim == 1
        tensors = (scores, *self.parameters())
        needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        return is_asked and is_diagonal and not needs_gradient

    def _widths(self, like: torch.Tensor) -> torch.Tensor:
        """(3,): appearance_xy_std, appearance_rgb_std, smoothness_xy_std, differentiable."""
        return (self.first_widths * self.log_widths.exp()).to(like.dtype)

    def _width(self, index: int) -> float:
        """One of the widths as a number."""
        return self.first_widths[index].item() * math.exp(self.log_widths[index].item())

    def _spacing_for(self, size: tuple[int, ...]) -> tuple[float, ...]:
        return self.spacing or (1.0,) * len(size)

    def _axes(self, size: tuple[int, ...], width: int, like: torch.Tensor) -> list[torch.Tensor]:
        """Positions along each axis, divided by one of the widths."""
        std = self._widths(like)[width]
        return [
            torch.arange(count, dtype=like.dtype, device=like.device) * step / std
            for count, step in zip(size, self._spacing_for(size), strict=True)
        ]

    def _backend_for(self, image: torch.Tensor, logits: torch.Tensor) -> str:
        """The backend for these tensors; ValueError if it is "native" and cannot serve them."""
        differentiates = torch.is_grad_enabled() and (image.requires_grad or self.log_widths.requires_grad)
        is_native = logits.device.type == "cpu" and not differentiates and logits.dtype != torch.float64
        if self.backend == "native" and not is_native:
            reason = " with gradients to widths or image" if differentiates else ""
            raise ValueError(
                f"got backend 'native' for {logits.dtype} on {logits.device}{reason}, wanted float32 on the "
                "CPU and gradients to logits, weights and compatibility alone; use backend 'auto', 'torch' "
                "or 'exact'"
            )
        return ("native" if is_native else "torch") if self.backend == "auto" else self.backend

    def _check(self, image: torch.Tensor, logits: torch.Tensor) -> None:
        """Raise an error for arguments of ``forward`` that do not fit."""
        for name, tensor in (("image", image), ("logits", logits)):
            if not isinstance(tensor, torch.Tensor):
                raise TypeError(f"got {name} of type {type(tensor).__name__}, wanted a tensor")
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
                f"got an image on {image.device}, logits on {logits.device} and a CRF on "
                f"{self.weights.device}, wanted one device"
            )
        if self.spacing is not None and len(self.spacing) != image.ndim - 2:
            raise ValueError(
                f"got spacing {self.spacing} for {image.ndim - 2} axes, wanted a number for each"
            )
        if self.compatibility is not None and self.compatibility.shape[0] != logits.shape[1]:
            raise ValueError(
                f"got compatibility {tuple(self.compatibility.shape)} and {logits.shape[1]} labels, "
                "wanted one size"
            )


def _checked_params(params: Params | None) -> Params:
    if params is None:
        return Params()
    if not isinstance(params, Params):
        raise TypeError(f"got params = {params!r}, wanted densecrf.Params or None")
    if isinstance(params.appearance_rgb_std, tuple):
        raise ValueError(
            f"got appearance_rgb_std = {params.appearance_rgb_std}, wanted one number, as this module "
            "learns one width; divide each channel of the images by its own and pass 1"
        )
    for name in ("appearance_weight", "smoothness_weight"):
        if getattr(params, name) > MAX_WEIGHT:
            raise ValueError(f"got {name} = {getattr(params, name)}, wanted at most {MAX_WEIGHT}")
    return params


def _checked_spacing(spacing: Sequence[float] | None) -> tuple[float, ...] | None:
    if spacing is None:
        return None
    try:
        steps = tuple(spacing)
    except TypeError:
        raise TypeError(f"got spacing = {spacing!r}, wanted a number for each axis of the image") from None
    return tuple(float(positive_number("spacing", step)) for step in steps)
