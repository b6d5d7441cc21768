"""Batch normalisation behind fc6 and fc7 while they learn from random numbers; the finished network has none
of it."""

from __future__ import annotations

import torch
from torch import nn

from deeplab.network.architecture import DeepLab

NORMALISED = ("fc6", "fc7")


def add_batch_norm(network: DeepLab) -> None:
    """Put batch normalisation behind fc6 and fc7."""
    for name in NORMALISED:
        convolution = getattr(network, name)
        setattr(network, name, nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels)))


def fold_batch_norm(network: DeepLab) -> None:
    """Take it away by scaling the convolutions: the same function in evaluation mode, the paper's network
    again."""
    for name in NORMALISED:
        convolution, norm = getattr(network, name)
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        with torch.no_grad():
            convolution.weight *= scale[:, None, None, None]
            convolution.bias.copy_((convolution.bias - norm.running_mean) * scale + norm.bias)
        setattr(network, name, convolution)
