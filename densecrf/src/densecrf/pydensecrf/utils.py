"""The helper functions of pydensecrf, with the same names and arguments."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from densecrf import unary
from densecrf.levels import check_levels
from densecrf.pydensecrf.arguments import divide_by_widths, is_sequence, whole
from densecrf.user_warnings import warn_user
from densecrf.validation import real_number

__all__ = [
    "compute_unary",
    "create_pairwise_bilateral",
    "create_pairwise_gaussian",
    "softmax_to_unary",
    "unary_from_labels",
    "unary_from_softmax",
]


def unary_from_labels(
    labels: ArrayLike, n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> np.ndarray:
    """Unary energies of a label map that is right with a given probability.

    Args:
        labels: integers of any shape.
        n_labels: number of labels K, at least 2; without the unsure 0.
        gt_prob: probability that a label is right.
        zero_unsure: whether 0 means "could be anything" and labels count from 1; else they count from 0.

    Returns:
        (K, N) float32 energies in nats.

    Raises:
        TypeError: for ``n_labels`` or ``gt_prob`` that are not numbers.
        ValueError: for labels that are not integers or out of range, fewer than 2 labels, or a probability
            that is not between 0 and 1.
    """
    ids = np.asarray(labels).ravel()
    if ids.dtype.kind not in "iub":
        raise ValueError(
            f"got labels of type {ids.dtype}, wanted integers; for probabilities use unary_from_softmax"
        )
    count = whole("n_labels", n_labels)
    if count < 2:
        raise ValueError(f"got n_labels = {count}, wanted at least 2")
    probability = real_number("gt_prob", gt_prob)
    if not 0 < probability < 1:
        raise ValueError(f"got gt_prob = {probability}, wanted a number between 0 and 1, both excluded")
    first = int(zero_unsure)
    wrong = (ids < 0) | (ids > count - 1 + first)
    if wrong.any():
        unsure = ", or 0 where any label is possible" if zero_unsure else ""
        mask = "; for a mask of 0 and 255 use labels > 0" if set(np.unique(ids)) == {0, 255} else ""
        raise ValueError(
            f"got label {ids[wrong][0]} at {np.count_nonzero(wrong)} pixels, wanted {first} to "
            f"{count - 1 + first} for n_labels = {count}{unsure}{mask}"
        )
    index = ids.astype(np.int64) - first
    return unary.unary_from_labels(index, count, confidence=probability, ignore=-1 if zero_unsure else None)


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
        clip: minimum that a probability counts as; None for none, so that a probability of 0 has the energy
            +inf.

    Returns:
        (K, N) float32 energies in nats.

    Raises:
        TypeError: for ``scale`` or ``clip`` that are not numbers.
        ValueError: for values that are NaN or infinite, or negative without ``clip``.
    """
    probabilities = _probabilities(sm)
    if scale is not None:
        if not 0 < real_number("scale", scale) <= 1:
            raise ValueError(f"got scale = {scale}, wanted a number above 0 and at most 1")
        uniform = np.full((1,) * probabilities.ndim, 1 / len(probabilities))  # float64, as in pydensecrf
        probabilities = scale * probabilities + (1 - scale) * uniform
    if clip is not None:
        probabilities = np.clip(probabilities, real_number("clip", clip), 1.0)
    elif probabilities.size and probabilities.min() < 0:
        raise ValueError(
            f"got {np.count_nonzero(probabilities < 0)} probabilities that are negative, wanted at least 0"
        )
    with np.errstate(divide="ignore"):
        energies = -np.log(probabilities)
    return energies.reshape(len(probabilities), -1).astype(np.float32, copy=False)


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


def create_pairwise_gaussian(sdims: float | Sequence[float], shape: Sequence[int]) -> np.ndarray:
    """Features of the positions on a grid.

    Args:
        sdims: standard deviation along each axis in pixels; axes beyond the last one are not divided, and one
            number is for all axes.
        shape: size of the grid along each axis.

    Returns:
        (axes, N) float32 positions divided by ``sdims``.

    Raises:
        TypeError: for ``sdims`` that are not numbers.
        ValueError: for more numbers than axes, or numbers that are not finite and above 0.
    """
    positions = _positions(sdims, shape)
    return positions.reshape(len(positions), -1)


def create_pairwise_bilateral(
    sdims: float | Sequence[float], schan: float | Sequence[float], img: ArrayLike, chdim: int = -1
) -> np.ndarray:
    """Features of the positions and levels of an image.

    Args:
        sdims: standard deviation along each axis in pixels; see ``create_pairwise_gaussian``.
        schan: standard deviation in levels, a number or one for each channel; channels beyond the last one
            are not divided.
        img: image of any real type.
        chdim: axis of the channels; −1 for an image without channels.

    Returns:
        (axes + channels, N) float32 positions and levels, divided by their standard deviations.

    Raises:
        TypeError: for ``sdims`` or ``schan`` that are not numbers.
        ValueError: for more numbers than axes or channels, numbers that are not finite and above 0, or levels
            that are NaN or infinite.
    """
    image = unary.real_array("image levels", img)
    if chdim != -1 and not -image.ndim <= chdim < image.ndim:
        raise ValueError(f"got chdim = {chdim} and an image {image.shape}, wanted one of its axes, or -1")
    channels = np.array(image[None] if chdim == -1 else np.moveaxis(image, chdim, 0))
    check_levels(image, [real_number("schan", std) for std in np.atleast_1d(np.asarray(schan, object))])
    divide_by_widths(channels, "schan", schan, f"{len(channels)} channels")
    features = np.concatenate([_positions(sdims, channels.shape[1:]), channels])
    return features.reshape(len(features), -1)


def _positions(sdims: float | Sequence[float], shape: Sequence[int]) -> np.ndarray:
    """Positions on a grid divided by ``sdims``, (axes, *shape) float32."""
    sizes = [whole("shape", size) for size in (shape if is_sequence(shape) else [shape])]
    grid = np.indices(sizes, np.float32)
    divide_by_widths(grid, "sdims", sdims, f"{len(sizes)} axes")
    return grid


def _probabilities(sm: ArrayLike) -> np.ndarray:
    """Finite real numbers (K, …) in the caller's precision; a warning if they are not probabilities."""
    array = np.asarray(sm)
    checked = unary.real_array("probabilities", array)
    if array.ndim < 1 or not len(array):
        raise ValueError(f"got probabilities {array.shape}, wanted (K, …) with at least one label")
    if checked.size and not (checked.min() >= 0 and checked.max() <= 1 + 1e-3):
        warn_user(
            "got probabilities that are negative or over 1, which are clipped; for logits take the softmax "
            "first, energies -log(p) go to setUnaryEnergy as they are"
        )
    elif len(array) == 1:
        warn_user(
            "got probabilities of one label, which then wins everywhere; for one foreground map p use "
            "unary_from_softmax(np.stack([1 - p, p]))"
        )
    return array if array.dtype in (np.float32, np.float64) else checked
