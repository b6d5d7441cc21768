"""The functions of SimpleCRF (modules ``denseCRF`` and ``denseCRF3D``), with the same arguments.

    import densecrf.simplecrf as denseCRF       # was: import denseCRF
    import densecrf.simplecrf as denseCRF3D     # was: import denseCRF3D

Channels and labels are the last axis here, and results are label maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from densecrf.crf import DenseCRF
from densecrf.kernels import Bilateral, Features, Gaussian
from densecrf.unary import real_array
from densecrf.validation import positive_number, positive_numbers, real_number

__all__ = ["densecrf", "densecrf3d"]

_NAMES = ("w1", "alpha", "beta", "w2", "gamma", "it")
_KEYS = (
    "MaxIterations",
    "PosW",
    "PosRStd",
    "PosCStd",
    "PosZStd",
    "BilateralW",
    "BilateralRStd",
    "BilateralCStd",
    "BilateralZStd",
    "ModalityNum",
    "BilateralModsStds",
)
_LOWEST, _HIGHEST = 0.01, 0.99


def densecrf(I: ArrayLike, P: ArrayLike, param: Sequence[float], *, threads: int | None = None) -> np.ndarray:  # noqa: E741
    """The label map of a photo.

    Args:
        I: (H, W, C) or (H, W), the photo in 0–255 levels, any real type.
        P: (H, W, L) probabilities, which count as at least 0.01 and at most 0.99, as in SimpleCRF.
        param: (w1, alpha, beta, w2, gamma, it): weight of the appearance kernel, its width in pixels and in
            levels, weight of the smoothness kernel, its width in pixels, number of steps.
        threads: maximum number of threads; by default all processors that this process may use.

    Returns:
        (H, W) int8 labels from 0 to L − 1; int16 for over 128 labels.

    Raises:
        TypeError: for numbers of another type.
        ValueError: for shapes that do not fit, values that are not finite, or parameters out of range.
    """
    values = tuple(param)
    if len(values) != len(_NAMES):
        raise ValueError(f"got {len(values)} values in param, wanted ({', '.join(_NAMES)})")
    w1, alpha, beta, w2, gamma, it = (real_number(*pair) for pair in zip(_NAMES, values, strict=True))
    image, probabilities = np.asarray(I), real_array("probabilities", P)
    if probabilities.ndim != 3 or image.ndim not in (2, 3) or image.shape[:2] != probabilities.shape[:2]:
        raise ValueError(
            f"got I {image.shape} and P {probabilities.shape}, wanted (H, W, C) and (H, W, L)"
            + _stacking_hint(image, probabilities)
        )
    kernels: list[Gaussian | Bilateral | Features] = [
        Bilateral(image, positive_number("alpha", alpha), positive_number("beta", beta), w1),
        Gaussian(probabilities.shape[:2], positive_number("gamma", gamma), w2),
    ]
    return _labels(kernels, -np.log(np.clip(probabilities, _LOWEST, _HIGHEST)), it, threads)


def densecrf3d(
    I: ArrayLike,  # noqa: E741
    P: ArrayLike,
    param: Mapping[str, Any],
    *,
    threads: int | None = None,
) -> np.ndarray:
    """The label map of a volume.

    SimpleCRF confuses the axes of volumes with D ≠ W. Results agree for D = W only.

    Args:
        I: (D, H, W, C), C modalities in 0–255 levels, any real type.
        P: (D, H, W, L) probabilities; a label of probability 0 is impossible.
        param: a dictionary: ``MaxIterations``; weights ``PosW`` and ``BilateralW``; widths in voxels
            ``PosRStd`` and ``BilateralRStd`` along W, ``PosCStd`` and ``BilateralCStd`` along H, ``PosZStd``
            and ``BilateralZStd`` along D; ``ModalityNum`` = C; ``BilateralModsStds``, C widths in levels.
        threads: maximum number of threads; by default all processors that this process may use.

    Returns:
        (D, H, W) int8 labels from 0 to L − 1; int16 for over 128 labels.

    Raises:
        TypeError: for numbers of another type.
        ValueError: for missing keys, shapes that do not fit, values that are not finite, or parameters out of
            range.
    """
    missing = [key for key in _KEYS if key not in param]
    if missing:
        raise ValueError(f"got param without {', '.join(missing)}, wanted the keys {', '.join(_KEYS)}")
    image, probabilities = real_array("levels", I), real_array("probabilities", P)
    if not (image.ndim == probabilities.ndim == 4 and image.shape[:3] == probabilities.shape[:3]):
        raise ValueError(
            f"got I {image.shape} and P {probabilities.shape}, wanted (D, H, W, C) and (D, H, W, L)"
            + _stacking_hint(image, probabilities)
        )
    if probabilities.size and probabilities.min() < 0:
        raise ValueError("got probabilities that are negative, wanted at least 0")
    kernels = _volume_kernels(image, param)
    with np.errstate(divide="ignore"):
        energies = -np.log(probabilities)
    return _labels(kernels, energies, real_number("MaxIterations", param["MaxIterations"]), threads)


def _volume_kernels(image: np.ndarray, param: Mapping[str, Any]) -> list[Gaussian | Bilateral | Features]:
    """The smoothness and the appearance kernel of a volume (D, H, W, C)."""
    channels, shape = image.shape[3], image.shape[:3]
    if param["ModalityNum"] != channels:
        raise ValueError(f"got ModalityNum = {param['ModalityNum']}, wanted {channels}, the last axis of I")
    expected = f"{channels} widths, one for each modality"
    levels = image / np.array(
        positive_numbers("BilateralModsStds", param["BilateralModsStds"], channels, expected), np.float32
    )
    positions = Gaussian(shape, _axis_stds(param, "Bilateral")).features()
    appearance = np.concatenate([positions, levels.reshape(-1, channels)], axis=1)
    return [
        Gaussian(shape, _axis_stds(param, "Pos"), real_number("PosW", param["PosW"])),
        Features(appearance, real_number("BilateralW", param["BilateralW"])),
    ]


def _axis_stds(param: Mapping[str, Any], term: str) -> tuple[float, float, float]:
    """Standard deviations of a kernel along (D, H, W)."""
    depth, height, width = (positive_number(f"{term}{axis}Std", param[f"{term}{axis}Std"]) for axis in "ZCR")
    return depth, height, width


def _labels(
    kernels: Sequence[Gaussian | Bilateral | Features],
    energies: np.ndarray,
    steps: float,
    threads: int | None,
) -> np.ndarray:
    """Labels after some mean-field steps; energies (…, L)."""
    if not (0 <= steps < np.inf):
        raise ValueError(f"got {steps} iterations, wanted at least 0")
    crf = DenseCRF(kernels, threads=threads, merge_threshold=0, convergence_tolerance=0)
    labels = crf.map(np.moveaxis(energies, -1, 0), iterations=int(steps))
    return labels.astype(np.int8 if energies.shape[-1] <= 128 else np.int16)


def _stacking_hint(image: np.ndarray, probabilities: np.ndarray) -> str:
    """What to do with one foreground map."""
    is_foreground = probabilities.shape == image.shape[: probabilities.ndim]
    return "; for one foreground map p use np.stack([1 - p, p], axis=-1)" if is_foreground else ""
