"""Names of layers in torchvision, timm, Keras, Caffe and the authors' release, and this package's names."""

from __future__ import annotations

import re

from deeplab.network.architecture import VARIANTS, Convolution

_CONVOLUTIONS = [layer.name for layer in VARIANTS["deeplab"].trunk if isinstance(layer, Convolution)]
_BY_INDEX = dict(zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), _CONVOLUTIONS, strict=True))
_TORCH = {f"features.{index}": name for index, name in _BY_INDEX.items()} | {
    "classifier.0": "fc6",
    "classifier.3": "fc7",
    "classifier.6": "fc8",  # torchvision
    "pre_logits.fc1": "fc6",
    "pre_logits.fc2": "fc7",
    "head.fc": "fc8",  # timm
}
_KERAS = {f"block{name[4]}_conv{name[6]}": name for name in _CONVOLUTIONS} | {
    "fc1": "fc6",
    "fc2": "fc7",
    "predictions": "fc8",
}
_BRANCH_PARTS = {"conv": 0, "fc": 3, "ms": 6}  # convolutions of a multi-scale classifier in the release

_PLAIN = re.compile(r"(conv\d_\d|fc[678])(?:_\w+?)??[._/](weight|bias|kernel|W|b|0|1)(?::0)?")
_RELEASE_BRANCH = re.compile(r"(data|pool\d)_(conv|fc|ms)\.([01])")
_OWN_BRANCH = re.compile(r"branches\.\w+\.\d\.(?:weight|bias)")
_TORCH_NAME = re.compile(r"(?:module\.)?(\w+\.\w+)\.(weight|bias)")
_KERAS_NAME = re.compile(r"(?:.*/)?(block\d_conv\d|fc1|fc2|predictions)[_/](kernel|bias|W|b)(?:_\d+)?(?::0)?")


def program_and_name(name: str) -> tuple[str, str]:
    """Translate the name of an array.

    Args:
        name: Name of an array in a file.

    Returns:
        The program that names arrays so ("torch", "keras", "caffe", "own", "plain" or "unknown"), and this
        package's name, such as "conv1_1.weight". An unknown name stays as it is.
    """
    if (match := _TORCH_NAME.fullmatch(name)) and match[1] in _TORCH:
        return "torch", f"{_TORCH[match[1]]}.{match[2]}"
    if match := _KERAS_NAME.fullmatch(name):
        return "keras", f"{_KERAS[match[1]]}.{_kind(match[2])}"
    if match := _RELEASE_BRANCH.fullmatch(name):
        return "caffe", f"branches.{match[1]}.{_BRANCH_PARTS[match[2]]}.{_kind(match[3])}"
    if _OWN_BRANCH.fullmatch(name):
        return "own", name
    if match := _PLAIN.fullmatch(name):
        return "plain", f"{match[1]}.{_kind(match[2])}"
    return "unknown", name


def _kind(suffix: str) -> str:
    """Whether the last part of a name stands for "bias" or "weight"."""
    return "bias" if suffix in ("bias", "b", "1") else "weight"
