"""What a network is trained to make small, at the resolution of its scores; void positions take no part."""

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
    """Softmax cross-entropy, added up over all positions that are not void.

    Divide by ``weight_of`` of the whole batch, over all its parts and processes: the release divides by the
    number of its valid positions, and the paper's learning rates belong to that.

    Args:
        scores: (B, K, h, w).
        targets: (B, h, w) uint8 or int64 ids, 255 void.
        class_weights: (K,) factors, or None.
        focal: γ of the focal loss, (1 − p)^γ · cross-entropy; 0 for none.

    Returns:
        A number.

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
    """Cross-entropy of softmax scores with given distributions, added up; where those are all 0, nothing is
    added.

    Args:
        scores: (B, K, h, w).
        probabilities: (B, K, h, w), each position's sum 1, or 0 where there is nothing to learn.

    Returns:
        A number.

    Source: "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2.
    """
    return -(probabilities * torch.log_softmax(scores, dim=1)).sum()


def weight_of(targets: torch.Tensor, class_weights: torch.Tensor | None = None) -> torch.Tensor:
    """The sum of the weights of all positions that are not void: their number, where classes have no
    weights."""
    targets = targets.long()
    if class_weights is None:
        return (targets != IGNORE).sum().float()
    return _weights_at(targets, class_weights).sum()


def _weights_at(targets: torch.Tensor, class_weights: torch.Tensor) -> torch.Tensor:
    valid = targets != IGNORE
    weights: torch.Tensor = class_weights[targets.clamp(max=len(class_weights) - 1)] * valid
    return weights


def dice_loss(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One minus the mean soft Dice coefficient of the classes that occur in the targets.

    Args:
        scores: (B, K, h, w).
        targets: (B, h, w) ids, 255 void.

    Returns:
        A number from 0 to 1; 0 where all is void.

    Source: "V-Net" (arXiv 1606.04797), equation 1, without squares, per class over the batch.
    """
    targets = targets.long()
    valid = (targets != IGNORE)[:, None]
    truth = F.one_hot(targets.clamp(max=scores.shape[1] - 1), scores.shape[1]).movedim(-1, 1) * valid
    probabilities = torch.softmax(scores, dim=1) * valid
    axes = (0, 2, 3)
    there = truth.sum(axes) > 0
    if not bool(there.any()):
        return scores.sum() * 0
    both = 2 * (probabilities * truth).sum(axes)
    return 1 - (both / (probabilities.sum(axes) + truth.sum(axes)))[there].mean()


def class_weights_of(counts: np.ndarray, kind: str) -> np.ndarray | None:
    """Factors that make rare classes count more.

    Args:
        counts: (K, 2): pixels of each class, and pixels of all photos in which it occurs.
        kind: "none", "inverse" (one over the class's share of all pixels, mean one over the classes that
            occur), or "median" (median of the classes' frequencies over the class's, frequency within the
            photos that have it).

    Returns:
        (K,) float32; classes that never occur get 1. None for "none".

    Source: "Predicting Depth, Surface Normals and Semantic Labels" (arXiv 1411.4734), section 4.3.2, for
        "median".
    """
    if kind == "none":
        return None
    counts = counts.astype(np.float64)
    there = counts[:, 0] > 0
    weights = np.ones(len(counts))
    if kind == "inverse":
        weights[there] = counts[:, 0].sum() / counts[there, 0]
        weights[there] /= weights[there].mean()
    else:
        frequency = counts[there, 0] / counts[there, 1]
        weights[there] = np.median(frequency) / frequency
    return weights.astype(np.float32)
