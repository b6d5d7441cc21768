"""VGG-16 and DeepLab weights from elsewhere into this package's networks: names, layouts, smaller fc6 and
fc7."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deeplab.classes import IGNORE, VOC_CLASSES
from deeplab.network.architecture import VARIANTS, Convolution, DeepLab, build
from deeplab.network.preprocessing import RELEASE, TORCHVISION, Preparation
from deeplab.weights.checkpoint_files import Array, Checkpoint, open_checkpoint
from deeplab.weights.store import Card

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
_BRANCH_PARTS = {
    "conv": 0,
    "fc": 3,
    "ms": 6,
}  # the release's names of a multi-scale classifier's convolutions

FULL_FC6, FULL_FC7 = (4096, 512, 7, 7), (4096, 4096, 1, 1)


@dataclass(frozen=True)
class Conversion:
    """A network with weights from elsewhere, and what did not simply carry over."""

    network: DeepLab
    card: Card
    reduced: tuple[str, ...]
    """Layers made smaller: taps of fc6 left out, filters of fc6 and fc7 drawn at random."""
    untrained: tuple[str, ...]
    """Layers that the file lacks; they have random weights."""
    dropped: tuple[str, ...]
    """Arrays of the file that the network has no place for."""

    def summary(self) -> str:
        """One line for people."""
        parts = {"made smaller": self.reduced, "still random": self.untrained, "left out": self.dropped}
        told = [f"{title}: {', '.join(names)}" for title, names in parts.items() if names]
        return f"{self.card.variant}, {len(self.card.class_names)} classes; {'; '.join(told) or 'every layer fits'}"


def convert(
    path: str | Path,
    variant: str | None = None,
    *,
    class_names: Sequence[str] | None = None,
    preparation: Preparation | None = None,
    seed: int = 0,
) -> Conversion:
    """A network with weights of another program.

    Read are ImageNet VGG-16 in the form of torchvision or timm (.safetensors), Keras or plain NumPy (.npz),
    and Caffe (.caffemodel), and the networks of the authors' release (.caffemodel). fc6 of a whole VGG-16 is
    decimated to the variant's kernel, and fc6 and fc7 to a random subset of as many filters as the variant
    has.

    Args:
        path: the file.
        variant: a name in ``network.VARIANTS``; None for what the file's fc6 fits, LargeFOV for a whole
            VGG-16.
        class_names: of fc8; by default VOC's where the file's fc8 has 21 classes or is not for the variant.
        preparation: how photos must be prepared; by default as the program that wrote the file does it: R, G,
            B with mean and deviation for torchvision and timm, B, G, R less the mean for the others.
        seed: of the random subset and of layers that the file lacks.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or an array is missing or has a shape that does not fit; names the
            layer, the shape found and the shape wanted.

    Source: DeepLab, sections 3.1 and 4; DeepLab v2, section 4.1 (the subset); release, train.prototxt.
    """
    checkpoint = open_checkpoint(path)
    arrays, own = _canonical(checkpoint)
    variant = variant or _guess(arrays)
    if variant not in VARIANTS:
        raise ValueError(f"got variant {variant!r}, wanted one of: {', '.join(VARIANTS)}")
    rows = arrays["fc8.bias"].shape[-1:] if "fc8.bias" in arrays else ()
    trained = len(rows) == 1 and 2 <= rows[0] <= IGNORE
    if class_names is None:
        count = rows[0] if trained else len(VOC_CLASSES)
        class_names = (
            VOC_CLASSES if count == len(VOC_CLASSES) else [f"class {index}" for index in range(count)]
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(variant, classes=len(class_names))
    if not trained:  # a classifier of ImageNet's thousand
        arrays = {name: array for name, array in arrays.items() if not name.startswith("fc8")}
    reduced, untrained = _fill(network, checkpoint, arrays, seed)
    dropped = tuple(sorted(set(arrays) - set(network.state_dict())))
    card = Card(
        variant, tuple(class_names), preparation or own, provenance={"converted from": Path(path).name}
    )
    return Conversion(network.eval(), card, reduced, untrained, dropped)


def decimate(weight: np.ndarray, kernel: int) -> np.ndarray:
    """Taps of fc6 at even steps, first and last among them: (O, I, 7, 7) to (O, I, kernel, kernel).

    For 4×4 taps 0, 2, 4, 6 are kept, for 3×3 taps 0, 3, 6. Source: DeepLab, section 3.1.
    """
    taps = np.linspace(0, weight.shape[-1] - 1, kernel).round().astype(int)
    return weight[:, :, taps[:, None], taps]


def _fill(
    network: DeepLab, checkpoint: Checkpoint, arrays: dict[str, Array], seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Copy what fits; names of the layers that were reduced, and of those that the file lacks."""
    head = network.variant.head
    rng = np.random.default_rng(seed)
    fc6_kept, fc7_kept = (np.sort(rng.choice(4096, head.channels, replace=False)) for _ in range(2))
    smaller: dict[str, tuple[tuple[int, ...], Callable[[np.ndarray], np.ndarray]]] = {
        "fc6.weight": (FULL_FC6, lambda full: decimate(full[fc6_kept], head.kernel)),
        "fc6.bias": (FULL_FC6[:1], lambda full: full[fc6_kept]),
        "fc7.weight": (FULL_FC7, lambda full: full[fc7_kept][:, fc6_kept]),
        "fc7.bias": (FULL_FC7[:1], lambda full: full[fc7_kept]),
    }
    whole = "fc6.weight" in arrays and math.prod(arrays["fc6.weight"].shape) == math.prod(FULL_FC6)
    last_axis = arrays["conv1_1.weight"].shape[-1:] if "conv1_1.weight" in arrays else ()
    oihw = last_axis != (64,)  # of Caffe and torch; Keras and TensorFlow have (h, w, I, O)
    reduced, untrained = set(), set()
    for name, tensor in network.state_dict().items():
        layer, wanted = name.rpartition(".")[0], tuple(tensor.shape)
        if name not in arrays:
            if layer.startswith("conv"):
                raise ValueError(
                    f"{checkpoint.path}: {name}: found nothing, wanted {wanted}{_hint(checkpoint)}"
                )
            untrained.add(layer)
            continue
        found, change = arrays[name], None
        if whole and name in smaller and wanted != smaller[name][0]:
            expected, change = smaller[name]
        else:
            expected = wanted
        misfit = (
            f"{checkpoint.path}: {name}: found {found.shape}, wanted {expected} for {network.variant.name}"
        )
        if math.prod(found.shape) != math.prod(expected):
            raise ValueError(misfit)
        values = _standard(found.read(), expected, oihw=oihw)
        if values is None:
            raise ValueError(misfit)
        values = (change(values) if change else values).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError(
                f"{checkpoint.path}: {name}: has numbers that are NaN or infinite; it cannot be used"
            )
        tensor.copy_(torch.from_numpy(values))
        if change:
            reduced.add(layer)
    return tuple(sorted(reduced)), tuple(sorted(untrained))


def _standard(values: np.ndarray, expected: tuple[int, ...], *, oihw: bool) -> np.ndarray | None:
    """The array with the axes ``expected`` has, (O, I, h, w) or (O,); None where its own do not fit."""
    shape: tuple[int, ...] = values.shape
    if len(expected) == 1:  # Caffe once wrote (1, 1, 1, O)
        return values.reshape(expected) if shape[-1:] == expected else None
    if len(shape) == 4 and oihw and shape[:2] != (1, 1):
        return values if shape == expected else None
    if len(shape) == 4 and not oihw:
        values = values.transpose(3, 2, 0, 1)
        return values if values.shape == expected else None
    outputs, inputs, height, width = expected
    if len(shape) < 2 or math.prod(shape[:-2]) != 1:
        return None
    matrix = values.reshape(shape[-2:])
    if shape[-2:] != ((outputs, inputs * height * width) if oihw else (inputs * height * width, outputs)):
        return None
    if oihw:
        return matrix.reshape(expected)
    return matrix.T.reshape(outputs, height, width, inputs).transpose(0, 3, 1, 2)


_PLAIN = re.compile(r"(conv\d_\d|fc[678])(?:_\w+?)??[._/](weight|bias|kernel|W|b|0|1)(?::0)?")
_RELEASE_BRANCH = re.compile(r"(data|pool\d)_(conv|fc|ms)\.([01])")
_OWN_BRANCH = re.compile(r"branches\.\w+\.\d\.(?:weight|bias)")
_TORCH_NAME = re.compile(r"(?:module\.)?(\w+\.\w+)\.(weight|bias)")
_KERAS_NAME = re.compile(r"(?:.*/)?(block\d_conv\d|fc1|fc2|predictions)[_/](kernel|bias|W|b)(?:_\d+)?(?::0)?")


def _canonical(checkpoint: Checkpoint) -> tuple[dict[str, Array], Preparation]:
    """The arrays under this package's names, the others under their own; and how their program prepares
    photos."""
    named: dict[str, Array] = {}
    forms = set()
    for name, array in checkpoint.arrays.items():
        form, own = _own_name(name)
        forms.add(form)
        named[own] = array
    if "torch" in forms:
        return named, TORCHVISION
    fc6 = named.get("fc6.weight")
    whole_vgg = fc6 is not None and math.prod(fc6.shape) == math.prod(FULL_FC6)
    return named, RELEASE if checkpoint.form == "caffe" and not whole_vgg else Preparation()


def _own_name(name: str) -> tuple[str, str]:
    """Who names an array so, and our name for it."""
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


def _kind(word: str) -> str:
    return "bias" if word in ("bias", "b", "1") else "weight"


def _guess(arrays: dict[str, Array]) -> str:
    """The variant whose head and branches the arrays are; LargeFOV for a whole VGG-16 and for a trunk
    alone."""
    shape = arrays["fc6.weight"].shape if "fc6.weight" in arrays else ()
    rows = arrays["fc8.bias"].shape[-1:] if "fc8.bias" in arrays else (1000,)
    msc = "-msc" if any(name.startswith("branches.") for name in arrays) else ""
    if shape == (4096, 512, 4, 4):
        return f"deeplab{msc}"
    if shape == FULL_FC6 and rows and rows[0] <= IGNORE:
        return "deeplab-7x7"
    return f"deeplab{msc}-largefov"


def _hint(checkpoint: Checkpoint) -> str:
    names = list(checkpoint.arrays)
    return f"; the file has {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
