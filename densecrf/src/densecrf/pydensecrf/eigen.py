"""pydensecrf's matrix types. Results are NumPy arrays here, which need no conversion."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from densecrf.unary import real_array

MatrixXf = np.ndarray
"""The type of a matrix, for annotations and ``isinstance``."""
VectorXf = np.ndarray
"""The type of a vector, for annotations and ``isinstance``."""

__all__ = ["MatrixXf", "VectorXf", "matrixXf", "vectorXf"]


def matrixXf(arr: ArrayLike) -> np.ndarray:
    """A float32 copy of a matrix.

    Args:
        arr: real numbers (rows, columns).
    """
    return _copy(arr, 2, "(rows, columns)")


def vectorXf(arr: ArrayLike) -> np.ndarray:
    """A float32 copy of a vector.

    Args:
        arr: real numbers (length,).
    """
    return _copy(arr, 1, "(length,)")


def _copy(arr: ArrayLike, axes: int, expected: str) -> np.ndarray:
    array = np.array(real_array("values", arr), order="C")
    if array.ndim != axes:
        raise ValueError(f"got an array {array.shape}, wanted {expected}")
    return array
