"""Weights on disk: safetensors files with a JSON card beside them. Nothing is ever unpickled."""

from __future__ import annotations

import json
import operator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

import densecrf
from deeplab.classes import IGNORE
from deeplab.files import write_whole
from deeplab.network.architecture import DeepLab, build
from deeplab.network.preprocessing import Preparation

LONGEST_SIDE = 513
"""Length in pixels to which the longer side of larger photos is reduced for the network, by default.

Chosen by measurement, see results/large-photos.md.
"""
MIN_SIDE = 32
"""Smallest length in pixels that may be chosen; the photo then has four scores on its longer side."""

# Source: the working values of the scripts of the authors' release. Its inference code (densecrf/libDenseCRF)
# divides each message by the kernel's row sums after filtering, so the values belong to "after" and not to
# "symmetric", the default of densecrf.Params. The weights that come with the package have the same values.
DEFAULT_CRF = densecrf.Params(
    appearance_weight=5.0,
    appearance_xy_std=50.0,
    appearance_rgb_std=3.0,
    smoothness_weight=3.0,
    smoothness_xy_std=3.0,
    normalization="after",
)
"""CRF parameters of weights whose card has none: those of the authors' release."""


@dataclass(frozen=True)
class Card:
    """The description of weights: their network, classes, preprocessing, CRF parameters and provenance."""

    variant: str
    """Name of the network, one of ``network.VARIANTS``."""
    class_names: tuple[str, ...]
    """Names of the K classes in the order of their ids."""
    preparation: Preparation = field(default_factory=Preparation)
    """Preprocessing of photos that the weights were trained with."""
    crf: dict[str, Any] = field(default_factory=lambda: asdict(DEFAULT_CRF))
    """Fields of ``densecrf.Params`` that suit these weights; those of ``DEFAULT_CRF`` where it lacks them."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Data, recipe, time and scores of the training, for people; no program depends on it."""
    base: str = ""
    """Name of a weights file in the same folder that has the tensors that this one lacks; "" for none."""
    size: int = LONGEST_SIDE
    """Length in pixels to which the longer side of larger photos is reduced for the network; 0 for never.

    It is that of the largest photos that the network was trained on.
    """

    @property
    def crf_params(self) -> densecrf.Params:
        """CRF parameters of these weights; ``ValueError`` for fields or values that do not exist."""
        try:
            return replace(DEFAULT_CRF, **self.crf)
        except TypeError as error:
            raise ValueError(f"the card's CRF parameters {self.crf} cannot be used: {error}") from None


def card_path(weights: Path) -> Path:
    """Path of the card that belongs to a weights file: the same name, ending in .json."""
    return weights.with_suffix(".json")


def save_weights(path: str | Path, network: DeepLab, card: Card, *, half: bool = True) -> None:
    """Write weights and their card, each completely or not at all.

    Args:
        path: File to write, ending in .safetensors. The card is written beside it, ending in .json.
        network: Network whose parameters are written.
        card: Description of the weights. If it names a base, tensors equal to the base's are left out.
        half: Store float16, which halves the size. Loaded networks compute in float32 either way.

    Raises:
        FileNotFoundError: If the base does not exist.
        ValueError: If the base cannot be read.
    """
    path = Path(path)
    dtype = torch.float16 if half else torch.float32
    tensors = {name: value.detach().to(dtype).contiguous() for name, value in network.state_dict().items()}
    if card.base:
        base = _read_tensors(_base_path(path, card))
        tensors = {
            name: value
            for name, value in tensors.items()
            if name not in base or not torch.equal(base[name], value)
        }
    write_whole(path, save(tensors))
    write_whole(card_path(path), json.dumps(asdict(card), indent=2, ensure_ascii=False) + "\n")


def load_weights(path: str | Path) -> tuple[DeepLab, Card]:
    """Read weights and their card.

    Args:
        path: File ending in .safetensors, with its card beside it.

    Returns:
        The network in evaluation mode, and the card. The network is complete, so the card names no base.

    Raises:
        FileNotFoundError: If the weights, their card, or the base that it names do not exist.
        ValueError: If a file is damaged, or a tensor is missing, unknown, of another shape or not finite.
    """
    path = Path(path)
    for file in (path, card_path(path)):
        if not file.is_file():
            raise FileNotFoundError(
                f"no file {file}; wanted weights (.safetensors) with their card (.json) beside them"
            )
    card = read_card(card_path(path))
    network = build(card.variant, classes=len(card.class_names))
    tensors = _read_tensors(path)
    if card.base:
        base = _read_tensors(_base_path(path, card))
        tensors = {name: value for name, value in base.items() if name in network.state_dict()} | tensors
    _fill(network, tensors, path)
    return network.eval(), replace(card, base="")


def _fill(network: DeepLab, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Copy tensors into a network; ``ValueError`` names the tensors that do not fit."""
    state = network.state_dict()
    variant = network.variant.name
    if set(tensors) != set(state):
        missing = sorted(set(state) - set(tensors))
        unknown = sorted(set(tensors) - set(state))
        raise ValueError(f"{path}: not weights of {variant}: lacks {missing or 'none'}, has also {unknown}")
    for name, target in state.items():
        shape = tuple(tensors[name].shape)
        if shape != tuple(target.shape):
            raise ValueError(f"{path}: {name} is {shape}, wanted {tuple(target.shape)} for {variant}")
        target.copy_(tensors[name])
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise ValueError(f"{path}: has weights that are NaN or infinite; it cannot be used")


def _base_path(path: Path, card: Card) -> Path:
    """Path of the base that a card names, which must be another file in the same folder."""
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


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, as they are stored."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a readable safetensors file ({error}); fetch or copy it again"
        ) from None


def read_card(path: Path) -> Card:
    """Read a card from a JSON file.

    Args:
        path: The file.

    Returns:
        The card.

    Raises:
        ValueError: If the file is not a card; says what is wrong with it.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        class_names = tuple(str(name) for name in raw["class_names"])
        if len(class_names) > IGNORE:
            raise ValueError(
                f"{len(class_names)} classes, wanted at most {IGNORE}, as label maps have 8 bits"
            )
        preparation = dict(raw["preparation"])
        preparation |= {
            key: tuple(map(float, preparation[key])) for key in ("mean", "scale") if key in preparation
        }
        size = operator.index(raw.get("size", LONGEST_SIDE))
        if size != 0 and size < MIN_SIDE:
            raise ValueError(f"size {size}, wanted at least {MIN_SIDE} pixels, or 0 for full size")
        return Card(
            variant=str(raw["variant"]),
            class_names=class_names,
            preparation=Preparation(**preparation),
            crf=dict(raw.get("crf", {})),
            provenance=dict(raw.get("provenance") or raw.get("story", {})),  # cards before 0.1 have "story"
            base=str(raw.get("base", "")),
            size=size,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a card of weights: {type(error).__name__}: {error}") from None
