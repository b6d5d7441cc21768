"""A photo goes in, a label for every pixel comes out: an atrous VGG-16 and a fully connected CRF.

model = deeplab.load()
result = model.segment("photo.jpg")
result.labels, result.overlay(alpha=0.5), result.save("labels.png")

Source: "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs", arXiv 1412.7062.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeplab.classes import IGNORE, VOC_CLASSES
    from deeplab.conversion import convert
    from deeplab.datasets import open_dataset
    from deeplab.evaluation import Scores, evaluate
    from deeplab.loading import load
    from deeplab.network import build
    from deeplab.photos import PhotoError
    from deeplab.recipes import Recipe, read_recipe
    from deeplab.segment import Model, Segmentation
    from deeplab.training import train

__version__ = "0.1.0"
_HOMES = {
    "IGNORE": "classes", "VOC_CLASSES": "classes", "PhotoError": "photos", "build": "network", "Model": "segment",
    "Segmentation": "segment", "load": "loading", "convert": "conversion", "open_dataset": "datasets",
    "Scores": "evaluation", "evaluate": "evaluation", "Recipe": "recipes", "read_recipe": "recipes",
    "train": "training",
}  # fmt: skip
__all__ = [
    "IGNORE", "VOC_CLASSES", "Model", "PhotoError", "Recipe", "Scores", "Segmentation", "build", "convert", "evaluate",
    "load", "open_dataset", "read_recipe", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a public name's module on first use, so that ``import deeplab`` does not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'deeplab' has no attribute {name!r}")
    value = getattr(import_module(f"deeplab.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
