"""Weights on disk: safetensors with a JSON card beside them. Nothing is ever unpickled."""

from __future__ import annotations

import json
import operator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from deeplab.classes import IGNORE
from deeplab.files import write_whole
from deeplab.network.architecture import DeepLab, build
from deeplab.network.preprocessing import Preparation

LONGEST_SIDE = 513
"""Pixels: larger photos are reduced to it for the network. Chosen by measurement, see
results/large-photos.md."""
LEAST_SIDE = 32
"""Pixels: a photo is not reduced to less, which would be four scores on its longer side."""


@dataclass(frozen=True)
class Card:
    """What weights are: the network they fit, the classes they know, how photos must be prepared, their
    provenance."""

    variant: str
    class_names: tuple[str, ...]
    preparation: Preparation = field(default_factory=Preparation)
    crf: dict[str, Any] = field(default_factory=dict)
    """Fields of ``densecrf.Params`` that suit these weights; empty for the defaults."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Data, recipe, time and scores, for people; the program does not read it."""
    base: str = ""
    """Name of a weights file in the same folder that has the tensors this one lacks; "" where it has them
    all."""
    size: int = LONGEST_SIDE
    """Pixels of the longer side at which the network looks at larger photos unless told otherwise, that is of
    the largest it was trained on; 0 for full size."""


def card_path(weights: Path) -> Path:
    """The card's place: beside the weights, ending in .json."""
    return weights.with_suffix(".json")


def save_weights(path: str | Path, network: DeepLab, card: Card, *, half: bool = True) -> None:
    """Write weights and card, each whole or not at all.

    Args:
        path: the file, ending in .safetensors; the card goes beside it as .json.
        network: whose parameters are written.
        card: what they are. If it names a base, tensors that are equal to the base's are left out of the
            file.
        half: store fp16 (half the size; the network computes in fp32 after loading).

    Raises:
        FileNotFoundError, ValueError: if the base is missing or cannot be read.
    """
    path = Path(path)
    dtype = torch.float16 if half else torch.float32
    tensors = {name: value.detach().to(dtype).contiguous() for name, value in network.state_dict().items()}
    if card.base:
        shared = _tensors_of(_base_path(path, card))
        equal = [
            name for name, value in tensors.items() if name in shared and torch.equal(shared[name], value)
        ]
        tensors = {name: value for name, value in tensors.items() if name not in equal}
    write_whole(path, save(tensors))
    write_whole(card_path(path), json.dumps(asdict(card), indent=2, ensure_ascii=False) + "\n")


def load_weights(path: str | Path) -> tuple[DeepLab, Card]:
    """Read weights and card and build the network they belong to, in evaluation mode.

    Raises:
        FileNotFoundError: if the weights, their card or the base that it names are missing.
        ValueError: if a file is damaged, or a tensor is missing, unknown or of the wrong shape.
    """
    path = Path(path)
    for file in (path, card_path(path)):
        if not file.is_file():
            raise FileNotFoundError(
                f"no file {file}; wanted weights (.safetensors) with their card (.json) beside them"
            )
    card = read_card(card_path(path))
    network = build(card.variant, classes=len(card.class_names))
    wanted = network.state_dict()
    tensors = _tensors_of(path)
    if card.base:
        shared = _tensors_of(_base_path(path, card))
        tensors = {name: value for name, value in shared.items() if name in wanted} | tensors
    if set(tensors) != set(wanted):
        lacking, foreign = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
        raise ValueError(
            f"{path}: not weights of {card.variant}: lacks {lacking or 'none'}, has also {foreign}"
        )
    for name, tensor in wanted.items():
        found = tuple(tensors[name].shape)
        if found != tuple(tensor.shape):
            raise ValueError(f"{path}: {name} is {found}, wanted {tuple(tensor.shape)} for {card.variant}")
        tensor.copy_(tensors[name])
    if not all(bool(torch.isfinite(tensor).all()) for tensor in wanted.values()):
        raise ValueError(f"{path}: has weights that are NaN or infinite; it cannot be used")
    return network.eval(), replace(card, base="")  # what was loaded is whole, wherever it is saved next


def _base_path(path: Path, card: Card) -> Path:
    base = path.with_name(card.base) if Path(card.base).name == card.base else None
    if base is None or base == path:
        raise ValueError(
            f"{card_path(path)}: got base {card.base!r}, wanted the name of another file beside it"
        )
    if not base.is_file():
        raise FileNotFoundError(
            f"no file {base}; {path.name} has only what differs from it, so both are wanted"
        )
    return base


def _tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, as they are stored."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a readable safetensors file ({error}); fetch or copy it again"
        ) from None


def read_card(path: Path) -> Card:
    """The card in a JSON file; ValueError says what is wrong with it."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        names = tuple(str(name) for name in raw["class_names"])
        if len(names) > IGNORE:
            raise ValueError(f"{len(names)} classes, wanted at most {IGNORE}, as label maps have 8 bits")
        how: dict[str, Any] = dict(raw["preparation"])
        how |= {key: tuple(map(float, how[key])) for key in ("mean", "scale") if key in how}
        crf, provenance = (
            dict(raw.get("crf", {})),
            dict(raw.get("provenance") or raw.get("story", {})),
        )  # "story" until 0.1
        size = operator.index(raw.get("size", LONGEST_SIDE))
        if size != 0 and size < LEAST_SIDE:
            raise ValueError(f"size {size}, wanted at least {LEAST_SIDE} pixels, or 0 for full size")
        return Card(
            str(raw["variant"]), names, Preparation(**how), crf, provenance, str(raw.get("base", "")), size
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a card of weights: {type(error).__name__}: {error}") from None
