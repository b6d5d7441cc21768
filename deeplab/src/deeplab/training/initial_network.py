"""The network before its first step, from the weights that a recipe names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from deeplab.model.loading import shipped
from deeplab.network.architecture import DeepLab, build
from deeplab.network.preprocessing import Preparation
from deeplab.training.recipe import Recipe
from deeplab.weights.class_replacement import replace_classes
from deeplab.weights.conversion import convert
from deeplab.weights.hub import IMAGENET_FILE, IMAGENET_REPOSITORY, fetch
from deeplab.weights.store import LONGEST_SIDE, Card, card_path, load_weights


@dataclass(frozen=True)
class InitialNetwork:
    """A network to train, and what its initial weights say about its use."""

    network: DeepLab
    preparation: Preparation = field(default_factory=Preparation)
    """Channel order, mean and scale that belong to the weights."""
    crf: dict[str, Any] = field(default_factory=dict)
    """CRF parameters on the card of the weights; empty for the defaults."""
    size: int = LONGEST_SIDE
    """Largest side of photos on the card of the weights, in pixels; 0 for full size."""
    summary: str = "every layer random"
    """One line about where each layer comes from."""


def initial_network(recipe: Recipe, class_names: tuple[str, ...]) -> InitialNetwork:
    """Build the recipe's network and copy into it what its ``init`` has.

    Args:
        recipe: variant, init, seed and dropout.
        class_names: K class names of the data in the order of their ids.

    Returns:
        The network, in training mode.

    Raises:
        FileNotFoundError: if the weights do not exist.
        ValueError: if they cannot be used.
    """
    torch.manual_seed(recipe.seed)
    network = build(recipe.variant, classes=len(class_names), dropout=recipe.dropout)
    if not recipe.init:
        return InitialNetwork(network)
    source, card, summary = _read(recipe)
    if card.class_names != class_names:
        source, card, report = replace_classes(source, card, class_names)
        summary = f"{summary}; classes {report.summary()}"
    random_layers = _copy_matching(source, network)
    if random_layers:
        summary = f"{summary}; not in the file: {', '.join(random_layers)}"
    return InitialNetwork(network, card.preparation, card.crf, card.size, summary)


def _read(recipe: Recipe) -> tuple[DeepLab, Card, str]:
    """The weights that the recipe names, their card, and one line about them."""
    if recipe.init == "shipped":
        network, card = shipped()
        return network, card, f"the package's weights of {card.variant}"
    path = fetch(IMAGENET_REPOSITORY, IMAGENET_FILE) if recipe.init == "imagenet" else Path(recipe.init)
    if path.suffix == ".safetensors" and card_path(path).is_file():
        network, card = load_weights(path)
        return network, card, f"weights of {card.variant}"
    conversion = convert(path, recipe.variant, seed=recipe.seed)
    return conversion.network, conversion.card, conversion.summary()


def _copy_matching(source: DeepLab, target: DeepLab) -> list[str]:
    """Copy tensors of the same name and shape; returns the names of the layers that were not copied."""
    own = target.state_dict()
    copied = {
        name: tensor
        for name, tensor in source.state_dict().items()
        if name in own and own[name].shape == tensor.shape
    }
    target.load_state_dict(copied, strict=False)
    return sorted(_layers(own) - _layers(copied))


def _layers(tensors: dict[str, torch.Tensor]) -> set[str]:
    return {name.rpartition(".")[0] for name in tensors}
