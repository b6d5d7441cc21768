"""Public names of a package, imported on first use, so that ``import deeplab`` does not load torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def public_names(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], list[str]]:
    """Make the ``__getattr__`` and ``__all__`` of a package.

    Args:
        package: The package's ``__name__``.
        modules: Public names by the module or package in it that defines them.

    Returns:
        A function for the package's ``__getattr__`` (PEP 562) and the sorted names.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return load, sorted(module_of)
