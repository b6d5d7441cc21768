"""The number of threads to use, and checks of whole numbers that callers pass."""

from __future__ import annotations

import operator
import os

MAX_INTEGER = 2**31 - 1
"""Largest whole number that the native kernels accept."""
THREADS_VARIABLE = "DENSECRF_THREADS"
"""Environment variable with the maximum number of threads of calls that do not state one."""


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(threads: int | None) -> int:
    """The number of threads to use.

    Args:
        threads: maximum number, at least 1; None for the environment variable ``DENSECRF_THREADS``, or all
            processors if it is not set.

    Returns:
        The maximum, but at most ``processors()``, as further threads would only wait for each other.

    Raises:
        TypeError: if it is not a whole number.
        ValueError: if it is under 1 or over 2³¹ − 1, or the environment variable is not a number above 0.
    """
    if threads is not None:
        return min(whole_number("threads", threads, least=1), processors())
    text = os.environ.get(THREADS_VARIABLE, "").strip()
    if not text:
        return processors()
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"got {THREADS_VARIABLE}={text} in the environment, wanted a whole number above 0")
    return min(int(text), processors())


def whole_number(name: str, value: int, *, least: int = 0) -> int:
    """A whole number of any integer type, as an int.

    Args:
        name: what is counted, for messages.
        value: the number.
        least: smallest number that is allowed.

    Raises:
        TypeError: if it is not a whole number.
        ValueError: if it is under ``least`` or over 2³¹ − 1.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"got {name} = {value!r}, wanted a whole number") from None
    if not least <= number <= MAX_INTEGER:
        raise ValueError(f"got {number} {name}, wanted at least {least} and at most {MAX_INTEGER}")
    return number
