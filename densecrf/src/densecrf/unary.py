"""Unary energies: what the classifier alone says of each pixel, in nats (−log probability)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from densecrf import _native
from densecrf.threads import thread_count

FLOOR = 1e-10
"""Probabilities count as at least this much by default, so that no energy is infinite."""
FLOOR_LEAST = 1e-37
"""The least floor of a probability: about the smallest normal float32."""


def unary_from_probabilities(
    probabilities: ArrayLike, *, floor: float = FLOOR, threads: int | None = None
) -> np.ndarray:
    """Energies −log p.

    Args:
        probabilities: (K, …) real, finite and not negative; label k's probability at each pixel.
        floor: smaller probabilities count as this much, so that no energy is infinite.
        threads: how many to use; by default as many as this process may run on.

    Returns:
        (K, …) float32 energies in nats.

    Raises:
        ValueError: for NaN, infinite or negative values, with their number.

    Source: DeepLab, section 3.3, θ_i = −log P(x_i).
    """
    if not (FLOOR_LEAST <= floor < 1):
        raise ValueError(f"got floor = {floor}, wanted a number from {FLOOR_LEAST} and under 1")
    values = np.ascontiguousarray(real_array("probabilities", probabilities))
    if values.size and values.min() < 0:
        bad = values < 0
        raise ValueError(
            f"got {np.count_nonzero(bad)} probabilities that are negative (the first: {values[bad][0]}), wanted at "
            "least 0; for scores use unary_from_logits"
        )
    return _native.energies_of(values.reshape(1, -1), floor, thread_count(threads)).reshape(values.shape)


def unary_from_logits(logits: ArrayLike) -> np.ndarray:
    """Energies of a network's raw scores: minus their log-softmax over the first axis.

    Args:
        logits: (K, …) real and finite.

    Returns:
        (K, …) float32 energies in nats.

    Raises:
        ValueError: for values that are NaN or infinite.
    """
    values = real_array("logits", logits)
    shifted = values - values.max(axis=0, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=0, keepdims=True)) - shifted


def unary_from_labels(
    labels: ArrayLike, n: int, *, confidence: float | ArrayLike = 0.9, ignore: int | None = None
) -> np.ndarray:
    """Energies of a hard label map, or of scribbles on a picture.

    A labelled pixel has its label with probability ``confidence`` and each other one with an equal part of
    the rest; a pixel of the value ``ignore`` (unlabelled, void) may be anything with equal probability.

    Args:
        labels: integers of any shape, from 0 to n − 1, or ``ignore``.
        n: K, the number of labels, at least 2.
        confidence: between 0 and 1, or (K,) one for each label.
        ignore: the value of pixels without a label, e.g. 255.

    Returns:
        (K, …) float32 energies in nats.

    Raises:
        ValueError: for other ids, with the first of them, or for a confidence out of range.
    """
    ids = np.asarray(labels)
    if ids.dtype.kind not in "iub":
        raise ValueError(f"got labels of type {ids.dtype}, wanted integers")
    if n < 2:
        raise ValueError(f"got n = {n}, wanted at least 2 labels")
    sure = np.broadcast_to(np.asarray(confidence, np.float64), (n,))
    if not ((sure > 0) & (sure < 1)).all():
        raise ValueError(f"got confidence = {confidence!r}, wanted numbers between 0 and 1")
    known = np.ones(ids.shape, bool) if ignore is None else ids != ignore
    wrong = known & ((ids < 0) | (ids >= n))
    if wrong.any():
        rest = "" if ignore is None else f", or {ignore} where there is no label"
        raise ValueError(
            f"got label {ids[wrong][0]} at {np.count_nonzero(wrong)} pixels, wanted 0 to {n - 1}{rest}"
        )
    own, other = -np.log(sure), -np.log((1 - sure) / (n - 1))
    place = np.where(known, ids, 0).astype(np.intp)
    energies = np.broadcast_to(other[place], (n, *ids.shape)).astype(np.float32)
    np.put_along_axis(energies, place[None], own[place][None].astype(np.float32), axis=0)
    energies[:, ~known] = np.float32(np.log(n))
    return energies


def real_array(name: str, values: ArrayLike) -> np.ndarray:
    """``values`` as float32; ValueError if they are no real numbers, or NaN or infinite."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"got {name} of type {array.dtype}, wanted real numbers")
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is counted
        array = array.astype(np.float32, copy=False)
    if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):  # NaN is its own minimum
        count = array.size - np.count_nonzero(np.isfinite(array))
        raise ValueError(f"got {count} {name} that are NaN or infinite, wanted finite numbers")
    return array
