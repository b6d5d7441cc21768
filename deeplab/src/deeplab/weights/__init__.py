"""Weights on disk: safetensors files, weights of other programs, the Hugging Face hub, exported networks."""

from typing import TYPE_CHECKING

from deeplab.lazy import public_names

if TYPE_CHECKING:
    from deeplab.weights.caffe import read_caffemodel as read_caffemodel
    from deeplab.weights.checkpoint_files import open_checkpoint as open_checkpoint
    from deeplab.weights.class_replacement import replace_classes as replace_classes
    from deeplab.weights.conversion import Conversion as Conversion
    from deeplab.weights.conversion import convert as convert
    from deeplab.weights.exported import Exported as Exported
    from deeplab.weights.exported import open_exported as open_exported
    from deeplab.weights.exporter import export as export
    from deeplab.weights.store import DEFAULT_CRF as DEFAULT_CRF
    from deeplab.weights.store import Card as Card
    from deeplab.weights.store import load_weights as load_weights
    from deeplab.weights.store import read_card as read_card
    from deeplab.weights.store import save_weights as save_weights

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "caffe": ["read_caffemodel"],
        "checkpoint_files": ["open_checkpoint"],
        "conversion": ["Conversion", "convert"],
        "class_replacement": ["replace_classes"],
        "exported": ["Exported", "open_exported"],
        "exporter": ["export"],
        "store": ["Card", "DEFAULT_CRF", "load_weights", "read_card", "save_weights"],
    },
)
