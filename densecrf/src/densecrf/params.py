"""The parameters of a CRF over photos: two weights, three widths and the normalisation."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path

from densecrf.validation import each_positive, one_of, positive_number, real_number

NORMALIZATIONS = ("symmetric", "after", "before", "none")


@dataclass(frozen=True, kw_only=True)
class Params:
    """Weights and widths of the appearance (bilateral) and smoothness (spatial) kernels.

    The default weights and widths are those of the DeepLab release's scripts; the paper cross-validates them
    for each network (section 4.2). The default ``normalization`` is that of pydensecrf; the release used
    "after".

    Raises:
        TypeError: for a weight or width that is not a number.
        ValueError: for a weight that is negative or not finite, a width that is not positive and finite, or
            an unknown normalisation.
    """

    appearance_weight: float = 5.0
    """Weight w⁽¹⁾ of the appearance kernel, dimensionless; 0 leaves the kernel out."""
    appearance_xy_std: float = 50.0
    """θα (σα): standard deviation of the appearance kernel in pixels."""
    appearance_rgb_std: float | tuple[float, ...] = 3.0
    """θβ (σβ): standard deviation of the appearance kernel in levels of a 0–255 image, one number, or one for
    each channel of the image (a list becomes a tuple)."""
    smoothness_weight: float = 3.0
    """Weight w⁽²⁾ of the smoothness kernel, dimensionless; 0 leaves the kernel out."""
    smoothness_xy_std: float = 3.0
    """θγ (σγ): standard deviation of the smoothness kernel in pixels."""
    normalization: str = "symmetric"
    """Scaling of each kernel matrix K with row sums D: "symmetric" is D^-½ K D^-½, "after" is D⁻¹ K, "before"
    is K D⁻¹, and "none" is K."""

    def __post_init__(self) -> None:
        one_of("normalization", self.normalization, NORMALIZATIONS)
        widths = each_positive("appearance_rgb_std", self.appearance_rgb_std)
        object.__setattr__(self, "appearance_rgb_std", widths)
        others = ("normalization", "appearance_rgb_std")
        for name in (field.name for field in fields(self) if field.name not in others):
            number = real_number(name, getattr(self, name))
            if not name.endswith("_weight"):
                positive_number(name, number)
            elif not (math.isfinite(number) and number >= 0):
                raise ValueError(f"got {name} = {number}, wanted a finite number of at least 0")
            object.__setattr__(self, name, number)  # a Python number, also in place of NumPy's, for JSON


def read_params(path: str | Path) -> Params:
    """Read parameters from a JSON file.

    Args:
        path: file with one object whose keys are fields of ``Params``; missing fields get their defaults.

    Returns:
        The parameters.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not such a file. The message names the unknown key or the unusable value.
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
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not a file of parameters: {error}") from None
