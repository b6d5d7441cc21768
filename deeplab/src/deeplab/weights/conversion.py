"""Conversion of VGG-16 and DeepLab weights of other programs: names, layouts, and smaller fc6 and fc7."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deeplab.classes import IGNORE, VOC_CLASSES
from deeplab.network.architecture import VARIANTS, DeepLab, build
from deeplab.network.preprocessing import RELEASE, TORCHVISION, Preparation
from deeplab.weights.checkpoint_files import Array, Checkpoint, open_checkpoint
from deeplab.weights.layer_names import program_and_name
from deeplab.weights.store import Card

FULL_FC6 = (4096, 512, 7, 7)
FULL_FC7 = (4096, 4096, 1, 1)


@dataclass(frozen=True)
class Conversion:
    """A network with weights of another program, and a report of what was not simply copied."""

    network: DeepLab
    """The network in evaluation mode."""
    card: Card
    """Its card."""
    reduced: tuple[str, ...]
    """Layers made smaller: fc6 by leaving out taps, fc6 and fc7 by drawing filters at random."""
    untrained: tuple[str, ...]
    """Layers that are not in the file and have random weights."""
    dropped: tuple[str, ...]
    """Arrays of the file that the network does not have."""

    def summary(self) -> str:
        """The report in one line."""
        parts = {"made smaller": self.reduced, "still random": self.untrained, "left out": self.dropped}
        report = [f"{title}: {', '.join(names)}" for title, names in parts.items() if names]
        classes = len(self.card.class_names)
        return f"{self.card.variant}, {classes} classes; {'; '.join(report) or 'every layer fits'}"


def convert(
    path: str | Path,
    variant: str | None = None,
    *,
    class_names: Sequence[str] | None = None,
    preparation: Preparation | None = None,
    seed: int = 0,
) -> Conversion:
    """Build a network with weights of another program.

    It reads ImageNet VGG-16 weights of torchvision or timm (.safetensors), Keras or plain NumPy (.npz) and
    Caffe (.caffemodel), and the networks of the authors' release (.caffemodel). fc6 of a whole VGG-16 is
    decimated to the variant's kernel, and fc6 and fc7 to a random subset of as many filters as the variant
    has.

    Args:
        path: File of weights.
        variant: Name of a variant in ``network.VARIANTS``. None chooses the one that the file's fc6 fits, and
            LargeFOV for a whole VGG-16.
        class_names: Names of the classes of fc8 in the order of their ids. None chooses VOC's if the file's
            fc8 has 21 classes or does not fit the variant.
        preparation: Preprocessing of photos. None chooses that of the program that wrote the file: R, G, B
            with mean and deviation for torchvision and timm, and B, G, R minus the mean for the others.
        seed: Seed of the random subset and of layers that are not in the file.

    Returns:
        The network, its card with the default CRF parameters, and a report.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or an array is missing or has another shape; names the layer and both
            shapes.

    Source: DeepLab, sections 3.1 and 4; DeepLab v2, section 4.1 (the subset); release, train.prototxt.
    """
    checkpoint = open_checkpoint(path)
    arrays, file_preparation = _by_own_names(checkpoint)
    variant = variant or _guess_variant(arrays)
    if variant not in VARIANTS:
        raise ValueError(f"got variant {variant!r}, wanted one of: {', '.join(VARIANTS)}")
    rows = arrays["fc8.bias"].shape[-1:] if "fc8.bias" in arrays else ()
    has_classifier = len(rows) == 1 and 2 <= rows[0] <= IGNORE
    if class_names is None:
        class_names = _class_names(rows[0] if has_classifier else len(VOC_CLASSES))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(variant, classes=len(class_names))
    if not has_classifier:  # a classifier of ImageNet's 1,000 classes
        arrays = {name: array for name, array in arrays.items() if not name.startswith("fc8")}
    reduced, untrained = _fill(network, checkpoint, arrays, seed)
    dropped = tuple(sorted(set(arrays) - set(network.state_dict())))
    provenance = {"converted from": Path(path).name}
    card = Card(variant, tuple(class_names), preparation or file_preparation, provenance=provenance)
    return Conversion(network.eval(), card, reduced, untrained, dropped)


def decimate(weight: np.ndarray, kernel: int) -> np.ndarray:
    """Keep taps of fc6 at even steps, the first and the last among them.

    Args:
        weight: (O, I, 7, 7).
        kernel: Number of taps to keep in each direction: for 4, taps 0, 2, 4, 6; for 3, taps 0, 3, 6.

    Returns:
        (O, I, kernel, kernel).

    Source: DeepLab, section 3.1.
    """
    taps = np.linspace(0, weight.shape[-1] - 1, kernel).round().astype(int)
    return weight[:, :, taps[:, None], taps]


def _class_names(count: int) -> Sequence[str]:
    return VOC_CLASSES if count == len(VOC_CLASSES) else [f"class {index}" for index in range(count)]


_Reduction = tuple[tuple[int, ...], Callable[[np.ndarray], np.ndarray]]


def _reductions(network: DeepLab, seed: int) -> dict[str, _Reduction]:
    """Full shapes of fc6 and fc7 of a whole VGG-16, and functions that make the arrays smaller."""
    head = network.variant.head
    rng = np.random.default_rng(seed)
    fc6_filters = np.sort(rng.choice(4096, head.channels, replace=False))
    fc7_filters = np.sort(rng.choice(4096, head.channels, replace=False))
    return {
        "fc6.weight": (FULL_FC6, lambda full: decimate(full[fc6_filters], head.kernel)),
        "fc6.bias": (FULL_FC6[:1], lambda full: full[fc6_filters]),
        "fc7.weight": (FULL_FC7, lambda full: full[fc7_filters][:, fc6_filters]),
        "fc7.bias": (FULL_FC7[:1], lambda full: full[fc7_filters]),
    }


def _fill(
    network: DeepLab, checkpoint: Checkpoint, arrays: dict[str, Array], seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Copy what fits; returns the layers that were made smaller and those that are not in the file."""
    reductions = _reductions(network, seed) if _has_whole_vgg(arrays) else {}
    last_axis = arrays["conv1_1.weight"].shape[-1:] if "conv1_1.weight" in arrays else ()
    oihw = last_axis != (64,)  # as Caffe and torch have it; Keras and TensorFlow have (h, w, I, O)
    reduced = set()
    untrained = set()
    for name, tensor in network.state_dict().items():
        layer = name.rpartition(".")[0]
        shape = tuple(tensor.shape)
        if name not in arrays:
            if layer.startswith("conv"):
                hint = _hint(checkpoint)
                raise ValueError(f"{checkpoint.path}: {name}: found nothing, wanted {shape}{hint}")
            untrained.add(layer)
            continue
        full_shape, reduce = reductions.get(name, (shape, None))
        if full_shape == shape:
            reduce = None
        place = f"{checkpoint.path}: {name}"
        misfit = f"{place}: found {arrays[name].shape}, wanted {full_shape} for {network.variant.name}"
        values = _read(arrays[name], full_shape, misfit, oihw=oihw)
        values = (reduce(values) if reduce else values).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"{place}: has numbers that are NaN or infinite; it cannot be used")
        tensor.copy_(torch.from_numpy(values))
        if reduce:
            reduced.add(layer)
    return tuple(sorted(reduced)), tuple(sorted(untrained))


def _read(array: Array, shape: tuple[int, ...], misfit: str, *, oihw: bool) -> np.ndarray:
    """Read an array in the axes of ``shape``; ``ValueError`` with the message if it does not fit."""
    if math.prod(array.shape) != math.prod(shape):  # before anything is read
        raise ValueError(misfit)
    values = _standard_axes(array.read(), shape, oihw=oihw)
    if values is None:
        raise ValueError(misfit)
    return values


def _standard_axes(values: np.ndarray, expected: tuple[int, ...], *, oihw: bool) -> np.ndarray | None:
    """The array with the axes of ``expected``, (O, I, h, w) or (O,); None if its own axes do not fit."""
    shape: tuple[int, ...] = values.shape
    if len(expected) == 1:  # old files of Caffe have (1, 1, 1, O)
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


def _by_own_names(checkpoint: Checkpoint) -> tuple[dict[str, Array], Preparation]:
    """The arrays by this package's names where these are known, and the preprocessing of their program."""
    named: dict[str, Array] = {}
    programs = set()
    for name, array in checkpoint.arrays.items():
        program, own_name = program_and_name(name)
        programs.add(program)
        named[own_name] = array
    if "torch" in programs:
        return named, TORCHVISION
    is_release = checkpoint.form == "caffe" and not _has_whole_vgg(named)
    return named, RELEASE if is_release else Preparation()


def _has_whole_vgg(arrays: dict[str, Array]) -> bool:
    """Whether fc6 has all taps and filters of VGG-16."""
    return "fc6.weight" in arrays and math.prod(arrays["fc6.weight"].shape) == math.prod(FULL_FC6)


def _guess_variant(arrays: dict[str, Array]) -> str:
    """The variant that the arrays fit; LargeFOV for a whole VGG-16 and for a trunk without head."""
    shape = arrays["fc6.weight"].shape if "fc6.weight" in arrays else ()
    rows = arrays["fc8.bias"].shape[-1:] if "fc8.bias" in arrays else (1000,)
    msc = "-msc" if any(name.startswith("branches.") for name in arrays) else ""
    if shape == (4096, 512, 4, 4):
        return f"deeplab{msc}"
    if shape == FULL_FC6 and rows and rows[0] <= IGNORE:
        return "deeplab-7x7"
    return f"deeplab{msc}-largefov"


def _hint(checkpoint: Checkpoint) -> str:
    """The first names in a file, for an error message."""
    names = list(checkpoint.arrays)
    return f"; the file has {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
