"""Checks of the numbers that callers pass, with one-line errors that say what was got and what was wanted."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np


def one_of(name: str, value: str, choices: Sequence[str]) -> str:
    """An option that is one of several words.

    Args:
        name: name of the argument, for messages.
        value: what the caller passed.
        choices: the words that are allowed.

    Raises:
        ValueError: if it is none of them.
    """
    if value not in choices:
        raise ValueError(f"got {name} {value!r}, wanted one of: {', '.join(choices)}")
    return value


def real_number(name: str, value: Any) -> float:
    """A real number as a Python int or float.

    Args:
        name: name of the argument, for messages.
        value: an int, a float, a NumPy scalar, or an array or tensor of one element without axes.

    Raises:
        TypeError: if it is anything else, such as text or a list.
        ValueError: if it is an integer too large for a float.
    """
    if isinstance(value, int | float):
        if abs(value) > sys.float_info.max and isinstance(value, int):
            raise ValueError(
                f"got an integer of {value.bit_length()} bits for {name}, wanted a finite number"
            )
        return value
    array = np.asarray(value) if isinstance(value, Real | np.generic) or hasattr(value, "__array__") else None
    if array is None or array.ndim or array.dtype.kind not in "fiub":
        raise TypeError(f"got {name} = {value!r}, wanted a number")
    number: float = array.item()
    return number


def positive_number(name: str, value: Any) -> float:
    """A finite number above 0, such as a standard deviation.

    Args:
        name: name of the argument, for messages.
        value: see ``real_number``.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is not finite or not above 0.
    """
    number = real_number(name, value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"got {name} = {number}, wanted a finite number above 0")
    return number


def positive_numbers(name: str, value: Any, count: int, expected: str) -> tuple[float, ...]:
    """One finite number above 0 for each of several axes or channels.

    Args:
        name: name of the argument, for messages.
        value: one number for all, or a tuple, list or array of ``count`` numbers.
        count: how many numbers to return.
        expected: what would be right, for messages.

    Raises:
        TypeError: if it is neither a number nor a sequence of numbers.
        ValueError: if there are not ``count`` of them, or one is not finite or not above 0.
    """
    is_sequence = isinstance(value, Iterable) and not isinstance(value, str | bytes | dict)
    if not is_sequence or getattr(value, "ndim", 1) == 0:
        return (float(positive_number(name, value)),) * count
    numbers = tuple(value)
    if len(numbers) != count:
        raise ValueError(f"got {name} = {value}, wanted {expected}")
    return tuple(float(positive_number(name, number)) for number in numbers)


def each_positive(name: str, value: Any) -> float | tuple[float, ...]:
    """A finite number above 0, or a tuple of them.

    Args:
        name: name of the argument, for messages.
        value: a number, or a tuple, list or array of at least one number.

    Raises:
        TypeError: if it is neither a number nor a sequence of numbers.
        ValueError: if it is empty, or a number is not finite or not above 0.
    """
    is_sequence = isinstance(value, Iterable) and not isinstance(value, str | bytes | dict)
    if not is_sequence or getattr(value, "ndim", 1) == 0:
        return positive_number(name, value)
    numbers = tuple(positive_number(name, number) for number in value)
    if not numbers:
        raise ValueError(f"got {name} = {value}, wanted one number, or one for each channel")
    return numbers


def fraction(name: str, value: Any) -> float:
    """A number of at least 0 and under 1, such as a threshold for probabilities.

    Args:
        name: name of the argument, for messages.
        value: see ``real_number``.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is out of range.
    """
    number = real_number(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"got {name} = {number}, wanted at least 0 and under 1")
    return number
