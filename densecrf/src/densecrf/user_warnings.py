"""Warnings that point at the caller's own line."""

from __future__ import annotations

import os
import sys
import warnings

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def warn_user(message: str) -> None:
    """Issue a ``UserWarning`` at the first line of the call stack that is outside this package.

    Python shows a warning once for each text and line. So the text should not hold numbers that differ from
    image to image.

    Args:
        message: what was got, what was expected, and what would work.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
