"""Checks of arguments as pydensecrf takes them: whole floats, and sequences of widths of another length."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from densecrf.threads import whole_number
from densecrf.validation import positive_number, real_number


def whole(name: str, value: Any, *, least: int = 0) -> int:
    """A whole number, which may be a float such as 5.0.

    Args:
        name: name of the argument, for messages.
        value: an int, or a float without a fraction.
        least: smallest number that is allowed.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it has a fraction, is NaN or infinite, under ``least`` or over 2³¹ − 1.
    """
    number = real_number(name, value)
    if isinstance(number, float):
        if not number.is_integer():
            raise ValueError(f"got {name} = {number}, wanted a whole number")
        number = int(number)
    if number < least:
        raise ValueError(f"got {name} = {number}, wanted at least {least}")
    return whole_number(name, number, least=least)


def widths(name: str, value: Any, count: int, expected: str) -> tuple[float, ...]:
    """Standard deviations, one for each axis or channel, as single-precision numbers.

    Args:
        name: name of the argument, for messages.
        value: one number for all, or a sequence of at least ``count``; further ones are ignored, as in
            pydensecrf.
        count: how many numbers to return.
        expected: what would be right, for messages.

    Raises:
        TypeError: if it is neither a number nor a sequence of numbers.
        ValueError: if there are fewer, or one is not finite or not above 0.
    """
    if not is_sequence(value):
        return (_single(positive_number(name, value)),) * count
    numbers = tuple(value)
    if len(numbers) < count:
        raise ValueError(f"got {name} = {value}, wanted {expected}")
    return tuple(_single(positive_number(name, number)) for number in numbers[:count])


def divide_by_widths(planes: np.ndarray, name: str, value: Any, what: str) -> None:
    """Divide each plane by its standard deviation, in place; planes beyond the last one stay as they are.

    Args:
        planes: (n, …) float32.
        name: name of the argument, for messages.
        value: one number for all planes, or a sequence of at most n.
        what: what the planes are, for messages.

    Raises:
        TypeError: if it is neither a number nor a sequence of numbers.
        ValueError: if there are more than n, or one is not finite or not above 0.
    """
    numbers = tuple(value) if is_sequence(value) else (value,) * len(planes)
    if len(numbers) > len(planes):
        raise ValueError(f"got {name} = {value}, wanted at most {len(planes)}, one for each of the {what}")
    for plane, number in zip(planes, numbers, strict=False):
        with np.errstate(all="ignore"):  # values that overflow become infinite and are refused as features
            plane /= positive_number(name, number)


def is_sequence(value: Any) -> bool:
    """Whether a value holds several numbers: a list, a tuple or an array with an axis."""
    return (
        isinstance(value, Iterable)
        and not isinstance(value, str | bytes | dict)
        and getattr(value, "ndim", 1) > 0
    )


def _single(number: float) -> float:
    """A number rounded to single precision, in which pydensecrf computes features."""
    return float(np.float32(number))
