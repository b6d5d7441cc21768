"""pydensecrf's helpers, by their names and with their arguments."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike

from densecrf import unary
from densecrf.kernels import checked_std


def unary_from_labels(
    labels: ArrayLike, n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> np.ndarray:
    """Energies (K, N) float32 of a label map that is right with probability ``gt_prob``.

    With ``zero_unsure``, 0 means "could be anything" and labels count from 1; else labels count from 0.
    """
    ids = np.asarray(labels).ravel()
    if zero_unsure:
        return unary.unary_from_labels(ids.astype(np.int64) - 1, n_labels, confidence=gt_prob, ignore=-1)
    return unary.unary_from_labels(ids, n_labels, confidence=gt_prob)


def compute_unary(labels: ArrayLike, M: int, GT_PROB: float = 0.5) -> np.ndarray:
    """The old name of ``unary_from_labels``."""
    warnings.warn("compute_unary is deprecated, use unary_from_labels", DeprecationWarning, stacklevel=2)
    return unary_from_labels(labels, M, GT_PROB)


def unary_from_softmax(sm: ArrayLike, scale: float | None = None, clip: float | None = 1e-5) -> np.ndarray:
    """Energies (K, N) float32 of probabilities (K, …).

    ``scale`` in (0, 1] mixes in the uniform distribution; probabilities below ``clip`` count as that.
    """
    probabilities = unary.real_array("probabilities", sm)
    if scale is not None:
        if not 0 < scale <= 1:
            raise ValueError(f"got scale = {scale}, wanted a number above 0 and at most 1")
        probabilities = scale * probabilities + (1 - scale) / len(probabilities)
    if clip is not None:
        probabilities = np.clip(probabilities, clip, 1.0)
    return unary.unary_from_probabilities(probabilities.reshape(len(probabilities), -1), floor=1e-37)


def softmax_to_unary(sm: ArrayLike, GT_PROB: float = 1) -> np.ndarray:
    """The old name of ``unary_from_softmax``."""
    warnings.warn("softmax_to_unary is deprecated, use unary_from_softmax", DeprecationWarning, stacklevel=2)
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> np.ndarray:
    """Features (axes, N) float32 of positions on a grid of any number of axes, divided by ``sdims``."""
    if len(sdims) != len(shape):
        raise ValueError(f"got {len(sdims)} widths for a shape of {len(shape)} axes, wanted one for each")
    axes = [np.arange(n) / checked_std("sdims", float(std)) for n, std in zip(shape, sdims, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).reshape(len(axes), -1).astype(np.float32)


def create_pairwise_bilateral(
    sdims: Sequence[float], schan: float | Sequence[float], img: ArrayLike, chdim: int = -1
) -> np.ndarray:
    """Features (axes + channels, N) float32 of positions and levels; ``chdim`` is the channels' axis, −1 for
    none."""
    image = unary.real_array("image levels", img)
    channels = image[None] if chdim == -1 else np.moveaxis(image, chdim, 0)
    stds = (schan,) * len(channels) if isinstance(schan, Real) else tuple(schan)  # type: ignore[arg-type]
    if len(stds) != len(channels):
        raise ValueError(f"got {len(stds)} widths for {len(channels)} channels, wanted one for each")
    scale = np.array([checked_std("schan", float(std)) for std in stds], np.float32)
    levels = channels.reshape(len(channels), -1) / scale[:, None]
    return np.concatenate([create_pairwise_gaussian(sdims, channels.shape[1:]), levels.astype(np.float32)])
