"""The boundary F1 score: how many contour points of a prediction lie near those of the labels, and the
reverse."""

from __future__ import annotations

import numpy as np

from deeplab.classes import IGNORE

TOLERANCE = 0.0075
"""Share of the image diagonal that a contour point may be off (SegNet, section 4)."""


def contour(labels: np.ndarray) -> np.ndarray:
    """The pixels with a neighbour above, below, left or right of another id; the picture's edge is no
    contour.

    Args:
        labels: (H, W) integer ids.

    Returns:
        (H, W) bool.
    """
    edge = np.zeros(labels.shape, bool)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge


def contour_f1(
    truth: np.ndarray, predicted: np.ndarray, classes: int, *, tolerance: float = TOLERANCE
) -> np.ndarray:
    """F1 of each class's contour in one photo.

    A class's contour are its pixels that touch another id (``contour``; void counts as another id). A contour
    point is matched if a point of the other map's contour of that class is nearer than ``tolerance`` times
    the diagonal, by straight-line distance. Precision is the matched share of the predicted points, recall
    the matched share of the true ones, F1 their harmonic mean. Predicted points on void that find no match
    are left out of the precision: nobody knows whether they are right. (The sources do not speak of void.)
    BatchTab points may share one match.

    Args:
        truth: (H, W) integer ids, 255 = void.
        predicted: (H, W) integer ids, each below ``classes``.
        classes: K.
        tolerance: share of the image diagonal, above 0.

    Returns:
        (K,) float64, 0–1; NaN for a class without a contour in the labels.

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
    known, found = (np.where(contour(labels), labels, IGNORE) for labels in (truth, predicted))
    scores = np.full(classes, np.nan)
    for name in np.unique(known[known != IGNORE]):
        real, guess = known == name, found == name
        hit = _matched(guess, real, offsets)
        judged = hit | (truth[guess] != IGNORE)
        precision = hit.sum() / judged.sum() if judged.any() else 0.0
        recall = _matched(real, guess, offsets).mean()
        scores[name] = 2 * precision * recall / (precision + recall) if recall else 0.0
    return scores


def mean_contour_f1(scores: np.ndarray) -> float:
    """The boundary F1 (BF) of a set: the mean over photos of the mean over the classes in a photo.

    Args:
        scores: (photos, K), a row of ``contour_f1`` for each photo.

    Returns:
        0–1; NaN if no photo has a contour.

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
    """For each point of a mask (H, W), in row-major order, whether another mask has one at any of the
    offsets."""
    reach = int(np.abs(offsets).max())
    padded = np.pad(others, reach)
    rows, columns = np.nonzero(points)
    place = (rows + reach) * padded.shape[1] + columns + reach
    flat, found = padded.ravel(), np.zeros(len(place), bool)
    left = np.arange(len(place))  # the points without a match so far; most find theirs within a few steps
    for down, across in offsets if len(place) and others.any() else ():
        hit = flat[place[left] + (down * padded.shape[1] + across)]
        found[left[hit]] = True
        left = left[~hit]
    return found
