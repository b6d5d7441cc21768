"""Models by name or from a file: shipped weights, our own, the hub's, and those of other programs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from deeplab.model.segmentation import Model
from deeplab.network.architecture import VARIANTS, DeepLab
from deeplab.weights.conversion import Conversion, convert
from deeplab.weights.exported import FORMATS, open_exported
from deeplab.weights.hub import CARD_FILE, HUB_PREFIX, IMAGENET_FILE, IMAGENET_REPOSITORY, WEIGHTS_FILE, fetch
from deeplab.weights.store import Card, card_path, load_weights, read_card

DEFAULT = "deeplab-largefov"


def load(
    variant: str | None = None,
    *,
    weights: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
) -> Model:
    """A model ready to segment.

    Args:
        variant: a name in ``network.VARIANTS``; by default what the weights are of.
        weights: None for the weights that come with the package. A .safetensors file with its card beside it.
            "hf-hub:owner/name" for weights that ``Model.push_to_hub`` published. A file of another program,
            as ``conversion.convert`` reads them, the authors' .caffemodel files among them. "imagenet" for
            ImageNet's VGG-16 from the hub, to be trained: its fc8 is random. What did not carry over is told
            by a warning. An
            .onnx or .xml file that ``deeplab export`` wrote, with its card beside it; such a model only
            segments.
        class_names: of weights of another program, id order.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" …
        precision: "auto" (bfloat16 where the processor has it in hardware), "fp32" or "bf16".
        compile: run the network through ``torch.compile``.

    Raises:
        FileNotFoundError: if there are no such weights.
        ModuleNotFoundError: if an exported file needs a program that is not installed; says how to get it.
        ConnectionError: if the hub cannot be reached; says how to get the file by hand.
        ValueError: for an unknown variant, or weights that are damaged or of another variant.
    """
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"got variant {variant!r}, wanted one of: {', '.join(VARIANTS)}")
    if weights is None:
        return Model(*shipped(variant or DEFAULT), device=device, precision=precision, compile=compile)
    if Path(weights).suffix in FORMATS.values():
        return _exported(Path(weights), variant, device=device, precision=precision, compile=compile)
    file, own = _file(weights)
    if not own:
        found = convert(file, variant, class_names=class_names)
        if found.reduced or found.untrained or found.dropped:
            warnings.warn(f"{weights}: {found.summary()}", stacklevel=2)
        return Model(found.network, found.card, device=device, precision=precision, compile=compile)
    network, card = load_weights(file)
    _require_variant(weights, card, variant)
    return Model(network, card, device=device, precision=precision, compile=compile)


def convert_named(weights: str | Path, variant: str | None = None, **options: Any) -> Conversion:
    """``conversion.convert`` for what ``load`` takes as weights of another program, "imagenet" among them."""
    return convert(_file(weights)[0], variant, **options)


def shipped(variant: str = DEFAULT) -> tuple[DeepLab, Card]:
    """The network that comes with the package, and its card; FileNotFoundError if there is none of this
    variant."""
    with resources.as_file(resources.files("deeplab") / "pretrained") as folder:
        file = folder / f"{variant}-voc.safetensors"
        if file.is_file():
            return load_weights(file)
        known = ", ".join(sorted(path.stem.removesuffix("-voc") for path in folder.glob("*.safetensors")))
    raise FileNotFoundError(
        f"no weights of {variant} come with the package, only of {known}; give a file of them as weights=…"
    )


def _exported(file: Path, variant: str | None, *, device: str, precision: str, compile: bool) -> Model:
    """A model that an exported file computes."""
    if compile:
        raise ValueError(f"{file}: an exported network, which torch cannot compile; leave compile out")
    for path in (file, card_path(file)):
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {path}; wanted an exported network with its card (.json) beside it"
            )
    card = read_card(card_path(file))
    _require_variant(file, card, variant)
    return Model(open_exported(file, card, device=device, precision=precision), card)


def _require_variant(weights: str | Path, card: Card, variant: str | None) -> None:
    if variant not in (None, card.variant):
        raise ValueError(
            f"{weights}: got weights of {card.variant}, wanted {variant}; load({card.variant!r}, …) works"
        )


def _file(weights: str | Path) -> tuple[Path, bool]:
    """Where the weights are on disk, and whether they have a card of ours beside them."""
    if weights == "imagenet":
        return fetch(IMAGENET_REPOSITORY, IMAGENET_FILE), False
    if str(weights).startswith(HUB_PREFIX):
        repository = str(weights).removeprefix(HUB_PREFIX)
        if repository.count("/") != 1:
            raise ValueError(f"got {weights!r}, wanted hf-hub:owner/name")
        fetch(repository, CARD_FILE)
        return fetch(repository, WEIGHTS_FILE), True
    path = Path(weights)
    return path, path.suffix == ".safetensors" and card_path(path).is_file()
