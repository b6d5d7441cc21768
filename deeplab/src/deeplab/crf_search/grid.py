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
"""Function that scores settings; higher is better."""

MAX_MOVES = 10
"""How often a round of refinement may move to a better setting before the next round halves the steps."""


@dataclass(frozen=True)
class Grid:
    """Values of the appearance kernel's parameters; by default the paper's 6·6·8 = 288 settings.

    Raises:
        ValueError: for no values, values that are not finite and above 0, or the same value twice.

    Source: DeepLab, section 4.2.
    """

    appearance_weight: tuple[float, ...] = (5, 6, 7, 8, 9, 10)
    """Values of w⁽¹⁾, dimensionless."""
    appearance_xy_std: tuple[float, ...] = (50, 60, 70, 80, 90, 100)
    """Values of σα in pixels."""
    appearance_rgb_std: tuple[float, ...] = (3, 4, 5, 6, 7, 8, 9, 10)
    """Values of σβ in levels of a 0–255 image."""

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
        """Values of each parameter by its name in ``densecrf.Params``."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def settings(self, base: Params) -> list[Params]:
        """List every combination; all other parameters are those of ``base``."""
        combinations = product(*self.axes.values())
        return [_with(base, dict(zip(self.axes, values, strict=True))) for values in combinations]


SPAN = Grid((1.0, 20.0), (10.0, 200.0), (1.0, 30.0))
"""Default ranges for Optuna; the settings of the paper and its release are well inside."""


def coarse_to_fine(measure: Measure, grid: Grid, base: Params, *, rounds: int = 2) -> dict[Params, float]:
    """Score a grid, then the surroundings of its best setting with steps that every round halves.

    A round scores the 26 neighbours of the best setting and moves to the best of them as long as that is an
    improvement, also beyond the grid. A parameter with a single value keeps it.

    Args:
        measure: function that scores settings.
        grid: the coarse grid.
        base: parameters that are not searched.
        rounds: number of rounds of refinement.

    Returns:
        The score of each setting that was tried, in that order.

    Raises:
        ValueError: if a score is NaN, or for a negative number of rounds.

    Source: DeepLab, section 4.2.
    """
    if rounds < 0:
        raise ValueError(f"got {rounds} rounds, wanted at least 0")
    table: dict[Params, float] = {}
    _add_scores(measure, grid.settings(base), table)
    steps = {
        name: min((b - a for a, b in pairwise(values)), default=0.0) for name, values in grid.axes.items()
    }
    for _ in range(rounds):
        steps = {name: step / 2 for name, step in steps.items()}
        for _ in range(MAX_MOVES):
            centre = best_of(table)
            neighbours = [params for params in _neighbours(centre, steps) if params not in table]
            _add_scores(measure, neighbours, table)
            if best_of(table) == centre:
                break
    return table


def by_optuna(
    measure: Measure, span: Grid, base: Params, *, trials: int = 100, seed: int = 0
) -> dict[Params, float]:
    """Score settings proposed by Optuna's TPE sampler, log-uniform at first.

    Args:
        measure: function that scores settings.
        span: ranges: the smallest and the largest value of each parameter; if they are equal, it is fixed.
        base: parameters that are not searched.
        trials: number of settings to try.
        seed: seed of the sampler; the same seed gives the same settings.

    Returns:
        The score of each setting that was tried, in that order.

    Raises:
        ModuleNotFoundError: if Optuna is not installed.
        ValueError: if a score is NaN, or for no trials.
    """
    if trials < 1:
        raise ValueError(f"got {trials} trials, wanted at least 1")
    require("optuna", "--method optuna")
    import optuna  # type: ignore[import-not-found, unused-ignore]

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
        _add_scores(measure, [params], table)
        study.tell(trial, table[params])
    return table


def best_of(table: Mapping[Params, float]) -> Params:
    """Find the setting with the highest score; the first of equals."""
    return max(table, key=table.__getitem__)


def at_grid_edge(best: Params, grid: Grid) -> list[str]:
    """Name the parameters whose best value is at an end of the grid or beyond it.

    A wider grid may hold a better value.

    Args:
        best: the best setting.
        grid: the grid that was searched.
    """
    return [
        name
        for name, values in grid.axes.items()
        if len(values) > 1 and not values[0] < getattr(best, name) < values[-1]
    ]


def draw_samples(samples: Sequence[Sample], count: int, seed: int = 0) -> list[Sample]:
    """Draw samples at random, keeping their order.

    Args:
        samples: samples to draw from.
        count: how many to draw; all if there are no more.
        seed: seed of the random numbers.

    Raises:
        ValueError: for a count of 0 or no samples.

    Source: DeepLab, section 4.2: 100 images of val.
    """
    if count < 1 or not samples:
        raise ValueError(f"got {count} of {len(samples)} photos to tune on, wanted at least 1")
    if count >= len(samples):
        return list(samples)
    drawn = np.random.default_rng(seed).choice(len(samples), count, replace=False)
    return [samples[index] for index in sorted(drawn.tolist())]


def _add_scores(measure: Measure, settings: Sequence[Params], table: dict[Params, float]) -> None:
    """Score settings and add them to the table."""
    scores = measure(settings) if settings else []
    for params, score in zip(settings, scores, strict=True):
        if math.isnan(score):
            raise ValueError(
                "the photos have no labelled pixel of the classes that are scored; nothing can be tuned"
            )
        table[params] = score


def _with(base: Params, values: Mapping[str, Any]) -> Params:
    return replace(base, **values)


def _neighbours(centre: Params, steps: Mapping[str, float]) -> list[Params]:
    """The settings at most one step away in every parameter, without those that are not above 0."""
    neighbours: list[Params] = []
    for signs in product((-1, 0, 1), repeat=len(steps)):
        values = {
            name: round(getattr(centre, name) + sign * step, 6)
            for sign, (name, step) in zip(signs, steps.items(), strict=True)
        }
        if min(values.values()) > 0:
            neighbours.append(_with(centre, values))
    return list(dict.fromkeys(neighbours))
