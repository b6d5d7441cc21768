"""The cascade of network and CRF: load a model and segment photos."""

from typing import TYPE_CHECKING

from deeplab.lazy import public_names

if TYPE_CHECKING:
    from deeplab.model.loading import load as load
    from deeplab.model.predictor import Predictor as Predictor
    from deeplab.model.predictor import TestTimeAugmentation as TestTimeAugmentation
    from deeplab.model.segmentation import Model as Model
    from deeplab.model.segmentation import Segmentation as Segmentation

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "loading": ["load"],
        "predictor": ["Predictor", "TestTimeAugmentation"],
        "segmentation": ["Model", "Segmentation"],
    },
)
