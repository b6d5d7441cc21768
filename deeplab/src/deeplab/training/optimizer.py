"""Optimizer, learning rates of each layer, and the learning-rate schedule."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from deeplab.network.architecture import DeepLab
from deeplab.training.recipe import Recipe

ParameterGroup = dict[str, object]


def parameter_groups(network: DeepLab, recipe: Recipe) -> list[ParameterGroup]:
    """Group parameters by their factor on the rate ("factor") and their weight decay.

    fc8 learns ``last_layer_rate`` times as fast as the base rate, fc6 and fc7 ``head_rate`` times. Biases
    and the factors of batch normalisation learn ``bias_rate`` times as fast as the weights of their layer,
    without weight decay.

    Args:
        network: owner of the parameters.
        recipe: the factors.

    Returns:
        Groups for a torch optimizer.

    Source: DeepLab release, train.prototxt (blobs_lr 1 and 2, of fc8 10 and 20; weight_decay 1 and 0).
    """
    layer_factors = {"fc8": recipe.last_layer_rate, "fc6": recipe.head_rate, "fc7": recipe.head_rate}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        factor = layer_factors.get(name.split(".")[0], 1.0)
        is_weight = parameter.ndim > 1
        key = (factor, recipe.weight_decay) if is_weight else (factor * recipe.bias_rate, 0.0)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]


def make_optimizer(network: DeepLab, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe: SGD with momentum or AdamW.

    Args:
        network: the network to train.
        recipe: optimizer, base rate, momentum and weight decay.

    Source: DeepLab, section 4.1 (SGD, momentum 0.9).
    """
    groups = parameter_groups(network, recipe)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum)
    return torch.optim.AdamW(groups, lr=recipe.rate)


def rate_at(recipe: Recipe, step: int) -> float:
    """The base rate at a step.

    The policy "step" multiplies the rate by ``gamma`` every ``step_size`` steps; "poly" multiplies it by
    (1 − step / steps) to the ``power``. With ``warmup``, the rate rises linearly before either.

    Args:
        recipe: the schedule.
        step: step of the run, counted from zero.

    Returns:
        The rate.

    Source: DeepLab, section 4.1; release, solver.prototxt; DeepLab v2, section 4.1.1, for poly.
    """
    rate = recipe.rate * min(1.0, (step + 1) / recipe.warmup) if recipe.warmup else recipe.rate
    if recipe.policy == "step":
        return float(rate * recipe.gamma ** (step // recipe.step_size))
    if recipe.policy == "poly":
        return float(rate * (1 - step / recipe.steps) ** recipe.power)
    return rate


def set_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group.

    Args:
        optimizer: its groups have a "factor".
        rate: base rate; a group gets it times the factor.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def freeze(network: DeepLab, prefixes: Iterable[str]) -> None:
    """Freeze the parameters whose names begin with one of the prefixes, and unfreeze all others.

    Args:
        network: owner of the parameters.
        prefixes: beginnings of layer names, for example "conv1".

    Raises:
        ValueError: for a prefix that no layer has.
    """
    prefixes = tuple(prefixes)
    names = [name for name, _ in network.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            layers = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
            raise ValueError(f"got frozen layers {prefix!r}, but no layer begins so; layers: {layers}")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes) if prefixes else True)


class RunningMean:
    """Exponential running mean of a network's parameters.

    Args:
        network: the network to follow; its parameters are the first mean.
        decay: share of the old mean that each update keeps.

    Source: "Acceleration of stochastic approximation by averaging"; the decay rises from small values at the
        start, as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the parameters after a step.

        Args:
            network: the network that learns.
            step: step of the run, counted from zero.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            mean = self.tensors[name]
            if mean.is_floating_point():
                mean.lerp_(value.to(mean.device), 1 - decay)
            else:
                mean.copy_(value)
