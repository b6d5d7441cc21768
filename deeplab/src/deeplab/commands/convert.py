"""``deeplab convert``: weights of another program as ours."""

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
    """The file to write, ending in .safetensors; its card goes beside it."""
    variant: str | None = None
    """Name of the network; by default what the file's fc6 fits."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, id order; by default VOC's."""


def convert(options: Convert) -> int:
    """Write weights of another program as ours and say what did not carry over."""
    from deeplab.model.loading import convert_named
    from deeplab.weights.store import save_weights

    if options.out.suffix != ".safetensors":
        raise ValueError(f"got {options.out}, wanted a file ending in .safetensors")
    found = convert_named(options.file, options.variant, class_names=options.class_names or None)
    save_weights(options.out, found.network, found.card)
    print(f"{options.out}, card {options.out.with_suffix('.json')}: {found.summary()}")
    return OK
