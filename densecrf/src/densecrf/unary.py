"""Unary energies: what the classifier alone says of each pixel, in nats."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def unary_from_probabilities(probabilities: ArrayLike, *, floor: float = 1e-10) -> np.ndarray:
    """Energies −log p.

    Args:
        probabilities: (K, …) real, finite and not negative; label k's probability at each pixel.
        floor: smaller probabilities count as this much, so that no energy is infinite.

    Returns:
        (K, …) float32 energies in nats.

    Raises:
        ValueError: for NaN, infinite or negative values, with their number.

    Source: DeepLab, section 3.3, θ_i = −log P(x_i).
    """
    values = np.asarray(probabilities)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"got probabilities of type {values.dtype}, wanted real numbers")
    if not (0 < floor < 1):
        raise ValueError(f"got floor = {floor}, wanted a number between 0 and 1")
    values = values.astype(np.float32, copy=False)
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        raise ValueError(
            f"got {np.count_nonzero(bad)} probabilities that are NaN, infinite or negative (the first: "
            f"{values[bad][0]}), wanted finite values of at least 0; apply a softmax to scores first"
        )
    return -np.log(np.maximum(values, np.float32(floor)))
