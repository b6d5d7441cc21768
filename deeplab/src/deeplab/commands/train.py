"""``deeplab train``: train a network with a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from deeplab.commands.common import OK


@dataclass(frozen=True)
class Train:
    """Train a network on labelled photos with a recipe; the same command resumes an interrupted run."""

    recipe: Positional[Path]
    """TOML file, such as those in recipes/."""
    out: Path
    """Folder for log, checkpoints and weights."""
    data: str | None = None
    """Folder of the data set, instead of the one in the recipe."""
    binary: bool = False
    """Take black and white masks as they are: 0 is background, the other level the object."""
    resume: bool = False
    """Require an earlier run in --out. Without this option, an earlier run is resumed if there is one."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Change a key of the recipe, such as --set data=DIR; may be repeated."""


def train(options: Train) -> int:
    """Train with a recipe and print where the weights are."""
    from deeplab.training.loop import train as train_by
    from deeplab.training.recipe import read_recipe

    changes = [*options.set, *([f"data={options.data}"] if options.data else [])]
    changes += ["binary=true"] if options.binary else []
    weights = train_by(read_recipe(options.recipe, changes), options.out, resume=options.resume)
    print(f"weights: {weights}, card: {weights.with_suffix('.json')}")
    return OK
