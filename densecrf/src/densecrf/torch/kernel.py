"""One pairwise term: a Gaussian over points, with normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from densecrf.params import NORMALIZATIONS
from densecrf.torch.attention import Attention
from densecrf.torch.grid import Grid, grid_positions
from densecrf.torch.lattice import Lattice
from densecrf.validation import one_of

MIN_ROW_SUM = 1e-5
"""A point whose row of the kernel matrix sums to at most this has no neighbours and gets no message."""


class Kernel:
    """A Gaussian over any features with normalisation: ``densecrf.lattice.Kernel`` on any device.

    Differentiable in features and values, float32 or float64.

    Args:
        features: (N, d), already divided by their standard deviations.
        normalization: see ``densecrf.Params.normalization``.
        include_self: whether a point's own value is part of its message.
        backend: "torch" for the permutohedral lattice or "exact".

    Raises:
        ValueError: for unknown options, or features whose range is too wide for the lattice.
    """

    gaussian: Lattice | Attention | Grid
    """The filter without normalisation."""
    scale_before: torch.Tensor | None
    """(N,) factors of the values before the filter; None for 1."""
    scale_after: torch.Tensor | None
    """(N,) factors of the filtered values; None for 1."""
    diagonal: torch.Tensor | None
    """(N,) what a point's own value contributes to its filtered value, which is left out; None keeps it."""

    def __init__(
        self,
        features: torch.Tensor,
        *,
        normalization: str = "symmetric",
        include_self: bool = True,
        backend: str = "torch",
    ):
        one_of("backend", backend, ("torch", "exact"))
        if features.ndim != 2 or features.shape[1] < 1 or not features.is_floating_point():
            raise ValueError(
                f"got features {tuple(features.shape)} of {features.dtype}, wanted (N, d) floats"
            )
        one_of("normalization", normalization, NORMALIZATIONS)
        gaussian = Lattice(features) if backend == "torch" else Attention(features)
        self._normalise(gaussian, features[:, 0], normalization, include_self)

    @classmethod
    def of_grid(
        cls, axes: Sequence[torch.Tensor], *, normalization: str = "symmetric", include_self: bool = True
    ) -> Kernel:
        """The exact kernel over a grid, with far less work than from the features of all its points.

        Args:
            axes: positions along each axis, see ``Grid``.
            normalization: see ``densecrf.Params.normalization``.
            include_self: whether a point's own value is part of its message.
        """
        one_of("normalization", normalization, NORMALIZATIONS)
        kernel = cls.__new__(cls)
        grid = Grid(axes)
        kernel._normalise(grid, grid.diagonal(), normalization, include_self)
        return kernel

    def _normalise(
        self, gaussian: Lattice | Attention | Grid, like: torch.Tensor, normalization: str, include_self: bool
    ) -> None:
        """Set the attributes; ``like`` (N,) has the type and device of the values."""
        self.gaussian = gaussian
        self.diagonal = None if include_self else gaussian.diagonal().to(like.dtype)
        self.scale_before = None
        self.scale_after = None
        if normalization == "none":
            return
        sums = gaussian.filter(torch.ones_like(like)[None])[0]
        if self.diagonal is not None:
            sums = sums - self.diagonal
        power = -0.5 if normalization == "symmetric" else -1.0
        scale = torch.where(sums > MIN_ROW_SUM, sums.clamp_min(MIN_ROW_SUM).pow(power), 0.0)
        self.scale_before = None if normalization == "after" else scale
        self.scale_after = None if normalization == "before" else scale

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """(v, N) to (v, N), each row filtered and normalised."""
        scaled = values if self.scale_before is None else values * self.scale_before
        message = self.gaussian.filter(scaled)
        if self.diagonal is not None:
            message = message - self.diagonal * scaled
        return message if self.scale_after is None else message * self.scale_after


@lru_cache(maxsize=2)
def grid_kernel(
    size: tuple[int, ...],
    stds: tuple[float, ...],
    normalization: str,
    include_self: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> Kernel:
    """The smoothness kernel of a grid by the lattice; the last two are cached, as photos often share a size.

    Args:
        size: number of points along each axis.
        stds: standard deviation along each axis, in steps of the grid.
        normalization: see ``densecrf.Params.normalization``.
        include_self: whether a point's own value is part of its message.
        device: device of the values.
        dtype: type of the values.
    """
    with torch.inference_mode(False), torch.no_grad():
        axes = [torch.arange(n, dtype=dtype, device=device) / std for n, std in zip(size, stds, strict=True)]
        return Kernel(grid_positions(axes), normalization=normalization, include_self=include_self)
