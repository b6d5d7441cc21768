"""The helper functions of pydensecrf, with the same names and arguments."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from densecrf import unary
from densecrf.validation import positive_number, positive_numbers


def unary_from_labels(
    labels: ArrayLike, n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> np.ndarray:
    """Unary energies of a label map that is right with a given probability.

    Args:
        labels: integers of any shape.
        n_labels: number of labels K.
        gt_prob: probability that a label is right.
        zero_unsure: whether 0 means "could be anything" and labels count from 1; else they count from 0.

    Returns:
        (K, N) float32 energies in nats.
    """
    ids = np.asarray(labels).ravel()
    if zero_unsure:
        return unary.unary_from_labels(ids.astype(np.int64) - 1, n_labels, confidence=gt_prob, ignore=-1)
    return unary.unary_from_labels(ids, n_labels, confidence=gt_prob)


def compute_unary(labels: ArrayLike, M: int, GT_PROB: float = 0.5) -> np.ndarray:
    """Deprecated name of ``unary_from_labels``.

    Args:
        labels: integers of any shape, 0 for "could be anything".
        M: number of labels K.
        GT_PROB: probability that a label is right.

    Returns:
        (K, N) float32 energies in nats.
    """
    warnings.warn("compute_unary is deprecated, use unary_from_labels", DeprecationWarning, stacklevel=2)
    return unary_from_labels(labels, M, GT_PROB)


def unary_from_softmax(sm: ArrayLike, scale: float | None = None, clip: float | None = 1e-5) -> np.ndarray:
    """Unary energies of class probabilities.

    Args:
        sm: (K, …) probabilities.
        scale: share of the probabilities in a mixture with the uniform distribution, above 0 and at most 1;
            None for no mixture.
        clip: minimum that a probability counts as; None for none.

    Returns:
        (K, N) float32 energies in nats.
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
    """Deprecated name of ``unary_from_softmax``, without clipping.

    Args:
        sm: (K, …) probabilities.
        GT_PROB: the ``scale`` of ``unary_from_softmax``; 1 for no mixture.

    Returns:
        (K, N) float32 energies in nats.
    """
    warnings.warn("softmax_to_unary is deprecated, use unary_from_softmax", DeprecationWarning, stacklevel=2)
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> np.ndarray:
    """Features of the positions on a grid.

    Args:
        sdims: standard deviation along each axis in pixels.
        shape: size of the grid along each axis.

    Returns:
        (axes, N) float32 positions divided by ``sdims``.
    """
    if len(sdims) != len(shape):
        raise ValueError(f"got {len(sdims)} widths for a shape of {len(shape)} axes, wanted one for each")
    axes = [np.arange(n) / positive_number("sdims", std) for n, std in zip(shape, sdims, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).reshape(len(axes), -1).astype(np.float32)


def create_pairwise_bilateral(
    sdims: Sequence[float], schan: float | Sequence[float], img: ArrayLike, chdim: int = -1
) -> np.ndarray:
    """Features of the positions and levels of an image.

    Args:
        sdims: standard deviation along each axis in pixels.
        schan: standard deviation in levels, a number or one for each channel.
        img: image of any real type.
        chdim: axis of the channels; −1 for an image without channels.

    Returns:
        (axes + channels, N) float32 positions and levels, divided by their standard deviations.
    """
    image = unary.real_array("image levels", img)
    channels = image[None] if chdim == -1 else np.moveaxis(image, chdim, 0)
    expected = f"one number, or one for each of {len(channels)} channels"
    scale = np.array(positive_numbers("schan", schan, len(channels), expected), np.float32)
    levels = channels.reshape(len(channels), -1) / scale[:, None]
    return np.concatenate([create_pairwise_gaussian(sdims, channels.shape[1:]), levels.astype(np.float32)])
