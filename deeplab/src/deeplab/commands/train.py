"""``deeplab train``: train by a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from deeplab.commands.common import OK


@dataclass(frozen=True)
class Train:
    """Train by a recipe on labelled photos; a run that was stopped goes on where it was."""

    recipe: Positional[Path]
    """A TOML file, as in recipes/."""
    out: Path
    """Folder for the log, checkpoints and weights."""
    data: str | None = None
    """Folder of the data, instead of the recipe's."""
    resume: bool = False
    """Insist that there is a run to go on with; one that was stopped goes on in any case."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Change a key of the recipe, e.g. --set data=DIR; may be repeated."""


def train(options: Train) -> int:
    """Train by a recipe and say where the weights are."""
    from deeplab.training.loop import train as train_by
    from deeplab.training.recipe import read_recipe

    changes = [*options.set, *([f"data={options.data}"] if options.data else [])]
    weights = train_by(read_recipe(options.recipe, changes), options.out, resume=options.resume)
    print(f"weights: {weights}, card: {weights.with_suffix('.json')}")
    return OK
