"""``deeplab convert``: convert weights from other programs to this package's format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from deeplab.commands.common import OK


@dataclass(frozen=True)
class Convert:
    """Convert weights from Caffe, torchvision, timm or Keras to .safetensors with a model card."""

    file: Positional[str]
    """A .caffemodel, .safetensors or .npz file, or "imagenet" for ImageNet's VGG-16 from the hub."""
    out: Path
    """File to write, ending in .safetensors; the model card is written to the same folder."""
    variant: str | None = None
    """Name of the network; by default the one that matches the file's fc6."""
    class_names: tuple[str, ...] = ()
    """Class names in the order of their ids; by default those of VOC."""


def convert(options: Convert) -> int:
    """Write the converted weights, and print which layers could not be converted."""
    from deeplab.model.loading import convert_named
    from deeplab.weights.store import save_weights

    if options.out.suffix != ".safetensors":
        raise ValueError(f"got {options.out}, wanted a file ending in .safetensors")
    converted = convert_named(options.file, options.variant, class_names=options.class_names or None)
    save_weights(options.out, converted.network, converted.card)
    print(f"{options.out}, card {options.out.with_suffix('.json')}: {converted.summary()}")
    return OK
