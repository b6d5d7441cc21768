"""The rule for class probabilities: what is taken, normalised with a warning, or refused."""

from __future__ import annotations

import numpy as np

from densecrf.user_warnings import warn_user

SUM_TOLERANCE = 0.01
"""Sums this close to 1 count as 1; half precision and 8-bit storage come closer than that."""
OTHER_SCORES = (
    "for logits use kind='logits' (--kind logits), for energies −log p kind='energies' (--kind energies)"
)
"""What to do with scores that are not probabilities, in calls and on the command line."""


def sums_to_one(values: np.ndarray, axis: int) -> bool:
    """Whether values are not negative and their sums along an axis are within 0.01 of 1.

    Args:
        values: real numbers.
        axis: the axis of the labels.
    """
    return not values.size or bool(
        values.min() >= 0 and np.abs(values.sum(axis=axis) - 1).max() <= SUM_TOLERANCE
    )


def checked_distribution(values: np.ndarray, others: str = OTHER_SCORES) -> np.ndarray:
    """Class probabilities that sum to 1 at every pixel.

    Sums within 0.01 of 1 are taken as they are. Other values from 0 to 1, such as one sigmoid for each class,
    are divided by their sum, with a warning. Values below 0 or above 1 are refused.

    Args:
        values: (K, …) float32, finite.
        others: advice for scores that are not probabilities, for messages.

    Returns:
        The same array, or a normalised copy.

    Raises:
        ValueError: for values that are negative or over 1.
    """
    if not values.size:
        return values
    lowest = values.min()
    if lowest < 0:
        count = np.count_nonzero(values < 0)
        raise ValueError(
            f"got {count} probabilities that are negative (the lowest: {lowest:.4g}), wanted at least 0; "
            f"{others}"
        )
    sums = values.sum(axis=0)
    if np.abs(sums - 1).max() <= SUM_TOLERANCE:
        return values
    highest = values.max()
    if highest > 1 + SUM_TOLERANCE:
        raise ValueError(
            f"got probabilities up to {highest:.4g}, wanted values from 0 to 1 that sum to 1 over the "
            f"first axis; {others}, divide levels of 0–255 by 255 and counts by their sum"
        )
    empty = sums <= 0
    if empty.any():  # the floor of probabilities then makes all labels equally probable
        warn_user(
            "got pixels whose probabilities are all 0: all labels count as equally probable there; wanted "
            "probabilities that sum to 1 over the first axis"
        )
    if not (np.abs(sums - 1)[~empty] > SUM_TOLERANCE).any():
        return values
    warn_user(
        "got probabilities that do not sum to 1 over the first axis: they are divided by their sum. Divide "
        f"by values.sum(0) to say that this is meant; {others}"
    )
    return values / np.where(empty, 1, sums).astype(np.float32)
