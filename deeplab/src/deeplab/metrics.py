"""Scores of label maps: one confusion matrix over a whole set, and what follows from it."""

from __future__ import annotations

import numpy as np

from deeplab.classes import IGNORE


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts of pixels by true class (rows) and predicted class (columns); void pixels of the truth are left out.

    Args:
        truth: integer ids of any shape, 255 = void.
        predicted: integer ids of the same shape, each below ``classes``.
        classes: K.

    Returns:
        (K, K) int64.

    Raises:
        ValueError: if the shapes differ or an id is out of range.

    Source: the release's MyVOCevalseg.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"got labels {truth.shape} and a prediction {predicted.shape}, wanted one size")
    valid = truth != IGNORE
    t, p = truth[valid].astype(np.int64), predicted[valid].astype(np.int64)
    for name, ids in (("labels", t), ("prediction", p)):
        if ids.size and not (0 <= ids.min() and ids.max() < classes):
            bad = ids[(ids < 0) | (ids >= classes)][0]
            raise ValueError(f"got id {bad} in the {name}, wanted 0 to {classes - 1} (255 is void in labels only)")
    return np.bincount(t * classes + p, minlength=classes * classes).reshape(classes, classes)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, (K,) float64; NaN for a class that is neither there nor predicted."""
    hit = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray, ids: list[int] | None = None) -> float:
    """Mean over classes (all, or those of ``ids``) of the IoU; classes without any pixel are left out of the mean."""
    iou = class_iou(confusion)
    chosen = iou if ids is None else iou[ids]
    return float(np.nanmean(chosen)) if np.isfinite(chosen).any() else float("nan")


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of the counted pixels whose label is right; NaN if none was counted."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")


def boundary_band(truth: np.ndarray, width: int) -> np.ndarray:
    """The pixels within ``width`` of the void border that VOC draws around objects (the trimap).

    The void mask is dilated with a square of side 2·width + 1, and void itself is taken out.

    Args:
        truth: (H, W) ids, 255 = void.
        width: pixels, at least 1.

    Returns:
        (H, W) bool.

    Source: DeepLab, section 5.2 (Figure 5); the release's MyVOCevalsegBoundary.
    """
    if width < 1:
        raise ValueError(f"got a band of {width} px, wanted at least 1")
    void = truth == IGNORE
    near = void
    for axis in (0, 1):  # a square is separable: a window along each axis; running sums cost nothing extra when wide
        n = near.shape[axis]
        sums = np.concatenate([np.zeros_like(near.take([0], axis), np.int64), near.cumsum(axis)], axis)
        stop, start = np.minimum(np.arange(n) + width + 1, n), np.maximum(np.arange(n) - width, 0)
        near = sums.take(stop, axis) > sums.take(start, axis)
    return near & ~void
