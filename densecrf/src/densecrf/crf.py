"""A fully connected CRF over the pixels of an image, solved by mean field."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from densecrf import exact
from densecrf.kernels import Bilateral, Gaussian
from densecrf.lattice import Lattice, mean_field, thread_count
from densecrf.params import Params
from densecrf.unary import unary_from_probabilities

BACKENDS = ("lattice", "exact")


def refine(
    image: ArrayLike,
    probabilities: ArrayLike,
    *,
    params: Params | None = None,
    iterations: int = 10,
    threads: int | None = None,
    backend: str = "lattice",
) -> np.ndarray:
    """Class probabilities made consistent with the edges of the photo they belong to.

    Args:
        image: (H, W, 3) or (H, W), the raw photo in 0–255 levels (any real type).
        probabilities: (K, H, W) real, finite, not negative.
        params: weights and widths; ``Params()`` by default.
        iterations: mean-field steps; the paper uses 10.
        threads: how many to use; by default as many as this process may run on.
        backend: "lattice" (permutohedral, linear in pixels) or "exact" (quadratic: for small images and for checks).

    Returns:
        Marginals (K, H, W) float32 that sum to 1 over K; ``.argmax(0)`` is the label map.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, or an unknown backend.
        MemoryError: if the image is too large for the memory at hand.

    Source: DeepLab, section 3.3; Krähenbühl and Koltun 2011.
    """
    params = params or Params()
    photo, scores = np.asarray(image), np.asarray(probabilities)
    if scores.ndim != 3 or scores.shape[0] < 1:
        raise ValueError(f"got probabilities {scores.shape}, wanted (K, H, W) with K of at least 1")
    if photo.ndim not in (2, 3) or photo.shape[:2] != scores.shape[1:]:
        raise ValueError(f"got an image {photo.shape} and probabilities {scores.shape}, wanted (H, W, 3) and (K, H, W)")
    if iterations < 0:
        raise ValueError(f"got {iterations} iterations, wanted at least 0")
    if backend not in BACKENDS:
        raise ValueError(f"got backend {backend!r}, wanted one of: {', '.join(BACKENDS)}")
    count = thread_count(threads)
    labels, height, width = scores.shape
    unary = unary_from_probabilities(scores).reshape(labels, height * width)
    if unary.size == 0:
        return np.zeros(scores.shape, np.float32)
    kernels = [
        kernel
        for kernel in (
            Gaussian((height, width), params.smoothness_xy_std, params.smoothness_weight),
            Bilateral(photo, params.appearance_xy_std, params.appearance_rgb_std, params.appearance_weight),
        )
        if kernel.weight > 0
    ]
    features = [kernel.features() for kernel in kernels]
    weights = [kernel.weight for kernel in kernels]
    if backend == "exact":
        marginals = exact.mean_field(
            unary, features, weights, normalization=params.normalization, iterations=iterations
        ).astype(np.float32)
    else:
        lattices = [Lattice(f, threads=count) for f in features]
        marginals = mean_field(
            unary, lattices, weights, normalization=params.normalization, iterations=iterations, threads=count
        )
    return marginals.reshape(scores.shape)
