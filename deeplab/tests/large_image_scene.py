"""A small network and image with which large images are tested, also in processes of their own."""

from dataclasses import replace

import numpy as np
import torch

from deeplab.large_images.layout import Layout
from deeplab.model.segmentation import Model
from deeplab.network.architecture import VARIANTS, Convolution, DeepLab
from deeplab.weights.store import Card
from densecrf import Params

H, W = 152, 216
LAYOUT = Layout(window=104, block=80, margin=40)
NARROW = Params(appearance_xy_std=8, appearance_rgb_std=20, smoothness_xy_std=2)


def small_model(variant="deeplab-largefov"):
    """A network with few channels and random weights, the same in every process."""
    shape = VARIANTS[variant]
    layers = (replace(x, channels=6) if isinstance(x, Convolution) else x for x in shape.trunk)
    torch.manual_seed(0)
    network = DeepLab(replace(shape, trunk=tuple(layers), head=replace(shape.head, channels=12)), 3).eval()
    torch.nn.init.normal_(network.fc8.weight, std=0.05)
    return Model(network, Card(variant, ("ground", "water", "trees")), device="cpu", precision="fp32")


def picture(height=H, width=W):
    """Waves and a fine pattern, (height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    bands = 128 + 100 * np.sin(x / 17), 128 + 90 * np.cos(y / 23 + x / 40), (x * y) % 256
    return np.stack(bands, axis=2).astype(np.uint8)
