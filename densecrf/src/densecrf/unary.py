"""Unary energies −log p of every pixel in nats, from probabilities, logits or label maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from densecrf import _native
from densecrf.threads import thread_count
from densecrf.validation import real_number

FLOOR = 1e-10
"""Default minimum of a probability, so that no energy is infinite."""
MIN_FLOOR = 1e-37
"""Smallest floor that is allowed, about the smallest normal float32."""


def unary_from_probabilities(
    probabilities: ArrayLike, *, floor: float = FLOOR, threads: int | None = None
) -> np.ndarray:
    """Energies −log p of class probabilities.

    Args:
        probabilities: (K, …) real, finite and not negative; the probability of label k at each pixel.
        floor: smaller probabilities count as this, so that no energy is infinite.
        threads: maximum number of threads; by default one for each processor that this process may use.

    Returns:
        (K, …) float32 energies in nats.

    Raises:
        ValueError: for NaN, infinite or negative values. The message gives their number.

    Source: DeepLab, section 3.3, θ_i = −log P(x_i).
    """
    floor = real_number("floor", floor)
    if not MIN_FLOOR <= floor < 1:
        raise ValueError(f"got floor = {floor}, wanted at least {MIN_FLOOR} and under 1")
    values = np.ascontiguousarray(real_array("probabilities", probabilities))
    if values.size and values.min() < 0:
        bad = values < 0
        raise ValueError(
            f"got {np.count_nonzero(bad)} probabilities that are negative (the first: {values[bad][0]}), "
            "wanted at least 0; for scores use unary_from_logits"
        )
    return _native.energies_of(values.reshape(1, -1), floor, thread_count(threads)).reshape(values.shape)


def unary_from_logits(logits: ArrayLike) -> np.ndarray:
    """Energies of a network's raw scores: the negative log-softmax over the first axis.

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

    A labelled pixel has its label with probability ``confidence``, and the other labels share the rest
    equally. At pixels with the value ``ignore`` (unlabelled, void) all labels are equally probable.

    Args:
        labels: integers of any shape, from 0 to n − 1, or ``ignore``.
        n: number of labels K, at least 2.
        confidence: probability between 0 and 1, or (K,) one for each label.
        ignore: value of pixels without a label, e.g. 255.

    Returns:
        (K, …) float32 energies in nats.

    Raises:
        ValueError: for other labels, of which the message names the first, or a confidence out of range.
    """
    ids = np.asarray(labels)
    if ids.dtype.kind not in "iub":
        raise ValueError(f"got labels of type {ids.dtype}, wanted integers")
    if n < 2:
        raise ValueError(f"got n = {n}, wanted at least 2 labels")
    probability = np.broadcast_to(np.asarray(confidence, np.float64), (n,))
    if not ((probability > 0) & (probability < 1)).all():
        raise ValueError(f"got confidence = {confidence!r}, wanted numbers between 0 and 1")
    labelled = np.ones(ids.shape, bool) if ignore is None else ids != ignore
    wrong = labelled & ((ids < 0) | (ids >= n))
    if wrong.any():
        alternative = "" if ignore is None else f", or {ignore} where there is no label"
        raise ValueError(
            f"got label {ids[wrong][0]} at {np.count_nonzero(wrong)} pixels, wanted 0 to {n - 1}{alternative}"
        )
    of_label = -np.log(probability)
    of_others = -np.log((1 - probability) / (n - 1))
    index = np.where(labelled, ids, 0).astype(np.intp)
    energies = np.broadcast_to(of_others[index], (n, *ids.shape)).astype(np.float32)
    np.put_along_axis(energies, index[None], of_label[index][None].astype(np.float32), axis=0)
    energies[:, ~labelled] = np.float32(np.log(n))
    return energies


def real_array(name: str, values: ArrayLike) -> np.ndarray:
    """Finite real numbers as a float32 array.

    Args:
        name: name of the argument in the plural, for messages.
        values: array of any real type.

    Raises:
        ValueError: for values that are not real numbers, or NaN or infinite.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"got {name} of type {array.dtype}, wanted real numbers")
    with np.errstate(over="ignore"):  # values that overflow become infinite and are counted
        array = array.astype(np.float32, copy=False)
    if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):  # min() of NaN is NaN
        count = array.size - np.count_nonzero(np.isfinite(array))
        raise ValueError(f"got {count} {name} that are NaN or infinite, wanted finite numbers")
    return array
