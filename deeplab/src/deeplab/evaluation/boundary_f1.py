"""The boundary F1 score: how closely the boundaries of predicted classes follow those of the labels.

Boundary points are matched by comparing shifted pixels, not by SciPy's distance transforms. The scores are
the same (tested), a photo of VOC takes 5 ms instead of 39 ms, and SciPy would add 140 MB to the installation.
"""

from __future__ import annotations

import numpy as np

from deeplab.classes import IGNORE

TOLERANCE = 0.0075
"""Largest distance of matching boundary points as a share of the image diagonal (SegNet, section 4)."""


def boundary_pixels(labels: np.ndarray) -> np.ndarray:
    """Mark the pixels with another id above, below, left or right; the picture's edge is no boundary.

    Args:
        labels: (H, W) integer ids.

    Returns:
        (H, W) bool.
    """
    edge = np.zeros(labels.shape, bool)
    down = labels[1:] != labels[:-1]
    across = labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge


def boundary_f1(
    truth: np.ndarray, predicted: np.ndarray, classes: int, *, tolerance: float = TOLERANCE
) -> np.ndarray:
    """Compute the F1 score of each class's boundary in one photo.

    The boundary of a class is its pixels that touch another id (``boundary_pixels``; void counts as another
    id). A boundary point is matched if the other map has a boundary point of the same class nearer than
    ``tolerance`` times the diagonal, in a straight line; several points may have the same match. Precision is
    the matched share of the predicted points, recall the matched share of the true ones, F1 their harmonic
    mean. Predicted points on void without a match are left out of the precision, as nobody knows whether they
    are right. (The sources say nothing about void.)

    Args:
        truth: (H, W) integer ids, 255 = void.
        predicted: (H, W) integer ids, each below ``classes``.
        classes: K.
        tolerance: share of the image diagonal, above 0.

    Returns:
        (K,) float64, 0–1; NaN for a class without a boundary in the labels.

    Raises:
        ValueError: if the sizes differ or the tolerance is not above 0.

    Source: Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013; SegNet
    (arXiv 1511.00561), section 4.
    """
    if truth.shape != predicted.shape or truth.ndim != 2:
        raise ValueError(
            f"got labels {truth.shape} and a prediction {predicted.shape}, wanted one size (H, W)"
        )
    if not tolerance > 0:
        raise ValueError(
            f"got a tolerance of {tolerance}, wanted a share of the diagonal above 0, e.g. {TOLERANCE}"
        )
    offsets = _offsets(tolerance * float(np.hypot(*truth.shape)))
    true_ids, predicted_ids = (
        np.where(boundary_pixels(labels), labels, IGNORE) for labels in (truth, predicted)
    )
    scores = np.full(classes, np.nan)
    for class_id in np.unique(true_ids[true_ids != IGNORE]):
        true_points, predicted_points = true_ids == class_id, predicted_ids == class_id
        matched = _matched(predicted_points, true_points, offsets)
        counted = matched | (truth[predicted_points] != IGNORE)
        precision = matched.sum() / counted.sum() if counted.any() else 0.0
        recall = _matched(true_points, predicted_points, offsets).mean()
        scores[class_id] = 2 * precision * recall / (precision + recall) if recall else 0.0
    return scores


def mean_boundary_f1(scores: np.ndarray) -> float:
    """Average the boundary F1 of a set over the classes of each photo, and then over the photos.

    Args:
        scores: (photos, K), one row of ``boundary_f1`` for each photo.

    Returns:
        0–1; NaN if no photo has a boundary.

    Source: SegNet (arXiv 1511.00561), section 4.
    """
    photos = [row[np.isfinite(row)].mean() for row in scores if np.isfinite(row).any()]
    return float(np.mean(photos)) if photos else float("nan")


def _offsets(radius: float) -> np.ndarray:
    """The steps (rows, columns) to all pixels nearer than a radius, nearest first: (n, 2)."""
    reach = int(radius)
    square = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    length = np.hypot(*square.T)
    near = np.flatnonzero(length < radius)
    return square[near[np.argsort(length[near], kind="stable")]]


def _matched(points: np.ndarray, others: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Which points of a mask have a point of another mask at one of the offsets.

    Args:
        points: (H, W) bool.
        others: (H, W) bool.
        offsets: (n, 2) rows and columns.

    Returns:
        (number of points,) bool, in row-major order.
    """
    reach = int(np.abs(offsets).max())
    padded = np.pad(others, reach)
    rows, columns = np.nonzero(points)
    index = (rows + reach) * padded.shape[1] + columns + reach
    flat = padded.ravel()
    matched = np.zeros(len(index), bool)
    remaining = np.arange(len(index))  # points without a match so far; most find one within a few steps
    for down, across in offsets if len(index) and others.any() else ():
        hit = flat[index[remaining] + (down * padded.shape[1] + across)]
        matched[remaining[hit]] = True
        remaining = remaining[~hit]
    return matched
