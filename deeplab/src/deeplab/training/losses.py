"""Losses at the resolution of the scores; positions labelled void do not count."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from deeplab.classes import IGNORE


def cross_entropy_sum(
    scores: torch.Tensor,
    targets: torch.Tensor,
    *,
    class_weights: torch.Tensor | None = None,
    focal: float = 0.0,
) -> torch.Tensor:
    """Softmax cross-entropy, summed over all positions that are not void.

    Divide it by ``weight_of`` of the whole batch, over all its parts and processes: the release divides by
    the number of valid positions, and the paper's learning rates belong to that.

    Args:
        scores: (B, K, h, w).
        targets: (B, h, w) uint8 or int64 ids, 255 void.
        class_weights: (K,) factors, or None.
        focal: γ of the focal loss, (1 − p)^γ · cross-entropy; 0 for plain cross-entropy.

    Returns:
        A scalar.

    Source: DeepLab, section 4.1; release, SoftmaxWithLoss with ignore_label and normalisation by valid
        positions; "Focal Loss for Dense Object Detection" (arXiv 1708.02002), equation 4.
    """
    targets = targets.long()
    if focal == 0:
        return F.cross_entropy(scores, targets, class_weights, ignore_index=IGNORE, reduction="sum")
    losses = F.cross_entropy(scores, targets, ignore_index=IGNORE, reduction="none")
    losses = (1 - torch.exp(-losses)) ** focal * losses
    if class_weights is not None:
        losses = losses * _weights_at(targets, class_weights)
    return losses.sum()


def soft_cross_entropy_sum(scores: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of softmax scores with given distributions, summed over all positions.

    Args:
        scores: (B, K, h, w).
        probabilities: (B, K, h, w); at each position they sum to 1, or are all 0 to leave the position out.

    Returns:
        A scalar.

    Source: "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2.
    """
    return -(probabilities * torch.log_softmax(scores, dim=1)).sum()


def weight_of(targets: torch.Tensor, class_weights: torch.Tensor | None = None) -> torch.Tensor:
    """Sum of the weights of all positions that are not void.

    Args:
        targets: (B, h, w) ids, 255 void.
        class_weights: (K,) factors; without them every position counts 1.

    Returns:
        A scalar.
    """
    targets = targets.long()
    if class_weights is None:
        return (targets != IGNORE).sum().float()
    return _weights_at(targets, class_weights).sum()


def _weights_at(targets: torch.Tensor, class_weights: torch.Tensor) -> torch.Tensor:
    is_valid = targets != IGNORE
    weights: torch.Tensor = class_weights[targets.clamp(max=len(class_weights) - 1)] * is_valid
    return weights


def dice_loss(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One minus the mean soft Dice coefficient of the classes that occur in the targets.

    Args:
        scores: (B, K, h, w).
        targets: (B, h, w) ids, 255 void.

    Returns:
        A scalar from 0 to 1; 0 where all positions are void.

    Source: "V-Net" (arXiv 1606.04797), equation 1, without squares, per class over the batch.
    """
    targets = targets.long()
    classes = scores.shape[1]
    is_valid = (targets != IGNORE)[:, None]
    truth = F.one_hot(targets.clamp(max=classes - 1), classes).movedim(-1, 1) * is_valid
    probabilities = torch.softmax(scores, dim=1) * is_valid
    axes = (0, 2, 3)
    is_present = truth.sum(axes) > 0
    if not bool(is_present.any()):
        return scores.sum() * 0
    overlap = 2 * (probabilities * truth).sum(axes)
    return 1 - (overlap / (probabilities.sum(axes) + truth.sum(axes)))[is_present].mean()


def class_weights_of(counts: np.ndarray, kind: str) -> np.ndarray | None:
    """Factors that make rare classes count more.

    Args:
        counts: (K, 2): pixels of each class, and pixels of all photos in which it occurs.
        kind: "none"; "inverse" (one over the class's share of all pixels, scaled to mean one over the classes
            that occur); or "median" (median of all classes' frequencies over the class's own, where a
            frequency is the share of pixels within the photos that have the class).

    Returns:
        (K,) float32, with 1 for classes that never occur. None for "none".

    Source: "Predicting Depth, Surface Normals and Semantic Labels" (arXiv 1411.4734), section 4.3.2, for
        "median".
    """
    if kind == "none":
        return None
    counts = counts.astype(np.float64)
    is_present = counts[:, 0] > 0
    weights = np.ones(len(counts))
    if kind == "inverse":
        weights[is_present] = counts[:, 0].sum() / counts[is_present, 0]
        weights[is_present] /= weights[is_present].mean()
    else:
        frequency = counts[is_present, 0] / counts[is_present, 1]
        weights[is_present] = np.median(frequency) / frequency
    return weights.astype(np.float32)
