"""The import name ``pydensecrf``, for code that cannot be edited."""

from __future__ import annotations

import sys

from densecrf.pydensecrf import densecrf, eigen, utils

NAME = "pydensecrf"


def install() -> None:
    """Let ``import pydensecrf.densecrf`` and the like find this package, in the running process.

    Call it before the first import of pydensecrf. Further calls change nothing. For programs that cannot call
    it, there is the distribution ``pydensecrf-densecrf``.

    Raises:
        RuntimeError: if another pydensecrf has been imported already.
    """
    package = sys.modules["densecrf.pydensecrf"]
    loaded = sys.modules.get(NAME, package)
    if loaded is not package:
        if getattr(getattr(loaded, "densecrf", None), "DenseCRF", None) is densecrf.DenseCRF:
            return  # the distribution pydensecrf-densecrf
        place = getattr(loaded, "__file__", None) or "an unknown place"
        raise RuntimeError(
            f"got {NAME} already imported from {place}, wanted install() to be called before its first import"
        )
    sys.modules[NAME] = package
    for module in (densecrf, eigen, utils):
        sys.modules[f"{NAME}.{module.__name__.rpartition('.')[2]}"] = module
