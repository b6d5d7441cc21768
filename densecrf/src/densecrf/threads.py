"""Whole numbers that callers give: how many threads to use, how many steps to take."""

from __future__ import annotations

import operator
import os

MOST = 2**31 - 1
"""The largest whole number that the native kernels take."""


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(threads: int | None) -> int:
    """How many threads to use.

    Args:
        threads: the most to use, at least 1; None for all processors.

    Returns:
        ``threads``, but no more than ``processors()``: further ones would only wait for each other.

    Raises:
        TypeError: if it is no whole number.
        ValueError: if it is under 1 or over 2³¹ − 1.
    """
    return processors() if threads is None else min(whole_number("threads", threads, least=1), processors())


def whole_number(name: str, value: int, *, least: int = 0) -> int:
    """``value`` as an int.

    Args:
        name: what it is a number of, for messages.
        value: any integer type.
        least: the smallest that is allowed.

    Raises:
        TypeError: if it is no whole number.
        ValueError: if it is under ``least`` or over 2³¹ − 1.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"got {name} = {value!r}, wanted a whole number") from None
    if not least <= number <= MOST:
        raise ValueError(f"got {number} {name}, wanted at least {least} and at most {MOST}")
    return number
