"""Bilinear interpolation of class scores from the network's stride to every pixel, with corners aligned.

Other interpolations of this package compute something else: ``photos.resize_photo`` antialiases photos in
uint8, ``model.predictor`` brings probabilities from one grid of pixel centres to another, and ``training``
samples scores and photos at the pixels of random crops.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

OUTPUT_STRIDE = 8
"""Pixels between neighbouring scores."""


def upsample(scores: torch.Tensor, stride: int = OUTPUT_STRIDE) -> torch.Tensor:
    """Interpolate scores between their pixels, which are ``stride`` apart.

    Args:
        scores: (B, K, h, w) of any float dtype.
        stride: Pixels between neighbouring scores.

    Returns:
        (B, K, stride · (h − 1) + 1, stride · (w − 1) + 1) float32.

    Source: DeepLab, section 3.2; the release's Interp layer.
    """
    height, width = ((n - 1) * stride + 1 for n in scores.shape[-2:])
    return F.interpolate(scores.float(), (height, width), mode="bilinear", align_corners=True)


def upsample_array(scores: np.ndarray, stride: int) -> np.ndarray:
    """Interpolate scores as ``upsample`` does, in the calling thread alone.

    The results differ from those of ``upsample`` by rounding only. There are two implementations because
    torch would start as many threads as there are cores in each thread of a pool that calls it.

    Args:
        scores: (K, h, w).
        stride: Pixels between neighbouring scores.

    Returns:
        (K, stride · (h − 1) + 1, stride · (w − 1) + 1) float32.
    """
    for axis in (1, 2):
        lines = np.moveaxis(scores.astype(np.float32, copy=False), axis, 0)
        fine = np.empty(((len(lines) - 1) * stride + 1, *lines.shape[1:]), np.float32)
        fine[::stride] = lines
        for step in range(1, stride):
            weight = np.float32(step / stride)
            fine[step::stride] = lines[:-1] * (1 - weight) + lines[1:] * weight
        scores = np.moveaxis(fine, 0, axis)
    return np.ascontiguousarray(scores)
