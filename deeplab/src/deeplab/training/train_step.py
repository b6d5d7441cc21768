"""One training step: forward, loss, backward and update, over all processes."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from deeplab.network.architecture import DeepLab
from deeplab.training.batches import Example
from deeplab.training.losses import cross_entropy_sum, dice_loss, soft_cross_entropy_sum, weight_of
from deeplab.training.recipe import Recipe


class Trainee(nn.Module):
    """The network on a training batch: on photos, or on cached pool4 features.

    Args:
        network: the network that learns.
        cached: whether batches are pool4 features.
    """

    def __init__(self, network: DeepLab, *, cached: bool):
        super().__init__()
        self.network = network
        self.cached = cached

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Class scores (B, K, h, w) of photos (B, 3, H, W) or features (B, 512, h, w)."""
        if self.cached:
            return self.network.scores_from_pool4(batch.float())
        scores: torch.Tensor = self.network(batch)
        return scores


class TrainStep:
    """Takes steps that reduce the mean loss over the valid positions of the whole batch.

    Args:
        fabric: Fabric of this process.
        trainee: the trainee as Fabric has set it up.
        optimizer: the optimizer as Fabric has set it up.
        recipe: the loss and its options.
        class_weights: (K,) factors on the fabric's device, or None.
    """

    def __init__(
        self, fabric: Any, trainee: Any, optimizer: Any, recipe: Recipe, class_weights: torch.Tensor | None
    ):
        self._fabric = fabric
        self._trainee = trainee
        self._optimizer = optimizer
        self._recipe = recipe
        self._class_weights = class_weights

    def take(self, batch: Example, step: int) -> float:
        """Take one step.

        Args:
            batch: photos or features, targets, and a teacher's probabilities if there is a teacher.
            step: step of the run, counted from zero.

        Returns:
            The mean loss over all processes.

        Raises:
            FloatingPointError: if the loss is not finite; the weights stay as they were.
        """
        fabric = self._fabric
        recipe = self._recipe
        tensors = [tensor.to(fabric.device, non_blocking=True) for tensor in batch]
        weight = weight_of(tensors[1], self._class_weights)
        total_weight = fabric.all_reduce(weight, reduce_op="sum").clamp(min=1)
        loss_sum = torch.zeros((), device=fabric.device)
        parts = zip(*(tensor.chunk(recipe.accumulate) for tensor in tensors), strict=True)
        for number, part in enumerate(parts, 1):
            is_last = number == recipe.accumulate
            with nullcontext() if is_last else fabric.no_backward_sync(self._trainee, enabled=True):
                loss = self._loss(part, total_weight)
                loss_sum += loss.detach()
                fabric.backward(loss)
        mean_loss = float(fabric.all_reduce(loss_sum, reduce_op="mean"))
        if not math.isfinite(mean_loss):
            raise FloatingPointError(
                f"the loss is {mean_loss} at step {step + 1}; nothing of this step was kept. Begin anew with "
                "a lower rate, a warm-up, or clip = 10 (--set rate=…, --set warmup=…, --set clip=10)"
            )
        if recipe.clip:
            fabric.clip_gradients(
                self._trainee, self._optimizer, max_norm=recipe.clip, error_if_nonfinite=False
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return mean_loss

    def _loss(self, part: Example, total_weight: torch.Tensor) -> torch.Tensor:
        """Loss of one part of this process's share; the parts' losses add up to that of the share."""
        recipe = self._recipe
        inputs, targets, *soft_targets = part
        scores = self._trainee(inputs.contiguous(memory_format=torch.channels_last)).float()
        loss = cross_entropy_sum(scores, targets, class_weights=self._class_weights, focal=recipe.focal)
        for probabilities in soft_targets:
            soft_loss = soft_cross_entropy_sum(scores, probabilities)
            loss = (1 - recipe.teacher_share) * loss + recipe.teacher_share * soft_loss
        loss = loss * (self._fabric.world_size / total_weight)  # DDP averages gradients; they have to add up
        if recipe.dice:
            loss = loss + recipe.dice / recipe.accumulate * dice_loss(scores, targets)
        return loss
