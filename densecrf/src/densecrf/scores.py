"""What class scores mean: probabilities, logits or energies, of K labels or of the foreground alone."""

from __future__ import annotations

import numpy as np

from densecrf.probabilities import OTHER_SCORES, SUM_TOLERANCE, checked_distribution
from densecrf.unary import FLOOR, real_array, unary_from_logits
from densecrf.user_warnings import warn_user

KINDS = ("probabilities", "logits", "energies")
ALIGNMENTS = ("centers", "corners")
"""How coarse scores lie on the image: pixel areas cover each other, or the corners' centres coincide."""


def unary_term(scores: np.ndarray, kind: str) -> tuple[np.ndarray, float]:
    """Scores of K labels as inference takes them.

    Args:
        scores: (K, H, W) real numbers.
        kind: one of ``KINDS``.

    Returns:
        values: (K, H, W) float32, probabilities or energies.
        floor: minimum that probabilities count as; 0 for energies.

    Raises:
        ValueError: for values that are not finite, or not probabilities where these are wanted.
    """
    if kind == "energies":
        return real_array(kind, scores, allow_infinity=True), 0.0
    if kind == "logits":
        return unary_from_logits(scores), 0.0
    return checked_distribution(real_array(kind, scores)), FLOOR


def two_labels(foreground: np.ndarray, kind: str) -> np.ndarray:
    """Scores of background and foreground from those of the foreground.

    Args:
        foreground: (H, W) probabilities of the foreground, or logits of the sigmoid.
        kind: "probabilities" or "logits".

    Returns:
        (2, H, W) float32 scores of the same kind.

    Raises:
        ValueError: for other kinds, masks in place of probabilities, or values out of range.
    """
    if kind == "energies":
        raise ValueError("got energies of the foreground alone, wanted (2, H, W): background and foreground")
    if foreground.dtype.kind == "b":
        raise ValueError(
            "got a mask of bool, which leaves a CRF nothing to change; wanted probabilities, such as "
            "np.where(mask, 0.9, 0.1)"
        )
    values = real_array(kind, foreground)
    if kind == "logits":
        return np.stack([np.zeros_like(values), values])
    if values.size and not (values.min() >= 0 and values.max() <= 1 + SUM_TOLERANCE):
        raise ValueError(
            f"got foreground probabilities from {values.min():.4g} to {values.max():.4g}, wanted 0 to 1; "
            f"divide levels of 0–255 by 255, for masks use np.where(mask > 0, 0.9, 0.1); {OTHER_SCORES}"
        )
    if values.size and ((values == 0) | (values == 1)).all():
        warn_user(
            "got foreground probabilities that are all 0 or 1, a hard mask that leaves a CRF nothing to "
            "change; wanted soft probabilities, such as np.where(mask > 0.5, 0.9, 0.1)"
        )
    values = np.minimum(values, 1)
    return np.stack([1 - values, values])


def upsampled(scores: np.ndarray, size: tuple[int, int], alignment: str = "centers") -> np.ndarray:
    """Scores enlarged by bilinear interpolation.

    Args:
        scores: (..., h, w) real numbers, h and w at least 1.
        size: (H, W) of the result.
        alignment: "centers" is ``align_corners=False`` of PyTorch and the half-pixel centres of OpenCV and
            TensorFlow 2; "corners" is ``align_corners=True``, which networks with (H − 1) / stride + 1
            scores use, DeepLab among them.

    Returns:
        (..., H, W) float32.
    """
    values = scores.astype(np.float32, copy=False)
    for axis, length in zip((-2, -1), size, strict=True):
        low, high, share = _interpolation(values.shape[axis], length, alignment)
        shape = (-1, 1) if axis == -2 else (-1,)
        first, second = values.take(low, axis=axis), values.take(high, axis=axis)
        second -= first
        second *= share.reshape(shape)
        second += first
        values = second
    return values


def _interpolation(count: int, length: int, alignment: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of ``length`` positions the two of ``count`` samples beside it, and the second one's share."""
    places = np.arange(length, dtype=np.float64)
    if alignment == "corners":
        places *= (count - 1) / max(1, length - 1)
    else:
        places = (places + 0.5) * (count / length) - 0.5
    places = places.clip(0, count - 1)
    low = places.astype(np.intp)
    return low, np.minimum(low + 1, count - 1), (places - low).astype(np.float32)
