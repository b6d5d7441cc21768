"""A trained network for another list of classes: what it knows of classes with the same names is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from deeplab.network.architecture import DeepLab, build
from deeplab.weights.store import Card


@dataclass(frozen=True)
class ClassReplacement:
    """What happened to each class."""

    kept: tuple[str, ...]
    """Classes whose classifiers were carried over, by name."""
    new: tuple[str, ...]
    """Classes with random classifiers, to be trained."""
    dropped: tuple[str, ...]
    """Classes of the old network that are no more."""

    def summary(self) -> str:
        """One line for people."""
        parts = {"kept by name": self.kept, "new, to be trained": self.new, "dropped": self.dropped}
        return "; ".join(f"{title}: {', '.join(names) or 'none'}" for title, names in parts.items())


def replace_classes(
    network: DeepLab, card: Card, class_names: Sequence[str]
) -> tuple[DeepLab, Card, ClassReplacement]:
    """The network with classifiers for other classes; all other layers, and rows of classes known by name,
    are kept.

    Args:
        network: as trained.
        card: that belongs to it.
        class_names: the new classes, id order, background first if there is one.

    Returns:
        A new network with its card, and a report.

    Raises:
        ValueError: for fewer than two names, or one that stands twice.
    """
    names = tuple(class_names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or len(names) < 2:
        fault = f"; {', '.join(twice)} stands twice" if twice else ""
        raise ValueError(f"got {len(names)} classes, wanted at least 2, each once{fault}")
    before = {name: row for row, name in enumerate(card.class_names)}
    shared = [(row, before[name]) for row, name in enumerate(names) if name in before]
    fresh = build(network.variant.name, classes=len(names), dropout=network.dropout)
    own, old = fresh.state_dict(), network.state_dict()
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape == old[name].shape and not _is_classifier(name):
                tensor.copy_(old[name])
            else:
                for row, source in shared:
                    tensor[row] = old[name][source]
    report = ClassReplacement(
        tuple(names[row] for row, _ in shared),
        tuple(name for name in names if name not in before),
        tuple(name for name in card.class_names if name not in names),
    )
    provenance = card.provenance | {"classes replaced": report.summary()}
    return fresh.train(network.training), replace(card, class_names=names, provenance=provenance), report


def _is_classifier(name: str) -> bool:
    return name.startswith("fc8.") or (name.startswith("branches.") and name.split(".")[2] == "6")
