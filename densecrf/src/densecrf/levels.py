"""Whether the levels of an image and the width of an appearance kernel are in the same units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from densecrf.user_warnings import warn_user

MOST_STANDARDISED = 10.0
"""Images with mean 0 and standard deviation 1 stay well within this."""
MOST_WIDTHS = 256.0
"""Levels over this many standard deviations: less than one of 256 levels each."""


def check_levels(image: np.ndarray, stds: Sequence[float]) -> None:
    """Warn if the levels of an image and the standard deviations of the appearance kernel do not fit.

    These are checked: levels from 0 to 1 or standardised levels (mean 0, deviation 1) with a width of at
    least 1, and 16-bit levels with a width for 8 bits. uint8 images are not checked.

    Args:
        image: any shape, real numbers.
        stds: standard deviation of each channel in levels.
    """
    if image.dtype == np.uint8 or image.dtype.kind not in "fiu" or not image.size:
        return
    lowest, highest = float(image.min()), float(image.max())
    if not np.isfinite(highest - lowest) or lowest == highest:
        return
    if image.dtype.kind == "f" and min(stds) >= 1:
        if 0 <= lowest and highest <= 1:
            warn_user(
                "got an image with levels from 0 to 1 and a width of at least 1 level, with which colours "
                "have no effect; wanted levels of 0–255 (multiply by 255), or a width in the image's units "
                "(channel_std, srgb, Params.appearance_rgb_std: divide by 255)"
            )
        elif lowest < 0 and max(-lowest, highest) <= MOST_STANDARDISED:
            warn_user(
                "got an image with negative levels that looks standardised (mean 0, deviation 1), and a "
                "width of at least 1 level, with which colours have little effect; wanted the raw image in "
                "levels of 0–255 (undo it: (image * std + mean) * 255), or a width in the image's units "
                "(channel_std, srgb, Params.appearance_rgb_std)"
            )
    if lowest >= 0 and highest > 255 and highest > MOST_WIDTHS * min(stds):
        warn_user(
            "got an image with levels over 255 and a width under 1/256 of them, with which hardly two "
            "pixels look alike; wanted levels of 0–255 (16 bits: image / 257; 12 bits: image / 16), or a "
            "width in the image's units (channel_std, srgb, Params.appearance_rgb_std: 257 times that for 8 "
            "bits)"
        )
