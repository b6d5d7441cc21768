"""Batch normalisation after fc6 and fc7, for training them from random weights; it is folded away later."""

from __future__ import annotations

import torch
from torch import nn

from deeplab.network.architecture import DeepLab

NORMALISED_LAYERS = ("fc6", "fc7")


def add_batch_norm(network: DeepLab) -> None:
    """Put batch normalisation after fc6 and fc7, in place."""
    for name in NORMALISED_LAYERS:
        convolution = getattr(network, name)
        setattr(network, name, nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels)))


def fold_batch_norm(network: DeepLab) -> None:
    """Fold the batch normalisation into the convolutions, in place.

    In evaluation mode the network computes the same function as before, and its layers are the paper's.
    """
    for name in NORMALISED_LAYERS:
        convolution, norm = getattr(network, name)
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        with torch.no_grad():
            convolution.weight *= scale[:, None, None, None]
            convolution.bias.copy_((convolution.bias - norm.running_mean) * scale + norm.bias)
        setattr(network, name, convolution)
