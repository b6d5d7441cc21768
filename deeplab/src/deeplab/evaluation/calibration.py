"""Whether a model's confidence is honest: reliability bins and the expected calibration error, photo by
photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeplab.classes import IGNORE

BINS = 15
SLACK = 1e-3  # sums of float32 shares may pass 1 by a little


@dataclass(frozen=True)
class Reliability:
    """Pixels by confidence: bin i of n holds the confidences above i / n, up to and with (i + 1) / n."""

    pixels: np.ndarray
    """(n,) int64: how many pixels are in each bin."""
    confidence: np.ndarray
    """(n,) float64: their mean confidence, 0–1; NaN in an empty bin."""
    accuracy: np.ndarray
    """(n,) float64: the share of them that is right, 0–1; NaN in an empty bin."""

    @property
    def error(self) -> float:
        """Expected calibration error, 0–1: |accuracy − confidence| averaged over pixels; NaN without any.

        Source: Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599), section 2.
        """
        there = self.pixels > 0
        gaps = np.abs(self.accuracy[there] - self.confidence[there])
        return float(gaps @ self.pixels[there] / self.pixels.sum()) if there.any() else float("nan")

    @property
    def bias(self) -> float:
        """Mean confidence less accuracy over all pixels: above 0 is overconfident; NaN without any pixel."""
        there = self.pixels > 0
        gaps = self.confidence[there] - self.accuracy[there]
        return float(gaps @ self.pixels[there] / self.pixels.sum()) if there.any() else float("nan")


class Calibration:
    """Adds up reliability bins over photos.

    Args:
        bins: how many of equal width, at least 1.
    """

    def __init__(self, bins: int = BINS):
        if bins < 1:
            raise ValueError(f"got {bins} bins, wanted at least 1")
        self._pixels, self._right = np.zeros(bins, np.int64), np.zeros(bins, np.int64)
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
            raise ValueError(
                f"got confidences from {confidence.min():g} to {confidence.max():g}, wanted probabilities, 0–1"
            )
        right = probabilities.argmax(axis=0)[valid] == truth[valid]
        bins = len(self._pixels)
        place = np.clip(np.ceil(confidence * bins).astype(np.intp) - 1, 0, bins - 1)
        self._pixels += np.bincount(place, minlength=bins)
        self._right += np.bincount(place[right], minlength=bins)
        self._confidence += np.bincount(place, weights=confidence, minlength=bins)

    def reliability(self) -> Reliability:
        """The bins of what was added so far."""
        empty, there = np.full(len(self._pixels), np.nan), self._pixels > 0
        confidence = np.divide(self._confidence, self._pixels, out=empty.copy(), where=there)
        accuracy = np.divide(self._right, self._pixels, out=empty, where=there)
        return Reliability(self._pixels.copy(), confidence, accuracy)
