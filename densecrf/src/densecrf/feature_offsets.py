"""Features far from the origin, such as map coordinates, brought near it before float32 rounds them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from densecrf.arrays import as_numpy
from densecrf.unary import real_array
from densecrf.user_warnings import warn_user

MOST_EXACT = 2.0**13
"""Float32 numbers up to this are exact to 5e-4, which is enough for features in standard deviations."""
MOST_ROUGH = 2.0**17
"""Float32 numbers over this lie 1/64 or more apart."""


def feature_array(features: ArrayLike) -> np.ndarray:
    """Features as float32, with common offsets subtracted that would cost float32 its digits.

    Columns with values over 8192 are shifted by whole periods of the permutohedral lattice, so that points
    lie in its cells as they would without the shift. float32 features cannot be rescued: a warning tells
    if a column lies far beyond 131072.

    Args:
        features: (…, d) real, finite, divided by their standard deviations.

    Returns:
        (…, d) float32.

    Raises:
        ValueError: for values that are not real numbers, or NaN or infinite.
    """
    array = as_numpy("features", features)
    if array.ndim < 2 or array.dtype.kind not in "fiu" or not array.size:
        return real_array("features", array)
    lowest, highest = (edge.reshape(-1, array.shape[-1]) for edge in (array.min(axis=-2), array.max(axis=-2)))
    low, high = lowest.min(axis=0).astype(np.float64), highest.max(axis=0).astype(np.float64)
    far = np.maximum(-low, high) > MOST_EXACT
    if not far.any() or not np.isfinite(high - low).all():
        return real_array("features", array)
    if array.dtype.kind == "f" and array.dtype.itemsize <= 4:
        largest = np.maximum(-low, high)
        if ((largest > MOST_ROUGH) & (high - low < largest / 4)).any():  # far from the origin, not wide
            warn_user(
                "got float32 features over 131072, which float32 rounds to steps of 1/64 standard "
                "deviations or more; wanted float64, or offsets (such as the origin of map coordinates) "
                "subtracted before"
            )
        return real_array("features", array)
    axes = np.arange(array.shape[-1], dtype=np.float64)
    periods = np.sqrt(1.5 * (axes + 1) * (axes + 2))
    shift = np.where(far, np.round((low + high) / 2 / periods) * periods, 0)
    return real_array("features", array - shift)
