"""The search for the CRF's w⁽¹⁾, σα and σβ: coarse to fine over a grid as in the paper, or by Optuna."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise, product
from typing import Any

import numpy as np
from tqdm import tqdm

from deeplab.datasets.opening import Sample
from deeplab.optional import require
from densecrf import Params

Measure = Callable[[Sequence[Params]], Sequence[float]]
"""The score of each of some settings; more is better."""

MOST_MOVES = 10
"""How often a round of refinement may walk on with one step before the next halves it."""


@dataclass(frozen=True)
class Grid:
    """Values of the appearance kernel's parameters, by default the paper's 6·6·8 = 288 settings.

    Raises:
        ValueError: for no values, values that are not finite and above 0, or the same value twice.

    Source: DeepLab, section 4.2.
    """

    appearance_weight: tuple[float, ...] = (5, 6, 7, 8, 9, 10)
    """w⁽¹⁾, dimensionless."""
    appearance_xy_std: tuple[float, ...] = (50, 60, 70, 80, 90, 100)
    """σα in pixels."""
    appearance_rgb_std: tuple[float, ...] = (3, 4, 5, 6, 7, 8, 9, 10)
    """σβ in levels of a 0–255 image."""

    def __post_init__(self) -> None:
        for name, values in self.axes.items():
            if not values or not all(math.isfinite(value) and value > 0 for value in values):
                raise ValueError(
                    f"got {name} = {values}, wanted at least one number, each finite and above 0"
                )
            if len(set(values)) < len(values):
                raise ValueError(f"got {name} = {values}, wanted each value once")
            object.__setattr__(self, name, tuple(sorted(map(float, values))))

    @property
    def axes(self) -> dict[str, tuple[float, ...]]:
        """The values of each parameter by its name in ``densecrf.Params``."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def settings(self, base: Params) -> list[Params]:
        """Every combination; the other fields are those of ``base``."""
        return [
            _with(base, dict(zip(self.axes, values, strict=True))) for values in product(*self.axes.values())
        ]


SPAN = Grid((1.0, 20.0), (10.0, 200.0), (1.0, 30.0))
"""Ends of the ranges in which Optuna looks by default: what the paper and its release found lies well
inside."""


def coarse_to_fine(measure: Measure, grid: Grid, base: Params, *, rounds: int = 2) -> dict[Params, float]:
    """Scores over a grid, then around its best with steps that are halved in every round.

    A round looks at the 26 neighbours of the best setting and moves to the best of them for as long as that
    is better, also beyond the grid. A parameter of a single value stays there.

    Args:
        measure: scores settings.
        grid: where to begin.
        base: the fields that are not searched.
        rounds: of refinement.

    Returns:
        The score of each setting that was looked at, in that order.

    Raises:
        ValueError: if a score is NaN, or for a negative number of rounds.

    Source: DeepLab, section 4.2.
    """
    if rounds < 0:
        raise ValueError(f"got {rounds} rounds, wanted at least 0")
    table: dict[Params, float] = {}
    _look(measure, grid.settings(base), table)
    steps = {
        name: min((b - a for a, b in pairwise(values)), default=0.0) for name, values in grid.axes.items()
    }
    for _ in range(rounds):
        steps = {name: step / 2 for name, step in steps.items()}
        for _ in range(MOST_MOVES):
            centre = best_of(table)
            _look(measure, [params for params in _neighbours(centre, steps) if params not in table], table)
            if best_of(table) == centre:
                break
    return table


def by_optuna(
    measure: Measure, span: Grid, base: Params, *, trials: int = 100, seed: int = 0
) -> dict[Params, float]:
    """Scores of settings that Optuna's sampler (TPE) proposes, log-uniform at first; the same for the same
    seed.

    Args:
        measure: scores settings.
        span: whose least and greatest values are the ends of the ranges; equal ends fix a parameter.
        base: the fields that are not searched.
        trials: how many settings to look at.
        seed: of the sampler.

    Returns:
        The score of each setting that was looked at, in that order.

    Raises:
        ModuleNotFoundError: if Optuna is not installed.
        ValueError: if a score is NaN, or for no trials.
    """
    if trials < 1:
        raise ValueError(f"got {trials} trials, wanted at least 1")
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    table: dict[Params, float] = {}
    for _ in tqdm(range(trials), desc="Optuna", unit="trial", disable=None):
        trial = study.ask()
        values = {
            name: trial.suggest_float(name, min(ends), max(ends), log=True)
            for name, ends in span.axes.items()
        }
        params = _with(base, {name: float(f"{value:.4g}") for name, value in values.items()})
        _look(measure, [params], table)
        study.tell(trial, table[params])
    return table


def best_of(table: Mapping[Params, float]) -> Params:
    """The setting of the highest score; of equals the first."""
    return max(table, key=table.__getitem__)


def outside(best: Params, grid: Grid) -> list[str]:
    """The parameters whose best value is an end of the grid, or beyond it: a wider grid may hold a better
    one."""
    return [
        name
        for name, values in grid.axes.items()
        if len(values) > 1 and not values[0] < getattr(best, name) < values[-1]
    ]


def choose(pairs: Sequence[Sample], count: int, seed: int = 0) -> list[Sample]:
    """``count`` pairs at random, in their order; all if there are no more.

    Raises:
        ValueError: for none.

    Source: DeepLab, section 4.2: 100 images of val.
    """
    if count < 1 or not pairs:
        raise ValueError(f"got {count} of {len(pairs)} photos to tune on, wanted at least 1")
    if count >= len(pairs):
        return list(pairs)
    places = np.random.default_rng(seed).choice(len(pairs), count, replace=False)
    return [pairs[place] for place in sorted(places.tolist())]


def _look(measure: Measure, settings: Sequence[Params], table: dict[Params, float]) -> None:
    found = measure(settings) if settings else []
    for params, score in zip(settings, found, strict=True):
        if math.isnan(score):
            raise ValueError(
                "the photos have no labelled pixel of the classes that are scored; nothing can be tuned"
            )
        table[params] = score


def _with(base: Params, values: Mapping[str, Any]) -> Params:
    return replace(base, **values)


def _neighbours(centre: Params, steps: Mapping[str, float]) -> list[Params]:
    """The settings a step to either side of one in any of the parameters, those above 0."""
    around = []
    for signs in product((-1, 0, 1), repeat=len(steps)):
        values = {
            name: round(getattr(centre, name) + sign * step, 6)
            for sign, (name, step) in zip(signs, steps.items(), strict=True)
        }
        if min(values.values()) > 0:
            around.append(_with(centre, values))
    return list(dict.fromkeys(around))


def _optuna() -> Any:
    require("optuna", "--optuna")
    import optuna  # type: ignore[import-not-found, unused-ignore]

    return optuna
