"""``deeplab train``: train a network by a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from deeplab.commands.common import OK


@dataclass(frozen=True)
class Train:
    """Train a network on labelled photos by a recipe; a run that was stopped resumes where it was."""

    recipe: Positional[Path]
    """TOML file, for example one of those in recipes/."""
    out: Path
    """Folder for the log, checkpoints and weights."""
    data: str | None = None
    """Folder of the data, instead of the recipe's."""
    resume: bool = False
    """Fail if there is no run to resume; without it, a run that is there is resumed all the same."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Change a key of the recipe, for example --set data=DIR; may be repeated."""


def train(options: Train) -> int:
    """Train by a recipe and print where the weights are."""
    from deeplab.training.loop import train as train_by
    from deeplab.training.recipe import read_recipe

    changes = [*options.set, *([f"data={options.data}"] if options.data else [])]
    weights = train_by(read_recipe(options.recipe, changes), options.out, resume=options.resume)
    print(f"weights: {weights}, card: {weights.with_suffix('.json')}")
    return OK
