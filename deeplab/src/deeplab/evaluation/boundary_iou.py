"""Boundary IoU: the IoU of masks counted only within a distance of their own contours."""

from __future__ import annotations

import numpy as np

from deeplab.classes import IGNORE
from deeplab.evaluation.metrics import divide_counts
from deeplab.evaluation.windows import window_extreme

WIDTH = 0.02
"""Width of the counted band as a share of the image diagonal (Boundary IoU, section 4)."""


def inner_band(ids: np.ndarray, width: int) -> np.ndarray:
    """Mark the pixels of every class that are within a distance of the contour of their own region.

    The contour of a region is its edge to other ids and, as in the source's program, the image's border.
    Distances are along rows and columns, the larger of the two.

    Args:
        ids: (H, W) integer ids.
        width: distance in pixels, at least 1.

    Returns:
        (H, W) bool: true where the square of 2·width + 1 pixels around a pixel has another id or leaves the
        image.
    """
    lowest, highest = ids, ids
    for axis in (0, 1):
        lowest = window_extreme(lowest, width, axis, np.minimum)
        highest = window_extreme(highest, width, axis, np.maximum)
    band: np.ndarray = lowest != highest
    for edge in (np.s_[:width], np.s_[-width:], np.s_[:, :width], np.s_[:, -width:]):
        band[edge] = True
    return band


def boundary_overlap(
    truth: np.ndarray, predicted: np.ndarray, classes: int, *, width: float = WIDTH
) -> np.ndarray:
    """Count the intersection and the union of true and predicted boundary bands of each class in one photo.

    The band of a class is ``inner_band`` of its region. A pixel is in the intersection if it has the class,
    and is in the band, in both maps. Void takes the predicted ids for the position of contours, and void
    pixels are not counted, so a prediction that differs from the labels on void alone scores 1. (The source
    says nothing about void.)

    Args:
        truth: (H, W) integer ids, 255 = void.
        predicted: (H, W) integer ids, each below ``classes``.
        classes: K.
        width: share of the image diagonal, above 0; rounded to pixels, at least 1.

    Returns:
        (K, 2) int64: pixels in the intersection and in the union.

    Raises:
        ValueError: if the sizes differ, an id is out of range, or the width is not above 0.

    Source: Cheng et al., Boundary IoU: Improving Object-Centric Image Segmentation Evaluation, CVPR 2021,
    section 4.
    """
    if truth.shape != predicted.shape or truth.ndim != 2:
        raise ValueError(
            f"got labels {truth.shape} and a prediction {predicted.shape}, wanted one size (H, W)"
        )
    if not 0 < width < np.inf:
        raise ValueError(f"got a width of {width}, wanted a share of the diagonal above 0, e.g. {WIDTH}")
    valid = truth != IGNORE
    filled = np.where(valid, truth, predicted)
    for name, ids in (("labels", filled), ("prediction", predicted)):
        if ids.size and not (0 <= ids.min() and ids.max() < classes):
            raise ValueError(
                f"got ids from {ids.min()} to {ids.max()} in the {name}, wanted 0 to {classes - 1}"
            )
    pixels = max(1, round(width * float(np.hypot(*truth.shape))))
    true_band, predicted_band = (inner_band(ids, pixels) & valid for ids in (filled, predicted))
    both = true_band & predicted_band & (filled == predicted)
    intersection, in_truth, in_prediction = (
        np.bincount(ids[band], minlength=classes)
        for ids, band in ((filled, both), (filled, true_band), (predicted, predicted_band))
    )
    return np.stack([intersection, in_truth + in_prediction - intersection], axis=1)


def class_boundary_iou(overlap: np.ndarray) -> np.ndarray:
    """Compute the boundary IoU of each class over a set.

    Args:
        overlap: (K, 2), the sum of ``boundary_overlap`` over all photos, as for the mean IoU.

    Returns:
        (K,) float64, 0–1; NaN for a class that is neither in the labels nor predicted.
    """
    return divide_counts(overlap[:, 0], overlap[:, 1])
