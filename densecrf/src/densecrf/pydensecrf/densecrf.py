"""pydensecrf's classes and constants. Sizes are width first here, and only here, as people's scripts have
them."""

from __future__ import annotations

from enum import IntEnum
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from densecrf.kernels import Bilateral, Gaussian
from densecrf.lattice import Kernel, MeanField
from densecrf.threads import thread_count, whole_number
from densecrf.unary import real_array


class KernelType(IntEnum):
    """Which parameters of a kernel learning would change; inference does not depend on it."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """How a kernel is normalised."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType
_NAMES = {
    NormalizationType.NO_NORMALIZATION: "none",
    NormalizationType.NORMALIZE_BEFORE: "before",
    NormalizationType.NORMALIZE_AFTER: "after",
    NormalizationType.NORMALIZE_SYMMETRIC: "symmetric",
}


class Unary:
    """Energies of all variables, (K, N)."""

    def __init__(self, energies: ArrayLike):
        self.energies = real_array("unary energies", energies)


class ConstUnary(Unary):
    """Energies given as they are."""


class LogisticUnary(Unary):
    """Energies L·f of features f (d, N) by a matrix L (K, d)."""

    def __init__(self, matrix: ArrayLike, features: ArrayLike):
        super().__init__(real_array("matrix", matrix) @ real_array("features", features))


class DenseCRF:
    """A fully connected CRF over N variables of K labels.

    Args:
        nvar: N.
        nlabels: K.
    """

    def __init__(self, nvar: int, nlabels: int, *_: object, **__: object):
        if nvar < 1 or nlabels < 1:
            raise ValueError(f"got {nvar} variables and {nlabels} labels, wanted at least one of each")
        self._size, self._labels, self._threads = int(nvar), int(nlabels), thread_count(None)
        self._unary: np.ndarray | None = None
        self._terms: list[tuple[Kernel, np.ndarray]] = []

    def setUnary(self, unary: Unary) -> None:
        """Set the unary energies."""
        self._set_energies(unary.energies)

    def setUnaryEnergy(self, u: ArrayLike, f: ArrayLike | None = None) -> None:
        """Set the unary energies: u (K, N), −log probabilities; or with features f (d, N), u·f for u (K,
        d)."""
        self._set_energies((Unary(u) if f is None else LogisticUnary(u, f)).energies)

    def addPairwiseEnergy(
        self,
        features: ArrayLike,
        compat: ArrayLike,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a Gaussian term over features (d, N), divided by their standard deviations.

        Args:
            features: (d, N).
            compat: a number (Potts weight: like labels attract), or penalties: (K, K), or (K,) for its
                diagonal. Mind the sign: that a positive vector pushes like labels apart is pydensecrf's
                convention.
            kernel: one of the kernel constants; matters for learning only.
            normalization: one of the normalisation constants.
        """
        array = real_array("features", features)
        if array.ndim != 2 or array.shape[1] != self._size:
            raise ValueError(f"got features {array.shape}, wanted (d, {self._size})")
        self._add(array.T, compat, kernel, normalization)

    def inference(self, niter: int) -> np.ndarray:
        """Marginals (K, N) float32 after ``niter`` mean-field steps."""
        steps = whole_number("iterations", niter)
        field = self._field()
        field.run(steps)
        return field.marginals()

    def startInference(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The marginals to start from, and two arrays that ``stepInference`` takes along."""
        q = self._field().marginals()
        return q, np.empty_like(q), np.empty_like(q)

    def stepInference(self, q: np.ndarray, tmp1: np.ndarray, tmp2: np.ndarray) -> None:
        """One mean-field step on q, in place."""
        field = self._field()
        field.start_from(self._beliefs(q))
        field.run(1)
        q[...] = field.marginals().reshape(q.shape)

    def klDivergence(self, q: np.ndarray) -> float:
        """KL divergence up to a constant, as pydensecrf counts it: pairs twice, Potts terms as −weight."""
        beliefs = self._beliefs(q).astype(np.float64)
        total = (beliefs * np.log(np.maximum(beliefs, 1e-20))).sum() + (beliefs * self._energies()).sum()
        for kernel, strength in self._terms:
            message = kernel.filter(beliefs.T).T
            total -= (
                beliefs * (strength[:, None] * message if strength.ndim == 1 else strength @ message)
            ).sum()
        return float(total)

    def _set_energies(self, energies: np.ndarray) -> None:
        if energies.shape != (self._labels, self._size):
            raise ValueError(f"got unary energies {energies.shape}, wanted ({self._labels}, {self._size})")
        self._unary = energies

    def _energies(self) -> np.ndarray:
        if self._unary is None:
            raise ValueError("got no unary energies, wanted setUnaryEnergy before inference")
        return self._unary

    def _beliefs(self, q: ArrayLike) -> np.ndarray:
        array = real_array("marginals", q)
        if array.size != self._labels * self._size:
            raise ValueError(f"got marginals {array.shape}, wanted ({self._labels}, {self._size})")
        return array.reshape(self._labels, self._size)

    def _add(self, features: np.ndarray, compat: ArrayLike, kernel: int, normalization: int) -> None:
        KernelType(kernel)  # ValueError for anything but the constants
        strength = real_array("compat", compat)
        if strength.ndim == 0:
            strength = np.full(self._labels, strength)
        elif strength.shape == (self._labels, self._labels):
            strength = -0.5 * (strength + strength.T)
        elif strength.shape == (self._labels,):
            strength = -strength  # a vector is the diagonal of a penalty matrix there, unlike a number
        else:
            raise ValueError(
                f"got compat {strength.shape}, wanted a number, ({self._labels},) or ({self._labels},) * 2"
            )
        term = Kernel(features, _NAMES[NormalizationType(normalization)], True, threads=self._threads)
        self._terms.append((term, strength))

    def _field(self) -> MeanField:
        kernels, strengths = [kernel for kernel, _ in self._terms], [strength for _, strength in self._terms]
        return MeanField(
            self._energies(),
            kernels,
            strengths,
            merge_threshold=0,
            convergence_tolerance=0,
            threads=self._threads,
        )


class DenseCRF2D(DenseCRF):
    """A fully connected CRF over the pixels of an image.

    Args:
        w: width; note that NumPy images have the height first.
        h: height.
        nlabels: K.
    """

    def __init__(self, w: int, h: int, nlabels: int, *_: object, **__: object):
        super().__init__(w * h, nlabels)
        self._shape = (int(h), int(w))

    def addPairwiseGaussian(
        self,
        sxy: Any,
        compat: ArrayLike,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the smoothness term; sxy in pixels, a number or (sx, sy)."""
        self._add(Gaussian(self._shape, _y_x(sxy)).features(), compat, kernel, normalization)

    def addPairwiseBilateral(
        self,
        sxy: Any,
        srgb: Any,
        rgbim: ArrayLike,
        compat: ArrayLike,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the appearance term for an image (h, w, 3); sxy in pixels, srgb in levels, numbers or one for
        each."""
        image = np.asarray(rgbim)
        if image.shape[:2] != self._shape:
            height, width = self._shape
            swapped = " (width and height are swapped: DenseCRF2D takes the width first)"
            hint = swapped if image.shape[:2] == self._shape[::-1] else ""
            raise ValueError(f"got an image {image.shape}, wanted ({height}, {width}, 3){hint}")
        levels = srgb if isinstance(srgb, Real) else tuple(float(s) for s in srgb)
        self._add(Bilateral(image, _y_x(sxy), levels).features(), compat, kernel, normalization)  # type: ignore[arg-type]


def _y_x(sxy: Any) -> tuple[float, float]:
    """pydensecrf's sxy, a number or (x, y), as (y, x)."""
    if isinstance(sxy, Real):
        return float(sxy), float(sxy)
    x, y = sxy
    return float(y), float(x)
