"""Unary energies −log p of every pixel in nats, from probabilities, logits or label maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from densecrf import _native
from densecrf.arrays import as_numpy, kind_of
from densecrf.probabilities import checked_distribution, sums_to_one
from densecrf.threads import thread_count
from densecrf.validation import real_number

FLOOR = 1e-10
"""Default minimum of a probability, so that no energy is infinite."""
MIN_FLOOR = 1e-37
"""Smallest floor that is allowed, about the smallest normal float32."""
OTHER_SCORES = "for logits use unary_from_logits, energies −log p need no conversion"


def unary_from_probabilities(
    probabilities: ArrayLike, *, floor: float = FLOOR, threads: int | None = None
) -> np.ndarray:
    """Energies −log p of class probabilities.

    Args:
        probabilities: (K, …) real and finite, from 0 to 1; the probability of label k at each pixel. Values
            that do not sum to 1 over K are divided by their sum, with a warning. A batch (B, K, H, W) has
            to sum to 1.
        floor: smaller probabilities count as this, so that no energy is infinite.
        threads: maximum number of threads; by default one for each processor that this process may use.

    Returns:
        (K, …) float32 energies in nats; a tensor if probabilities are a tensor.

    Raises:
        ValueError: for values that are NaN, infinite, negative or over 1.

    Source: DeepLab, section 3.3, θ_i = −log P(x_i).
    """
    floor = real_number("floor", floor)
    if not MIN_FLOOR <= floor < 1:
        raise ValueError(f"got floor = {floor}, wanted at least {MIN_FLOOR} and under 1")
    values = real_array("probabilities", probabilities)
    if values.ndim < 4:
        values = checked_distribution(values, OTHER_SCORES)
    elif not (sums_to_one(values, axis=0) or sums_to_one(values, axis=1)):
        raise ValueError(
            f"got probabilities {values.shape} that do not sum to 1, wanted sums of 1 over the first axis, "
            f"or over the second of a batch; divide by values.sum(axis, keepdims=True); {OTHER_SCORES}"
        )
    return kind_of(probabilities)(negative_log(values, floor, threads=threads))


def negative_log(values: np.ndarray, floor: float, *, threads: int | None = None) -> np.ndarray:
    """−log of values of which nothing is checked but that they are finite and not negative.

    Args:
        values: real numbers of any shape; their sums do not matter.
        floor: smaller values count as this, above 0.
        threads: maximum number of threads; None for all processors.

    Returns:
        float32 of values' shape.

    Raises:
        ValueError: for values that are negative, NaN or infinite.
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(1, -1)
    return _native.energies_of(flat, floor, thread_count(threads)).reshape(values.shape)


def unary_from_logits(logits: ArrayLike) -> np.ndarray:
    """Energies of a network's raw scores: the negative log-softmax over the first axis.

    Args:
        logits: (K, …) real and finite.

    Returns:
        (K, …) float32 energies in nats; a tensor if logits are a tensor.

    Raises:
        ValueError: for values that are NaN or infinite.
    """
    values = real_array("logits", logits)
    shifted = values - values.max(axis=0, keepdims=True)
    return kind_of(logits)(np.log(np.exp(shifted).sum(axis=0, keepdims=True)) - shifted)


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
        (K, …) float32 energies in nats; a tensor if labels are a tensor.

    Raises:
        ValueError: for other labels, of which the message names the first, or a confidence out of range.
    """
    ids = as_numpy("labels", labels)
    if ids.dtype.kind not in "iub":
        raise ValueError(
            f"got labels of type {ids.dtype}, wanted integers; for a map of probabilities use "
            "unary_from_probabilities"
        )
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
            + ("; for a mask of 0 and 255 use labels > 0" if set(np.unique(ids)) <= {0, 255} else "")
        )
    of_label = -np.log(probability)
    of_others = -np.log((1 - probability) / (n - 1))
    index = np.where(labelled, ids, 0).astype(np.intp)
    energies = np.broadcast_to(of_others[index], (n, *ids.shape)).astype(np.float32)
    np.put_along_axis(energies, index[None], of_label[index][None].astype(np.float32), axis=0)
    energies[:, ~labelled] = np.float32(np.log(n))
    return kind_of(labels)(energies)


def impossible_labels(unary: np.ndarray) -> np.ndarray | None:
    """The labels that pixels cannot have, as their energy is +inf.

    Args:
        unary: (K, N) energies in nats, without NaN or −inf.

    Returns:
        (K, N) bool, or None if all energies are finite.

    Raises:
        ValueError: if a pixel has no other label.
    """
    if not unary.size or unary.max() < np.inf:
        return None
    impossible = np.isposinf(unary)
    count = np.count_nonzero(impossible.all(axis=0))
    if count:
        raise ValueError(
            f"got {count} pixels whose unary energies are all infinite, wanted a finite one at each; for "
            "energies -log(p) clip the probabilities, e.g. np.clip(p, 1e-5, 1)"
        )
    return impossible


def expected_unary_energy(marginals: np.ndarray, unary: np.ndarray) -> float:
    """Σ Q·U in nats; an infinite energy counts only where its label has a marginal above 0.

    Args:
        marginals: Q, (K, N).
        unary: U, (K, N) in nats.
    """
    products = np.zeros(unary.shape, np.result_type(marginals, unary))
    np.multiply(marginals, unary, out=products, where=marginals != 0)
    return float(products.sum(dtype=np.float64))


def real_array(name: str, values: ArrayLike, *, allow_infinity: bool = False) -> np.ndarray:
    """Finite real numbers as a float32 array.

    Args:
        name: name of the argument in the plural, for messages.
        values: array of any real type and library, in the CPU's memory.
        allow_infinity: whether values may be +inf.

    Raises:
        ValueError: for values that are not real numbers, or NaN or infinite.
    """
    array = as_numpy(name, values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"got {name} of type {array.dtype}, wanted real numbers")
    with np.errstate(over="ignore"):  # values that overflow become infinite and are counted
        array = array.astype(np.float32, copy=False)
    if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):  # min() of NaN is NaN
        wrong = ~(np.isfinite(array) | (np.isposinf(array) & allow_infinity))
        if wrong.any():
            what = "NaN or −inf" if allow_infinity else "NaN or infinite"
            raise ValueError(f"got {np.count_nonzero(wrong)} {name} that are {what}, wanted finite numbers")
    return array
