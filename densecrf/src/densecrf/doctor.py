"""A short check of the installation."""

from __future__ import annotations

import os
import platform

import numpy as np

from densecrf import _native
from densecrf.params import Params
from densecrf.refinement import refine
from densecrf.threads import thread_count

LARGEST_ERROR = 0.02
"""Mean difference of marginals from the exact CRF that passes."""


def check_installation(version: str) -> bool:
    """Print versions and hardware, and compare the lattice with the exact filter on a small image.

    Args:
        version: version of this package.

    Returns:
        Whether they agree.
    """
    print(f"densecrf {version}, NumPy {np.__version__}, Python {platform.python_version()}")
    print(f"instruction set: {_native.simd_level()}")
    print(f"threads: {thread_count(None)} of {os.cpu_count()} processors")
    rng = np.random.default_rng(0)
    # 32×48 pixels in blocks, each of one colour and one label.
    blocks = np.arange(24).reshape(4, 6).repeat(8, 0).repeat(8, 1)
    photo = rng.integers(0, 256, size=(24, 3), dtype=np.uint8)[blocks]
    logits = 2.0 * (blocks % 3 == np.arange(3)[:, None, None]) + rng.normal(size=(3, 32, 48))
    params = Params(appearance_xy_std=20, appearance_rgb_std=20)
    approximate = refine(photo, logits, kind="logits", params=params)
    exact = refine(photo, logits, kind="logits", params=params, backend="exact")
    error = float(np.abs(approximate - exact).mean())
    passed = error < LARGEST_ERROR
    print(f"self-test: mean difference from the exact CRF {error:.4f}: {'fine' if passed else 'too large'}")
    return passed
