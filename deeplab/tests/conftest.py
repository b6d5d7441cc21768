import numpy as np
import pytest
import torch
from PIL import Image

from deeplab.classes import VOC_CLASSES
from deeplab.network import build
from deeplab.segment import Model
from deeplab.weights import Card


@pytest.fixture(scope="session")
def network():
    """The network with random weights, the same in every run."""
    torch.manual_seed(0)
    return build().eval()


@pytest.fixture(scope="session")
def model(network):
    return Model(network, Card("deeplab-largefov", VOC_CLASSES))


@pytest.fixture
def photo():
    """(45, 70, 3) uint8: smooth colours and one hard edge."""
    y, x = np.mgrid[:45, :70]
    return np.stack([3 * x, 5 * y, np.where(x > 30, 200, 40)], axis=2).astype(np.uint8)


@pytest.fixture
def photo_file(photo, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    return path
