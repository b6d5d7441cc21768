"""Training: recipes, batches, losses, the learning-rate schedule and the loop."""

from typing import TYPE_CHECKING

from deeplab.lazy import public_names

if TYPE_CHECKING:
    from deeplab.training.augmentation import Augmentation as Augmentation
    from deeplab.training.loop import train as train
    from deeplab.training.recipe import Recipe as Recipe
    from deeplab.training.recipe import read_recipe as read_recipe

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "augmentation": ["Augmentation"],
        "loop": ["train"],
        "recipe": ["Recipe", "read_recipe"],
    },
)
