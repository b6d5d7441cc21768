"""The classes and constants of pydensecrf, which take the width before the height."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from densecrf.kernels import Bilateral, Gaussian
from densecrf.lattice import Kernel, MeanField
from densecrf.threads import thread_count, whole_number
from densecrf.unary import real_array
from densecrf.validation import positive_numbers


class KernelType(IntEnum):
    """Parameters of a kernel that pydensecrf's learning would change; inference does not depend on it."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """Normalisation of a kernel."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType
_NORMALIZATIONS = {
    NormalizationType.NO_NORMALIZATION: "none",
    NormalizationType.NORMALIZE_BEFORE: "before",
    NormalizationType.NORMALIZE_AFTER: "after",
    NormalizationType.NORMALIZE_SYMMETRIC: "symmetric",
}


class Unary:
    """Unary energies of all variables.

    Args:
        energies: (K, N) in nats.
    """

    def __init__(self, energies: ArrayLike):
        self.energies = real_array("unary energies", energies)


class ConstUnary(Unary):
    """Unary energies (K, N), as they are."""


class LogisticUnary(Unary):
    """Unary energies L·f of features f.

    Args:
        matrix: L, (K, d).
        features: f, (d, N).
    """

    def __init__(self, matrix: ArrayLike, features: ArrayLike):
        super().__init__(real_array("matrix", matrix) @ real_array("features", features))


class DenseCRF:
    """A fully connected CRF over N variables of K labels.

    Args:
        nvar: number of variables N.
        nlabels: number of labels K.
    """

    def __init__(self, nvar: int, nlabels: int, *_: object, **__: object):
        if nvar < 1 or nlabels < 1:
            raise ValueError(f"got {nvar} variables and {nlabels} labels, wanted at least one of each")
        self._variables = int(nvar)
        self._labels = int(nlabels)
        self._threads = thread_count(None)
        self._unary: np.ndarray | None = None
        self._terms: list[tuple[Kernel, np.ndarray]] = []

    def setUnary(self, unary: Unary) -> None:
        """Set the unary energies."""
        self._set_energies(unary.energies)

    def setUnaryEnergy(self, u: ArrayLike, f: ArrayLike | None = None) -> None:
        """Set the unary energies.

        Args:
            u: (K, N) −log probabilities; with features, the matrix (K, d) of u·f.
            f: features (d, N), or None.
        """
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
            compat: a number (Potts weight: like labels attract), or penalties: (K, K), or (K,) for the
                diagonal of such a matrix. Mind the sign: in pydensecrf's convention a positive vector pushes
                like labels apart.
            kernel: one of the kernel constants; only learning would depend on it.
            normalization: one of the normalisation constants.

        Raises:
            ValueError: for shapes that do not fit, values that are not finite, or unknown constants.
        """
        array = real_array("features", features)
        if array.ndim != 2 or array.shape[1] != self._variables:
            raise ValueError(f"got features {array.shape}, wanted (d, {self._variables})")
        self._add(array.T, compat, kernel, normalization)

    def inference(self, niter: int) -> np.ndarray:
        """Marginals (K, N) float32 after ``niter`` mean-field steps."""
        steps = whole_number("iterations", niter)
        field = self._mean_field()
        field.run(steps)
        return field.marginals()

    def startInference(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The marginals to start from, and two arrays that ``stepInference`` expects and does not use."""
        q = self._mean_field().marginals()
        return q, np.empty_like(q), np.empty_like(q)

    def stepInference(self, q: np.ndarray, tmp1: np.ndarray, tmp2: np.ndarray) -> None:
        """Take one mean-field step, in place.

        Args:
            q: marginals (K, N), which are overwritten.
            tmp1: not used, as pydensecrf's signature has it.
            tmp2: not used.
        """
        field = self._mean_field()
        field.start_from(self._marginals(q))
        field.run(1)
        q[...] = field.marginals().reshape(q.shape)

    def klDivergence(self, q: np.ndarray) -> float:
        """KL divergence up to a constant, with pydensecrf's conventions.

        Each pair counts twice, and a Potts term counts as minus its weight for like labels.
        """
        marginals = self._marginals(q).astype(np.float64)
        total = (marginals * np.log(np.maximum(marginals, 1e-20))).sum()
        total += (marginals * self._energies()).sum()
        for kernel, strength in self._terms:
            message = kernel.filter(marginals.T).T
            weighted = strength[:, None] * message if strength.ndim == 1 else strength @ message
            total -= (marginals * weighted).sum()
        return float(total)

    def _set_energies(self, energies: np.ndarray) -> None:
        if energies.shape != (self._labels, self._variables):
            raise ValueError(
                f"got unary energies {energies.shape}, wanted ({self._labels}, {self._variables})"
            )
        self._unary = energies

    def _energies(self) -> np.ndarray:
        if self._unary is None:
            raise ValueError("got no unary energies, wanted setUnaryEnergy before inference")
        return self._unary

    def _marginals(self, q: ArrayLike) -> np.ndarray:
        array = real_array("marginals", q)
        if array.size != self._labels * self._variables:
            raise ValueError(f"got marginals {array.shape}, wanted ({self._labels}, {self._variables})")
        return array.reshape(self._labels, self._variables)

    def _add(self, features: np.ndarray, compat: ArrayLike, kernel: int, normalization: int) -> None:
        KernelType(kernel)  # ValueError for anything but the constants
        strength = real_array("compat", compat)
        if strength.ndim == 0:
            strength = np.full(self._labels, strength)
        elif strength.shape == (self._labels, self._labels):
            strength = -0.5 * (strength + strength.T)
        elif strength.shape == (self._labels,):
            strength = -strength  # in pydensecrf a vector is the diagonal of a penalty matrix
        else:
            raise ValueError(
                f"got compat {strength.shape}, wanted a number, ({self._labels},) or ({self._labels},) * 2"
            )
        term = Kernel(
            features, _NORMALIZATIONS[NormalizationType(normalization)], True, threads=self._threads
        )
        self._terms.append((term, strength))

    def _mean_field(self) -> MeanField:
        return MeanField(
            self._energies(),
            [kernel for kernel, _ in self._terms],
            [strength for _, strength in self._terms],
            merge_threshold=0,
            convergence_tolerance=0,
            threads=self._threads,
        )


class DenseCRF2D(DenseCRF):
    """A fully connected CRF over the pixels of an image.

    Args:
        w: width in pixels; note that the shape of a NumPy image has the height first.
        h: height in pixels.
        nlabels: number of labels K.
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
        """Add the smoothness term.

        Args:
            sxy: standard deviation in pixels, a number or (sx, sy).
            compat: see ``addPairwiseEnergy``.
            kernel: see ``addPairwiseEnergy``.
            normalization: see ``addPairwiseEnergy``.
        """
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
        """Add the appearance term.

        Args:
            sxy: standard deviation in pixels, a number or (sx, sy).
            srgb: standard deviation in levels, a number or one for each channel.
            rgbim: image (h, w, 3).
            compat: see ``addPairwiseEnergy``.
            kernel: see ``addPairwiseEnergy``.
            normalization: see ``addPairwiseEnergy``.

        Raises:
            ValueError: for an image of another size, or values that are not finite.
        """
        image = np.asarray(rgbim)
        if image.shape[:2] != self._shape:
            height, width = self._shape
            swapped = " (width and height are swapped: DenseCRF2D takes the width first)"
            hint = swapped if image.shape[:2] == self._shape[::-1] else ""
            raise ValueError(f"got an image {image.shape}, wanted ({height}, {width}, 3){hint}")
        self._add(Bilateral(image, _y_x(sxy), srgb).features(), compat, kernel, normalization)


def _y_x(sxy: Any) -> tuple[float, float]:
    """Standard deviations (y, x) of pydensecrf's ``sxy``, a number or (x, y)."""
    x, y = positive_numbers("sxy", sxy, 2, "one number, or (x, y)")
    return y, x
