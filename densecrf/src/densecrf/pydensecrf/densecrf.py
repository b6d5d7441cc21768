"""The classes and constants of pydensecrf, which take the width before the height."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from densecrf.kernels import Bilateral, Features, Gaussian
from densecrf.lattice import Kernel, MeanField
from densecrf.pydensecrf.arguments import whole, widths
from densecrf.pydensecrf.constants import (
    CONST_KERNEL,
    DIAG_KERNEL,
    FULL_KERNEL,
    NO_NORMALIZATION,
    NORMALIZE_AFTER,
    NORMALIZE_BEFORE,
    NORMALIZE_SYMMETRIC,
    KernelType,
    NormalizationType,
    check_kernel,
    normalization_name,
)
from densecrf.threads import thread_count
from densecrf.unary import expected_unary_energy, impossible_labels, real_array
from densecrf.user_warnings import warn_user

__all__ = [
    "CONST_KERNEL",
    "DIAG_KERNEL",
    "FULL_KERNEL",
    "NORMALIZE_AFTER",
    "NORMALIZE_BEFORE",
    "NORMALIZE_SYMMETRIC",
    "NO_NORMALIZATION",
    "ConstUnary",
    "DenseCRF",
    "DenseCRF2D",
    "KernelType",
    "LogisticUnary",
    "NormalizationType",
    "Unary",
]


class Unary:
    """Unary energies of all variables.

    Args:
        energies: (K, N) in nats, which are copied; +inf for a label that a variable cannot have.

    Raises:
        ValueError: for values that are NaN or −inf.
    """

    def __init__(self, energies: ArrayLike):
        array = real_array("unary energies", energies, allow_infinity=True)
        self.energies = array.copy(order="C") if np.may_share_memory(array, energies) else array


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
        threads: maximum number of threads, by keyword; by default the environment variable
            ``DENSECRF_THREADS``, or all processors that this process may use.

    Raises:
        TypeError: for numbers of another type.
        ValueError: for numbers under 1 or with a fraction.
    """

    def __init__(self, nvar: int, nlabels: int, *_: object, threads: int | None = None, **__: object):
        self._variables = whole("nvar", nvar, least=1)
        self._labels = whole("nlabels", nlabels, least=1)
        self._threads = thread_count(threads)
        if self._labels == 1:
            warn_user(
                "got nlabels = 1: the only label has probability 1 everywhere; for one foreground map p use "
                "nlabels = 2 and unary_from_softmax(np.stack([1 - p, p]))"
            )
        self._unary: np.ndarray | None = None
        self._terms: list[tuple[Kernel, np.ndarray]] = []

    def setUnary(self, unary: Unary) -> None:
        """Set the unary energies.

        Args:
            unary: ``ConstUnary`` or ``LogisticUnary``.
        """
        if not isinstance(unary, Unary):
            raise TypeError(f"got {type(unary).__name__}, wanted ConstUnary or LogisticUnary")
        self._set_energies(unary.energies)

    def setUnaryEnergy(self, u: ArrayLike, f: ArrayLike | None = None) -> None:
        """Set the unary energies.

        Args:
            u: (K, N) −log probabilities, which are copied, +inf for a label that a variable cannot have; with
                features, the matrix (K, d) of u·f.
            f: features (d, N), or None.

        Raises:
            ValueError: for another shape, values that are NaN or −inf, or a variable without a finite energy.
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
        array = np.asarray(features)
        if array.ndim != 2 or array.shape[1] != self._variables:
            hint = ""
            if array.ndim == 2 and array.shape[0] == self._variables:
                hint = "; give their transpose"
            elif array.ndim == 2 and array.shape[1] and array.shape[1] % self._variables == 0:
                hint = "; chdim=-1 is for images without channels, an image (H, W, C) has chdim=2"
            raise ValueError(f"got features {array.shape}, wanted (d, {self._variables}){hint}")
        self._add(Features(array.T).features(), compat, kernel, normalization)

    def inference(self, niter: int) -> np.ndarray:
        """Marginals (K, N) float32 after ``niter`` mean-field steps.

        Args:
            niter: number of steps, at least 0; a float such as 5.0 counts as a whole number.
        """
        steps = whole("niter", niter)
        field = self._mean_field()
        field.run(steps)
        return field.finish()

    def startInference(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The marginals to start from, and two arrays that ``stepInference`` expects and does not use."""
        q = self._mean_field().marginals()
        return q, np.empty_like(q), np.empty_like(q)

    def stepInference(self, q: np.ndarray, tmp1: np.ndarray, tmp2: np.ndarray) -> None:
        """Take one mean-field step, in place.

        Args:
            q: marginals (K, N), a float array, which is overwritten.
            tmp1: not used, as pydensecrf's signature has it.
            tmp2: not used.
        """
        if not (isinstance(q, np.ndarray) and q.dtype.kind == "f"):
            raise TypeError(f"got marginals of type {type(q).__name__}, wanted the array of startInference")
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
        total += expected_unary_energy(marginals, self._energies())
        for kernel, strength in self._terms:
            message = kernel.filter(marginals.T).T
            weighted = strength[:, None] * message if strength.ndim == 1 else strength @ message
            total -= (marginals * weighted).sum()
        return float(total)

    def _set_energies(self, energies: np.ndarray) -> None:
        shape = (self._labels, self._variables)
        if energies.shape != shape:
            hint = ""
            if energies.shape == shape[::-1]:
                hint = "; give their transpose"
            elif energies.size == self._labels * self._variables and energies.shape[0] == self._labels:
                hint = f"; give u.reshape({self._labels}, -1)"
            raise ValueError(f"got unary energies {energies.shape}, wanted {shape}{hint}")
        impossible_labels(energies)
        if _are_probabilities(energies):
            warn_user(
                "got unary energies that look like probabilities (they sum to 1), so the wrong labels win; "
                "setUnaryEnergy takes -log(p), see unary_from_softmax"
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
        check_kernel(kernel)
        name = normalization_name(normalization)
        strength = real_array("compat", compat)
        if strength.ndim == 0:
            strength = np.full(self._labels, strength)
        elif strength.shape == (self._labels, self._labels):
            strength = -0.5 * (strength + strength.T)
        elif strength.shape == (self._labels,):
            strength = -strength  # in pydensecrf a vector is the diagonal of a penalty matrix
        else:
            k = self._labels
            raise ValueError(f"got compat {strength.shape}, wanted a number, ({k},) or ({k}, {k})")
        self._terms.append((Kernel(features, name, True, threads=self._threads), strength))

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
        threads: see ``DenseCRF``.
    """

    def __init__(self, w: int, h: int, nlabels: int, *_: object, threads: int | None = None, **__: object):
        self._shape = (whole("h", h, least=1), whole("w", w, least=1))
        super().__init__(self._shape[0] * self._shape[1], nlabels, threads=threads)

    def addPairwiseGaussian(
        self,
        sxy: Any,
        compat: ArrayLike,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the smoothness term.

        Args:
            sxy: standard deviation in pixels, a number or (sx, sy); further numbers are ignored.
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
            sxy: standard deviation in pixels, a number or (sx, sy); further numbers are ignored.
            srgb: standard deviation in levels, a number or one for each channel; further numbers are ignored.
            rgbim: image (h, w, 3), or (h, w) and (h, w, C) with any number of channels, of any real type.
            compat: see ``addPairwiseEnergy``.
            kernel: see ``addPairwiseEnergy``.
            normalization: see ``addPairwiseEnergy``.

        Raises:
            ValueError: for an image of another size, or values that are not finite.
        """
        image = np.asarray(rgbim)
        if image.shape[:2] != self._shape or image.ndim not in (2, 3):
            height, width = self._shape
            swapped = " (width and height are swapped: DenseCRF2D takes the width first)"
            hint = swapped if image.shape[:2] == self._shape[::-1] else ""
            raise ValueError(f"got an image {image.shape}, wanted ({height}, {width}, 3){hint}")
        channels = image.shape[2] if image.ndim == 3 else 1
        stds = widths("srgb", srgb, channels, f"one number, or one for each of {channels} channels")
        self._add(Bilateral(image, _y_x(sxy), stds).features(), compat, kernel, normalization)


def _y_x(sxy: Any) -> tuple[float, float]:
    """Standard deviations (y, x) of pydensecrf's ``sxy``, a number or (x, y)."""
    x, y = widths("sxy", sxy, 2, "one number, or (x, y)")
    return y, x


def _are_probabilities(energies: np.ndarray) -> bool:
    """Whether energies lie from 0 to 1 and sum to 1, which −log p cannot do."""
    first = energies[:, 0]  # to spare other energies two passes
    if len(energies) < 2 or abs(first.sum() - 1) > 1e-3:
        return False
    return bool(energies.min() >= 0 and np.abs(energies.sum(axis=0) - 1).max() <= 1e-3)
