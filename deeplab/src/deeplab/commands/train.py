"""``deeplab train``: train by a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from deeplab.commands.engine import OK


@dataclass(frozen=True)
class Train:
    """Train on a folder in VOC's layout; a run that was stopped goes on where it was."""

    recipe: Positional[Path]
    """A TOML file, as in recipes/."""
    out: Path
    """Folder for the cache, the log, checkpoints and weights."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Change a key of the recipe, e.g. --set data=DIR; may be repeated."""


def train(options: Train) -> int:
    """Train by a recipe and say where the weights are."""
    from deeplab import training

    weights = training.train(training.read_recipe(options.recipe, options.set), options.out)
    print(f"weights: {weights}, card: {weights.with_suffix('.json')}")
    return OK
