"""``deeplab convert``: turn weights of another program into this package's format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from deeplab.commands.common import OK


@dataclass(frozen=True)
class Convert:
    """Turn weights of another program (Caffe, torchvision, timm, Keras) into .safetensors with a card."""

    file: Positional[str]
    """A .caffemodel, .safetensors or .npz file, or "imagenet" for ImageNet's VGG-16 from the hub."""
    out: Path
    """File to write, ending in .safetensors; the card is written beside it."""
    variant: str | None = None
    """Name of the network; by default one that the fc6 of the file fits."""
    class_names: tuple[str, ...] = ()
    """Names of the classes in the order of their ids; by default those of VOC."""


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
