import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from deeplab.classes import VOC_CLASSES
from deeplab.model.segmentation import Model
from deeplab.network.architecture import VARIANTS, Convolution, DeepLab, build
from deeplab.weights.store import Card


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """A cache folder of the tests' own, also for the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def network():
    """A network with random weights, the same in every run."""
    torch.manual_seed(0)
    return build().eval()


@pytest.fixture(scope="session")
def model(network):
    """A model of that network with VOC's classes."""
    return Model(network, Card("deeplab-largefov", VOC_CLASSES), precision="fp32")


@pytest.fixture(scope="session")
def narrow():
    """A function that builds a variant with few channels: the same geometry, but fast.

    The weights are random, and the same in every run.
    """

    def make(name, classes=3, channels=6):
        variant = VARIANTS[name]
        if not variant.multi_scale:  # branches expect VGG-16's own channels
            layers = (
                replace(x, channels=channels) if isinstance(x, Convolution) else x for x in variant.trunk
            )
            variant = replace(variant, trunk=tuple(layers))
        variant = replace(variant, head=replace(variant.head, channels=2 * channels))
        torch.manual_seed(0)
        network = DeepLab(variant, classes).eval()
        torch.nn.init.normal_(network.fc8.weight, std=0.05)
        for parameter in network.branches.parameters() if variant.multi_scale else ():
            torch.nn.init.normal_(parameter, std=0.05)
        return network

    return make


@pytest.fixture
def photo():
    """(45, 70, 3) uint8: smooth colours and one hard edge."""
    y, x = np.mgrid[:45, :70]
    return np.stack([3 * x, 5 * y, np.where(x > 30, 200, 40)], axis=2).astype(np.uint8)


@pytest.fixture
def photo_file(photo, tmp_path):
    """The photo as a PNG file."""
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    return path


@pytest.fixture
def tiny():
    """The bytes of a photo of 6×10 pixels as a PNG."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
