"""The atrous VGG-16: architecture, layer table, preprocessing, upsampling, tiling and fast convolutions."""

from typing import TYPE_CHECKING

from deeplab.lazy import public_names

if TYPE_CHECKING:
    from deeplab.network.architecture import VARIANTS as VARIANTS
    from deeplab.network.architecture import DeepLab as DeepLab
    from deeplab.network.architecture import Variant as Variant
    from deeplab.network.architecture import build as build
    from deeplab.network.layer_table import Layer as Layer
    from deeplab.network.layer_table import describe as describe
    from deeplab.network.preprocessing import Preparation as Preparation
    from deeplab.network.preprocessing import prepare as prepare
    from deeplab.network.tiling import windows as windows
    from deeplab.network.upsampling import upsample as upsample

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "architecture": ["DeepLab", "VARIANTS", "Variant", "build"],
        "layer_table": ["Layer", "describe"],
        "preprocessing": ["Preparation", "prepare"],
        "tiling": ["windows"],
        "upsampling": ["upsample"],
    },
)
