"""Load models from shipped weights, files, the Hugging Face hub, and weights of other programs."""

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
    variant: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
) -> Model:
    """Load a model that is ready to segment photos.

    ``weights`` may be

    - None for the weights that come with the package,
    - a .safetensors file with its card beside it,
    - "hf-hub:owner/name" for weights that ``Model.push_to_hub`` published,
    - a file of another program that ``deeplab.convert`` reads, such as the authors' .caffemodel files,
    - "imagenet" for ImageNet's VGG-16 from the hub, which must be trained, because its fc8 is random,
    - an .onnx or .xml file that ``deeplab export`` wrote, with its card beside it; it can only segment.

    Args:
        variant: Name of a variant in ``network.VARIANTS``; by default that of the weights. A path or
            "hf-hub:owner/name" given here is taken for ``weights``.
        weights: Where the weights are; see above.
        class_names: Names of the classes in the order of their ids, for weights of another program.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" …
        precision: "auto" (bfloat16 where the processor has it in hardware), "fp32" or "bf16".
        compile: Run the network through ``torch.compile``.

    Returns:
        The model. A warning names the layers of another program's weights that could not be copied.

    Raises:
        FileNotFoundError: If there are no such weights.
        ModuleNotFoundError: If an exported file needs a program that is not installed; says how to get it.
        ConnectionError: If the hub cannot be reached; says how to get the file by hand.
        ValueError: For an unknown variant, or weights that are damaged or of another variant.
    """
    if weights is None and variant is not None and _is_location(variant):
        weights = variant
        variant = None
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"got variant {str(variant)!r}, wanted one of: {', '.join(VARIANTS)}")
    name = None if variant is None else str(variant)
    if weights is None:
        return Model(*shipped(name or DEFAULT), device=device, precision=precision, compile=compile)
    if Path(weights).suffix in FORMATS.values():
        return _load_exported(Path(weights), name, device=device, precision=precision, compile=compile)
    file, has_card = _find(weights)
    if has_card:
        network, card = load_weights(file)
        _check_variant(weights, card, name)
        return Model(network, card, device=device, precision=precision, compile=compile)
    conversion = convert(file, name, class_names=class_names)
    if conversion.reduced or conversion.untrained or conversion.dropped:
        warnings.warn(f"{weights}: {conversion.summary()}", stacklevel=2)
    return Model(conversion.network, conversion.card, device=device, precision=precision, compile=compile)


def convert_named(weights: str | Path, variant: str | None = None, **options: Any) -> Conversion:
    """Convert weights of another program as ``deeplab.convert`` does, from a name or a path.

    Args:
        weights: A file, "imagenet", or "hf-hub:owner/name", as in ``load``.
        variant: Name of a variant in ``network.VARIANTS``.
        options: Other options of ``deeplab.convert``.

    Returns:
        The converted network and a report.
    """
    return convert(_find(weights)[0], variant, **options)


def shipped(variant: str = DEFAULT) -> tuple[DeepLab, Card]:
    """Load the network of a variant that comes with the package.

    Args:
        variant: Name of a variant in ``network.VARIANTS``.

    Returns:
        The network and its card.

    Raises:
        FileNotFoundError: If no weights of this variant come with the package.
    """
    with resources.as_file(resources.files("deeplab") / "pretrained") as folder:
        file = folder / f"{variant}-voc.safetensors"
        if file.is_file():
            return load_weights(file)
        known = ", ".join(sorted(path.stem.removesuffix("-voc") for path in folder.glob("*.safetensors")))
    raise FileNotFoundError(
        f"no weights of {variant} come with the package, only of {known}; give a file of them as weights=…"
    )


def _is_location(name: str | Path) -> bool:
    """Whether a name is a path or an address on the hub; names of variants have no ending and no slash."""
    if isinstance(name, Path) or name.startswith(HUB_PREFIX):
        return True
    return name not in VARIANTS and (
        bool(Path(name).suffix) or Path(name).name != name or Path(name).is_file()
    )


def _load_exported(file: Path, variant: str | None, *, device: str, precision: str, compile: bool) -> Model:
    """A model that runs an exported file."""
    if compile:
        raise ValueError(f"{file}: an exported network, which torch cannot compile; leave compile out")
    for path in (file, card_path(file)):
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {path}; wanted an exported network with its card (.json) beside it"
            )
    card = read_card(card_path(file))
    _check_variant(file, card, variant)
    return Model(open_exported(file, card, device=device, precision=precision), card)


def _check_variant(weights: str | Path, card: Card, variant: str | None) -> None:
    """Raise ``ValueError`` if weights are not of the variant that was asked for."""
    if variant not in (None, card.variant):
        raise ValueError(
            f"{weights}: got weights of {card.variant}, wanted {variant}; load({card.variant!r}, …) works"
        )


def _find(weights: str | Path) -> tuple[Path, bool]:
    """Path of weights on disk, downloaded if need be, and whether they have a card of this package."""
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
