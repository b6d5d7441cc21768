"""The cascade: a photo of any size goes through the network and the CRF and comes out as labels."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

import densecrf
from deeplab.network import VARIANTS, DeepLab
from deeplab.photos import photo_from_any
from deeplab.report import overlay, palette_png
from deeplab.transforms import pad_to_legal, prepare
from deeplab.weights import Card, load_weights, write_whole
from densecrf import memory

NETWORK_BYTES_A_PIXEL = 560  # most of it two fp32 activations of stage 1; 520 measured at 2 megapixels, 21 classes
CRF_BYTES_A_PIXEL = 1200  # 920 measured at 2 megapixels, 21 classes; more where noise makes the lattice larger


@dataclass(frozen=True)
class Segmentation:
    """A labelled photo."""

    photo: np.ndarray
    """(H, W, 3) uint8, R, G, B."""
    probabilities: np.ndarray
    """(K, H, W) float32: marginals of the CRF, or the network's softmax without it."""
    class_names: tuple[str, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each step took."""

    @cached_property
    def labels(self) -> np.ndarray:
        """(H, W) uint8 class ids."""
        return self.probabilities.argmax(axis=0).astype(np.uint8)

    def shares(self) -> dict[str, float]:
        """The classes in the picture and the share of its pixels each takes, largest first; sums to 1."""
        labels = self.labels
        counts = np.bincount(labels.ravel(), minlength=len(self.class_names)) / labels.size
        order = np.argsort(-counts, kind="stable")
        return {self.class_names[i]: float(counts[i]) for i in order if counts[i] > 0}

    def overlay(self, *, alpha: float = 0.5) -> np.ndarray:
        """The photo with its classes in colour, (H, W, 3) uint8; ``alpha`` from 0 (photo) to 1 (colours)."""
        return overlay(self.photo, self.labels, alpha=alpha)

    def save(self, path: str | Path) -> None:
        """Write the class ids as a palette PNG with VOC's colours, whole or not at all."""
        write_whole(Path(path), palette_png(self.labels))


class Model:
    """A trained network with everything needed to label photos."""

    def __init__(self, network: DeepLab, card: Card):
        self.network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.card = card
        try:
            self.crf_params = densecrf.Params(**card.crf)
        except TypeError as error:
            raise ValueError(f"the card's CRF parameters {card.crf} cannot be used: {error}") from None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes, id order."""
        return self.card.class_names

    def scores(self, photo: np.ndarray) -> np.ndarray:
        """The network alone: (H, W, 3) uint8 to softmax probabilities (K, H, W) float32.

        The photo is padded at the bottom and right with the mean colour to a size at which scores align with pixels,
        and its own rectangle is cut out of the scores.

        Source: DeepLab, sections 3.2 and 4; the release's test.prototxt.
        """
        height, width = photo.shape[:2]
        with torch.inference_mode():
            batch = pad_to_legal(prepare(photo, self.card.mean_bgr), self.network.variant)
            batch = batch.contiguous(memory_format=torch.channels_last)
            scores = self.network.full_scores(batch)[0, :, :height, :width]
            return torch.softmax(scores, dim=0).numpy()

    def segment(
        self,
        image: Any,
        *,
        crf: bool | densecrf.Params = True,
        iterations: int = 10,
        threads: int | None = None,
    ) -> Segmentation:
        """Label every pixel of a photo.

        Args:
            image: a path, a Pillow image, or an array (H, W, 3) uint8 in R, G, B; any size.
            crf: True for the parameters that belong to the weights, False for the network alone, or parameters.
            iterations: mean-field steps.
            threads: for the CRF; by default as many as this process may run on.

        Returns:
            Labels, probabilities and pictures of them.

        Raises:
            PhotoError: if a file cannot be used.
            ValueError: for another type, shape or dtype.
            MemoryError: if the photo needs more memory than there is.
        """
        started = time.perf_counter()
        photo = photo_from_any(image)
        _require_memory(photo, crf=bool(crf))
        decoded = time.perf_counter()
        probabilities = self.scores(photo)
        seconds = {"decode": decoded - started, "network": time.perf_counter() - decoded}
        result = Segmentation(photo, probabilities, self.class_names, seconds)
        if crf is False:
            return result
        return self.refine(result, params=None if crf is True else crf, iterations=iterations, threads=threads)

    def refine(
        self,
        result: Segmentation,
        *,
        params: densecrf.Params | None = None,
        iterations: int = 10,
        threads: int | None = None,
    ) -> Segmentation:
        """The CRF alone, on a segmentation made without it; the CRF sees the raw photo. Arguments as in ``segment``."""
        started = time.perf_counter()
        marginals = densecrf.refine(
            result.photo, result.probabilities, params=params or self.crf_params, iterations=iterations, threads=threads
        )
        seconds = result.seconds | {"CRF": time.perf_counter() - started}
        return replace(result, probabilities=marginals, seconds=seconds)


def load(variant: str = "deeplab-largefov", *, weights: str | Path | None = None) -> Model:
    """A model ready to segment.

    Args:
        variant: a name in ``network.VARIANTS``.
        weights: a .safetensors file with its card beside it; by default the weights that come with the package.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: for an unknown variant, or weights that are damaged or of another variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"got variant {variant!r}, wanted one of: {', '.join(VARIANTS)}")
    if weights is not None:
        network, card = load_weights(weights)
    else:
        with resources.as_file(resources.files("deeplab") / "pretrained") as folder:
            file = folder / f"{variant}-voc.safetensors"
            if not file.is_file():
                known = ", ".join(sorted(path.stem.removesuffix("-voc") for path in folder.glob("*.safetensors")))
                raise FileNotFoundError(
                    f"no weights of {variant} come with the package, only of {known}; give a file of them as weights=…"
                )
            network, card = load_weights(file)
    if card.variant != variant:
        raise ValueError(f"{weights}: got weights of {card.variant}, wanted {variant}; load({card.variant!r}, …) works")
    return Model(network, card)


def _require_memory(photo: np.ndarray, *, crf: bool) -> None:
    """Refuse at once what the system would kill the process for later."""
    height, width = photo.shape[:2]
    needed = height * width * max(NETWORK_BYTES_A_PIXEL, CRF_BYTES_A_PIXEL * crf)
    memory.require(needed, f"a photo of {width}×{height}")
