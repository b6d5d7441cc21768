"""The CRF's parameters: two weights, three widths, and how kernels are normalised."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path

NORMALIZATIONS = ("symmetric", "after", "before", "none")


@dataclass(frozen=True, kw_only=True)
class Params:
    """Weights and widths of the appearance (bilateral) and smoothness (spatial) kernels.

    The widths and weights given by default are the working values of the DeepLab release's scripts; the paper
    cross-validates them per network (section 4.2). ``normalization`` defaults to what pydensecrf does; the
    release used "after".

    Raises:
        ValueError: for a weight that is negative or not finite, a width that is not positive and finite, or
            an unknown normalisation.
    """

    appearance_weight: float = 5.0
    """w⁽¹⁾, dimensionless. 0 leaves the kernel out."""
    appearance_xy_std: float = 50.0
    """θα (σα): reach of the bilateral kernel in pixels."""
    appearance_rgb_std: float = 3.0
    """θβ (σβ): reach of the bilateral kernel in levels of a 0–255 image."""
    smoothness_weight: float = 3.0
    """w⁽²⁾, dimensionless. 0 leaves the kernel out."""
    smoothness_xy_std: float = 3.0
    """θγ (σγ): reach of the spatial kernel in pixels."""
    normalization: str = "symmetric"
    """How each kernel matrix K with row sums D is scaled: "symmetric" D^-½ K D^-½, "after" D⁻¹ K, "before" K
    D⁻¹, or "none"."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "normalization":
                if value not in NORMALIZATIONS:
                    raise ValueError(
                        f"got normalization {value!r}, wanted one of: {', '.join(NORMALIZATIONS)}"
                    )
            elif field.name.endswith("_weight"):
                if not (math.isfinite(value) and value >= 0):
                    raise ValueError(f"got {field.name} = {value}, wanted a finite number of at least 0")
            elif not (math.isfinite(value) and value > 0):
                raise ValueError(f"got {field.name} = {value}, wanted a finite number above 0")


def read_params(path: str | Path) -> Params:
    """Parameters from a file.

    Args:
        path: JSON, an object with fields of ``Params``; those that it lacks have their defaults.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no such file; names a key that is unknown, or a value that is unusable.
    """
    known = [field.name for field in fields(Params)]
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"got a {type(values).__name__}, wanted an object with keys {', '.join(known)}")
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}; known: {', '.join(known)}")
        return Params(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a file of parameters: {error}") from None
