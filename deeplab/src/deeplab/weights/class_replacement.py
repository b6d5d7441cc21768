"""A trained network for other classes, which keeps the classifiers of classes with the same names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from deeplab.network.architecture import DeepLab, build
from deeplab.weights.store import Card


@dataclass(frozen=True)
class ClassReplacement:
    """Report of what became of each class."""

    kept: tuple[str, ...]
    """Classes of both networks, whose classifiers were copied."""
    new: tuple[str, ...]
    """Classes of the new network only, whose classifiers are random and must be trained."""
    dropped: tuple[str, ...]
    """Classes of the old network only."""

    def summary(self) -> str:
        """The report in one line."""
        parts = {"kept by name": self.kept, "new, to be trained": self.new, "dropped": self.dropped}
        return "; ".join(f"{title}: {', '.join(names) or 'none'}" for title, names in parts.items())


def replace_classes(
    network: DeepLab, card: Card, class_names: Sequence[str]
) -> tuple[DeepLab, Card, ClassReplacement]:
    """Replace the classifiers of a network by those of other classes and keep all other layers.

    Args:
        network: Trained network, which stays as it is.
        card: Card of the network.
        class_names: New classes in the order of their ids, background first if there is one.

    Returns:
        The new network, its card, and a report. Classifiers of classes with the same names are copied; the
        others are random.

    Raises:
        ValueError: For fewer than two names, or a name that is listed twice.
    """
    names = tuple(class_names)
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates or len(names) < 2:
        problem = f"; {', '.join(duplicates)} is listed twice" if duplicates else ""
        raise ValueError(f"got {len(names)} classes, wanted at least 2, each once{problem}")
    old_rows = {name: row for row, name in enumerate(card.class_names)}
    shared = [(row, old_rows[name]) for row, name in enumerate(names) if name in old_rows]
    new_network = build(network.variant.name, classes=len(names), dropout=network.dropout)
    old_state = network.state_dict()
    with torch.no_grad():
        for name, tensor in new_network.state_dict().items():
            if tensor.shape == old_state[name].shape and not _is_classifier(name):
                tensor.copy_(old_state[name])
            else:
                for row, old_row in shared:
                    tensor[row] = old_state[name][old_row]
    report = ClassReplacement(
        kept=tuple(names[row] for row, _ in shared),
        new=tuple(name for name in names if name not in old_rows),
        dropped=tuple(name for name in card.class_names if name not in names),
    )
    provenance = card.provenance | {"classes replaced": report.summary()}
    new_card = replace(card, class_names=names, provenance=provenance)
    return new_network.train(network.training), new_card, report


def _is_classifier(name: str) -> bool:
    """Whether a tensor of this name belongs to fc8 or to the last convolution of a branch."""
    return name.startswith("fc8.") or (name.startswith("branches.") and name.split(".")[2] == "6")
