"""Label maps of TIFFs too large for memory."""

from typing import TYPE_CHECKING

from deeplab.lazy import public_names

if TYPE_CHECKING:
    from deeplab.large_images.segment import LargeSegmentation as LargeSegmentation
    from deeplab.large_images.segment import is_large as is_large
    from deeplab.large_images.segment import segment_mosaic as segment_mosaic
    from deeplab.large_images.tiff import LargeTiff as LargeTiff

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "segment": ["LargeSegmentation", "is_large", "segment_mosaic"],
        "tiff": ["LargeTiff"],
    },
)
