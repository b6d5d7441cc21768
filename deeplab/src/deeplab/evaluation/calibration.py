"""Calibration: reliability bins of confidence against accuracy, and the expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeplab.classes import IGNORE

BINS = 15
SLACK = 1e-3  # sums of float32 probabilities may exceed 1 by a little


@dataclass(frozen=True)
class Reliability:
    """Pixels by confidence; bin i of n holds the confidences above i / n, up to and including (i + 1) / n."""

    pixels: np.ndarray
    """(n,) int64: number of pixels in each bin."""
    confidence: np.ndarray
    """(n,) float64: mean confidence in each bin, 0–1; NaN in an empty bin."""
    accuracy: np.ndarray
    """(n,) float64: share of correct pixels in each bin, 0–1; NaN in an empty bin."""

    @property
    def error(self) -> float:
        """Expected calibration error, 0–1: |accuracy − confidence| averaged over pixels; NaN without any.

        Source: Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599), section 2.
        """
        filled = self.pixels > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float(gaps @ self.pixels[filled] / self.pixels.sum()) if filled.any() else float("nan")

    @property
    def bias(self) -> float:
        """Mean confidence minus accuracy over all pixels; above 0 is overconfident, NaN without any pixel."""
        filled = self.pixels > 0
        gaps = self.confidence[filled] - self.accuracy[filled]
        return float(gaps @ self.pixels[filled] / self.pixels.sum()) if filled.any() else float("nan")


class Calibration:
    """Accumulates reliability bins photo by photo.

    Args:
        bins: number of bins of equal width, at least 1.
    """

    def __init__(self, bins: int = BINS):
        if bins < 1:
            raise ValueError(f"got {bins} bins, wanted at least 1")
        self._pixels = np.zeros(bins, np.int64)
        self._correct = np.zeros(bins, np.int64)
        self._confidence = np.zeros(bins)

    def add(self, truth: np.ndarray, probabilities: np.ndarray) -> None:
        """Count the pixels of one photo whose class is known.

        Args:
            truth: (H, W) integer ids, 255 = void.
            probabilities: (K, H, W), 0–1; the largest is the confidence, and its class the prediction.

        Raises:
            ValueError: if the sizes differ, or probabilities are outside 0–1 or NaN.
        """
        if probabilities.ndim != 3 or probabilities.shape[1:] != truth.shape:
            raise ValueError(
                f"got labels {truth.shape} and probabilities {probabilities.shape}, wanted (K, H, W)"
            )
        valid = truth != IGNORE
        confidence = probabilities.max(axis=0)[valid].astype(np.float64)
        if confidence.size and not (confidence.min() > 0 and confidence.max() <= 1 + SLACK):
            low, high = confidence.min(), confidence.max()
            raise ValueError(f"got confidences from {low:g} to {high:g}, wanted probabilities, 0–1")
        correct = probabilities.argmax(axis=0)[valid] == truth[valid]
        bins = len(self._pixels)
        index = np.clip(np.ceil(confidence * bins).astype(np.intp) - 1, 0, bins - 1)
        self._pixels += np.bincount(index, minlength=bins)
        self._correct += np.bincount(index[correct], minlength=bins)
        self._confidence += np.bincount(index, weights=confidence, minlength=bins)

    def reliability(self) -> Reliability:
        """Get the bins of all photos added so far."""
        empty, filled = np.full(len(self._pixels), np.nan), self._pixels > 0
        confidence = np.divide(self._confidence, self._pixels, out=empty.copy(), where=filled)
        accuracy = np.divide(self._correct, self._pixels, out=empty, where=filled)
        return Reliability(self._pixels.copy(), confidence, accuracy)
