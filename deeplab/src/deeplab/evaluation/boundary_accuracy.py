"""Mean boundary accuracy (mBA): pixel accuracy near the true boundaries, averaged over five widths."""

from __future__ import annotations

import math

import numpy as np

from deeplab.classes import IGNORE
from deeplab.evaluation.windows import differs_within

STEPS = 5
"""Number of radii."""
SIZE_PER_RADIUS = 300
"""Height + width of the image per pixel of the upper limit of the radii."""


def radii_for(shape: tuple[int, ...]) -> list[int]:
    """The five radii in pixels for an image (H, W): from 1 in equal steps towards (H + W) / 300."""
    limit = sum(shape) / SIZE_PER_RADIUS
    return [1 + int((limit - 1) / STEPS * step) for step in range(STEPS)]


def boundary_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Compute the accuracy near the boundaries of one photo, averaged over five widths.

    Pixels count whose disk of a radius has more than one id of the labels; void counts as another id, but
    void pixels are left out. The disks are those of OpenCV's ``MORPH_ELLIPSE``, as in the source's program.

    Args:
        truth: (H, W) integer ids, 255 = void.
        predicted: (H, W) integer ids.

    Returns:
        0–1; NaN for labels without a boundary.

    Raises:
        ValueError: if the sizes differ.

    Source: Cheng et al., CascadePSP, CVPR 2020, section 4.1; radii as in its program,
    util/compute_boundary_acc.py.
    """
    if truth.shape != predicted.shape or truth.ndim != 2:
        raise ValueError(
            f"got labels {truth.shape} and a prediction {predicted.shape}, wanted one size (H, W)"
        )
    radii = radii_for(truth.shape)
    valid = truth != IGNORE
    correct = (truth == predicted) & valid
    accuracy = {}
    for radius in set(radii):
        region = differs_within(truth, disk(radius)) & valid
        count = np.count_nonzero(region)
        accuracy[radius] = np.count_nonzero(correct & region) / count if count else math.nan
    return sum(accuracy[radius] for radius in radii) / STEPS


def disk(radius: int) -> list[int]:
    """Half widths of a disk's rows, its middle row first, as ``differs_within`` takes them."""
    return [round(math.sqrt(radius**2 - row**2)) for row in range(radius + 1)]


def mean_boundary_accuracy(values: np.ndarray) -> float:
    """Average ``boundary_accuracy`` over photos.

    Args:
        values: (photos,), NaN for photos that do not count.

    Returns:
        0–1; NaN if no photo has a boundary.
    """
    found = values[np.isfinite(values)]
    return float(found.mean()) if len(found) else math.nan
