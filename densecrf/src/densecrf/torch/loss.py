"""The dense CRF loss: a regulariser that makes a network's probabilities follow the edges of its images."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn

from densecrf import lattice
from densecrf.threads import thread_count
from densecrf.torch.grid import grid_positions
from densecrf.torch.kernel import Kernel
from densecrf.torch.native import Messages
from densecrf.validation import one_of, positive_number, real_number

BACKENDS = ("auto", "native", "torch", "exact")


class DenseCRFLoss(nn.Module):
    """Regularised loss for weak supervision, with the arguments and the numbers of rloss.

    For probabilities S_k (N pixels) of B images, with a Gaussian kernel W over position and colour, it is

        loss = −weight / B · Σ_images Σ_k (R ∘ S_k)ᵀ W (R ∘ S_k).

    That is the relaxed CRF energy Σ_k S_kᵀ W (1 − S_k) up to Σ_k S_kᵀ W 1, which is constant in S as far as W
    is symmetric, as Σ_k S_k = 1. R is the region of interest. The kernel is not normalised, so the loss grows
    with the number of pixels and neighbours; that is why rloss uses weights such as 2e-9. The loss is
    negative.

    Add it to a cross entropy over the labelled pixels (scribbles, points, boxes). Gradients reach the
    probabilities, not the images; there are no second derivatives.

    =======  ===============  ==========================================================
    backend  device, type     kernel
    =======  ===============  ==========================================================
    native   CPU, float32     permutohedral lattice, as in rloss
    torch    any, float32/64  the same lattice
    exact    any, float32/64  exact Gaussian, quadratic in the number of pixels
    =======  ===============  ==========================================================

    "auto" means native on the CPU for float32, else torch. The gradient is that of the computed loss,
    −weight / B · (W + Wᵀ) S with the lattice's own transpose. rloss takes −2 · weight / B · W S, which
    differs slightly, as a lattice is not quite symmetric. Half precision is computed in float32.

    The lattice is that of pydensecrf and rloss, so weights can be taken over from there. Its kernel is
    smaller than the exact one: on four photos of 128×96 and four pairs of widths from 15/100 to 60/20 the
    loss is 0.49 to 0.61 of the exact one, and after a common factor the gradients differ by 6 to 11 % of
    their norm.

    Args:
        weight: factor of the loss.
        sigma_rgb: standard deviation in levels of the image.
        sigma_xy: standard deviation in pixels of the image before scaling.
        scale_factor: factor by which image, probabilities and region are resized first; rloss uses 0.5. The
            image and the region by the nearest pixel, the probabilities bilinearly.
        backend: "auto", "native", "torch" or "exact", see above.
        threads: maximum number of threads of the native lattice; by default one for each processor that this
            process may use.

    Raises:
        TypeError: for numbers of another type.
        ValueError: for widths or a scale factor that are not above 0, a weight that is not finite, or an
            unknown backend.

    Source: Tang et al., On Regularized Losses for Weakly-supervised CNN Segmentation, ECCV 2018; its program
    rloss, DenseCRFLoss.py.
    """

    def __init__(
        self,
        weight: float,
        sigma_rgb: float,
        sigma_xy: float,
        scale_factor: float = 1.0,
        *,
        backend: str = "auto",
        threads: int | None = None,
    ):
        super().__init__()
        self.weight = real_number("weight", weight)
        if not abs(self.weight) < float("inf"):
            raise ValueError(f"got weight = {self.weight}, wanted a finite number")
        self.sigma_rgb = positive_number("sigma_rgb", sigma_rgb)
        self.sigma_xy = positive_number("sigma_xy", sigma_xy)
        self.scale_factor = positive_number("scale_factor", scale_factor)
        self.backend = one_of("backend", backend, BACKENDS)
        self.threads = thread_count(threads)

    def extra_repr(self) -> str:
        """The arguments, as ``print`` shows them."""
        return (
            f"weight={self.weight}, sigma_rgb={self.sigma_rgb}, sigma_xy={self.sigma_xy}, "
            f"scale_factor={self.scale_factor}, backend={self.backend!r}"
        )

    def forward(
        self, images: torch.Tensor, probabilities: torch.Tensor, region: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the loss.

        Args:
            images: (B, C, H, W) in 0–255 levels, not normalised.
            probabilities: (B, K, H, W) floats, the softmax of a network's scores.
            region: (B, H, W) region of interest, 1 or true where pixels count, e.g. 0 on padding; by default
                all count.

        Returns:
            The loss, a tensor without axes (rloss: of shape (1,)), float64 for float64, else float32.

        Raises:
            TypeError: for arguments that are not tensors.
            ValueError: for shapes, types or devices that do not fit, or values that are not finite.
        """
        _check(images, probabilities, region)
        dtype = torch.float64 if probabilities.dtype == torch.float64 else torch.float32
        backend = self._backend_for(probabilities, dtype)
        gpu = torch.cuda.device(probabilities.device) if probabilities.is_cuda else nullcontext()
        with gpu, torch.autocast(probabilities.device.type, enabled=False):
            photos, values = self._scaled(images.detach().to(dtype), probabilities.to(dtype), region)
            energies = [
                self._agreement(photo, one, backend) for photo, one in zip(photos, values, strict=True)
            ]
            total = torch.stack(energies).sum() if energies else values.sum()
        return -self.weight / max(1, len(energies)) * total

    def _scaled(
        self, images: torch.Tensor, probabilities: torch.Tensor, region: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images, and probabilities within the region of interest, resized by the scale factor."""
        if region is not None:
            region = region.to(probabilities.dtype)[:, None]
        if self.scale_factor != 1:
            if min(images.shape[2:]) * self.scale_factor < 1:
                raise ValueError(
                    f"got images {tuple(images.shape)} and scale_factor = {self.scale_factor}, wanted at "
                    "least one pixel after scaling"
                )
            images = F.interpolate(images, scale_factor=self.scale_factor)
            probabilities = F.interpolate(
                probabilities, scale_factor=self.scale_factor, mode="bilinear", align_corners=False
            )
            region = None if region is None else F.interpolate(region, scale_factor=self.scale_factor)
        return images, probabilities if region is None else probabilities * region

    def _agreement(self, image: torch.Tensor, values: torch.Tensor, backend: str) -> torch.Tensor:
        """Σ_k S_kᵀ W S_k of one image (C, H, W) and its values (K, H, W)."""
        height, width = image.shape[1:]
        std = self.sigma_xy * self.scale_factor
        axes = [torch.arange(n, dtype=image.dtype, device=image.device) / std for n in (height, width)]
        colours = image.flatten(1).t() / self.sigma_rgb
        features = torch.cat([grid_positions(axes), colours], dim=1)
        rows = values.flatten(1)
        if not rows.numel():
            return rows.sum()
        if backend == "native":
            kernel = lattice.Kernel(features.numpy(), "none", True, threads=self.threads)
            messages = Messages(torch.ones(1), [kernel], self.threads)(rows)
        else:
            messages = Kernel(features, normalization="none", backend=backend)(rows)
        return (rows * messages).sum()

    def _backend_for(self, probabilities: torch.Tensor, dtype: torch.dtype) -> str:
        """The backend for a tensor; ValueError if it is "native" and cannot serve it."""
        is_native = probabilities.device.type == "cpu" and dtype == torch.float32
        if self.backend == "native" and not is_native:
            raise ValueError(
                f"got backend 'native' for {probabilities.dtype} on {probabilities.device}, wanted float32 "
                "on the CPU; use backend 'auto', 'torch' or 'exact'"
            )
        return ("native" if is_native else "torch") if self.backend == "auto" else self.backend


def _check(images: torch.Tensor, probabilities: torch.Tensor, region: torch.Tensor | None) -> None:
    """Raise an error for arguments of ``forward`` that do not fit."""
    named = {"images": images, "probabilities": probabilities}
    if region is not None:
        named["region"] = region
    for name, tensor in named.items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"got {name} of type {type(tensor).__name__}, wanted a tensor")
    size = (len(images), *images.shape[2:])
    fits = images.ndim == probabilities.ndim == 4 and (len(probabilities), *probabilities.shape[2:]) == size
    if not fits or not probabilities.is_floating_point() or images.is_complex():
        raise ValueError(
            f"got images {tuple(images.shape)} of {images.dtype} and probabilities "
            f"{tuple(probabilities.shape)} of {probabilities.dtype}, wanted (B, C, H, W) real numbers and "
            "(B, K, H, W) floats"
        )
    if region is not None and tuple(region.shape) != size:
        raise ValueError(f"got a region {tuple(region.shape)}, wanted (B, H, W) = {size}")
    if len({tensor.device for tensor in named.values()}) > 1:
        devices = ", ".join(f"{name} on {tensor.device}" for name, tensor in named.items())
        raise ValueError(f"got {devices}, wanted one device")
    for name in ("images", "probabilities"):
        if not bool(torch.isfinite(named[name].detach()).all()):
            raise ValueError(f"got {name} that are NaN or infinite, wanted finite numbers")
