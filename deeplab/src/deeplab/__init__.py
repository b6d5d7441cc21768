"""Semantic image segmentation with an atrous VGG-16 and a fully connected CRF.

    model = deeplab.load()
    result = model.segment("photo.jpg")
    result.labels, result.overlay(alpha=0.5), result.save("labels.png")

Source: "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs", arXiv 1412.7062.
"""

from typing import TYPE_CHECKING

from deeplab.lazy import public_names

if TYPE_CHECKING:
    from deeplab.classes import IGNORE as IGNORE
    from deeplab.classes import VOC_CLASSES as VOC_CLASSES
    from deeplab.datasets import open_dataset as open_dataset
    from deeplab.evaluation import Scores as Scores
    from deeplab.evaluation import evaluate as evaluate
    from deeplab.model import Model as Model
    from deeplab.model import Segmentation as Segmentation
    from deeplab.model import load as load
    from deeplab.network import build as build
    from deeplab.photos import PhotoError as PhotoError
    from deeplab.training import Recipe as Recipe
    from deeplab.training import read_recipe as read_recipe
    from deeplab.training import train as train
    from deeplab.weights import convert as convert

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "classes": ["IGNORE", "VOC_CLASSES"],
        "datasets": ["open_dataset"],
        "evaluation": ["Scores", "evaluate"],
        "model": ["Model", "Segmentation", "load"],
        "network": ["build"],
        "photos": ["PhotoError"],
        "training": ["Recipe", "read_recipe", "train"],
        "weights": ["convert"],
    },
)
