"""The constants of pydensecrf: kinds of kernels and of their normalisation."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class KernelType(IntEnum):
    """Parameters of a kernel that pydensecrf's learning would change; inference does not depend on it."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """Normalisation of a kernel."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType
_NORMALIZATIONS = {
    NormalizationType.NO_NORMALIZATION: "none",
    NormalizationType.NORMALIZE_BEFORE: "before",
    NormalizationType.NORMALIZE_AFTER: "after",
    NormalizationType.NORMALIZE_SYMMETRIC: "symmetric",
}


def check_kernel(kernel: Any) -> None:
    """ValueError unless this is one of the kernel constants.

    Args:
        kernel: what the caller passed.
    """
    _constant("kernel", kernel, KernelType)


def normalization_name(normalization: Any) -> str:
    """What ``densecrf`` calls a normalisation.

    Args:
        normalization: one of the normalisation constants; ValueError for anything else.
    """
    return _NORMALIZATIONS[NormalizationType(_constant("normalization", normalization, NormalizationType))]


def _constant(name: str, value: Any, kind: type[IntEnum]) -> IntEnum:
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(f"{constant.name} ({constant.value})" for constant in kind)
        raise ValueError(f"got {name} = {value!r}, wanted one of: {choices}") from None
