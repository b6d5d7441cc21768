"""Segmentation of photos: the network, and the CRF on its probabilities."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

import densecrf
from deeplab.drawing import overlay, palette_png
from deeplab.files import write_whole
from deeplab.model.predictor import Predictor, TestTimeAugmentation
from deeplab.network.architecture import DeepLab
from deeplab.photos import photo_from_any
from deeplab.weights.class_replacement import ClassReplacement, replace_classes
from deeplab.weights.exported import Exported
from deeplab.weights.hub import hub_model
from deeplab.weights.store import Card, save_weights
from densecrf import memory

CRF_BYTES_PER_PIXEL = 1200
"""Memory of the CRF; 920 measured at 2 megapixels and 21 classes, more where noise enlarges the lattice."""


@dataclass(frozen=True)
class Segmentation:
    """A labelled photo."""

    photo: np.ndarray
    """(H, W, 3) uint8 in R, G, B."""
    probabilities: np.ndarray
    """(K, H, W) float32: marginals of the CRF, or without it the network's softmax."""
    class_names: tuple[str, ...]
    """Names of the K classes in the order of their ids."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each step in seconds."""

    @cached_property
    def labels(self) -> np.ndarray:
        """(H, W) uint8 ids of the most probable class; the lowest id of equally probable ones."""
        best = self.probabilities.max(axis=0)
        ids = np.zeros(best.shape, np.uint8)
        # Plane by plane, this takes a third of the time of argmax.
        for k in range(len(self.probabilities) - 1, -1, -1):
            np.copyto(ids, np.uint8(k), where=self.probabilities[k] == best)
        return ids

    def shares(self) -> dict[str, float]:
        """Share of the pixels of each class in the photo, largest first. The shares sum to 1."""
        labels = self.labels
        counts = np.bincount(labels.ravel(), minlength=len(self.class_names)) / labels.size
        order = np.argsort(-counts, kind="stable")
        return {self.class_names[i]: float(counts[i]) for i in order if counts[i] > 0}

    def overlay(self, *, alpha: float = 0.5) -> np.ndarray:
        """Colour the classes in the photo; background is not coloured.

        Args:
            alpha: Opacity of the colours, 0 to 1.

        Returns:
            (H, W, 3) uint8.

        Raises:
            ValueError: If ``alpha`` is outside 0 to 1.
        """
        return overlay(self.photo, self.labels, alpha=alpha)

    def save(self, path: str | Path) -> None:
        """Write the class ids as a palette PNG with VOC's colours, completely or not at all.

        Args:
            path: File to write.
        """
        write_whole(Path(path), palette_png(self.labels))


@dataclass(frozen=True)
class _Options:
    """Options of ``Model.segment``."""

    crf: bool | densecrf.Params
    iterations: int
    threads: int | None
    views: TestTimeAugmentation
    tile: int | None


class Model:
    """A trained network with everything that is needed to label photos.

    The CRF's parameters are those on the card. Where it has none, they are ``deeplab.weights.DEFAULT_CRF``,
    those of the authors' release; ``model.crf_params`` shows them.

    Args:
        network: Trained network in fp32. It stays as it is and can be saved or trained further. An exported
            network only labels photos, on the device and in the precision that it was opened with.
        card: Card of the network.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" …
        precision: "auto" (bfloat16 where the processor has it in hardware), "fp32" or "bf16".
        compile: Run the network through ``torch.compile``, which is worth it for thousands of photos of few
            sizes.

    Raises:
        ValueError: If the device or precision is not available, or the card has CRF parameters that do not
            exist.
    """

    def __init__(
        self,
        network: DeepLab | Exported,
        card: Card,
        *,
        device: str = "auto",
        precision: str = "auto",
        compile: bool = False,
    ):
        self._network = network if isinstance(network, Exported) else network.eval()
        self.card = card
        self.crf_params = card.crf_params
        self.predictor = Predictor(
            network, card.preparation, device=device, precision=precision, compile=compile
        )

    @property
    def network(self) -> DeepLab:
        """The trained network in fp32; ``ValueError`` for an exported one."""
        if isinstance(self._network, Exported):
            raise ValueError(
                f"{self._network.path}: an exported network, which can only label photos; for anything else "
                "give the weights it was made from"
            )
        return self._network

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes in the order of their ids."""
        return self.card.class_names

    @property
    def digest(self) -> str:
        """Hash of the weights and their preprocessing, 16 hexadecimal digits."""
        digest = hashlib.sha256(repr(sorted(asdict(self.card.preparation).items())).encode())
        if isinstance(self._network, Exported):
            for file in (self._network.path, self._network.path.with_suffix(".bin")):
                digest.update(file.read_bytes() if file.is_file() else b"")
            return digest.hexdigest()[:16]
        for name, tensor in self._network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def segment(
        self,
        image: Any,
        *,
        crf: bool | densecrf.Params = True,
        iterations: int = 10,
        threads: int | None = None,
        scales: Sequence[float] = (1.0,),
        mirror: bool = False,
        tile: int | None = None,
        size: int | None = None,
    ) -> Segmentation:
        """Label every pixel of a photo.

        The network sees photos as large as those that it was trained on: a larger photo is reduced first,
        antialiased, and its probabilities are resized to the photo's size. The CRF runs at the photo's size.

        Args:
            image: Path, Pillow image, or array (H, W, 3) uint8 in R, G, B, of any size.
            crf: True for the parameters that belong to the weights, False for the network alone, or
                parameters.
            iterations: Number of mean-field steps of the CRF.
            threads: Threads of the CRF; by default as many as there are cores for this process.
            scales: Factors on height and width at which the network sees the photo, after ``size``; the mean
                of the probabilities is taken.
            mirror: Whether the network also sees mirrored copies.
            tile: Pixels that a window labels; by default windows are used only if the photo does not fit into
                memory.
            size: Length in pixels to which the longer side of larger photos is reduced for the network, at
                least 32; 0 for full size; by default the card's. Smaller photos are not enlarged.

        Returns:
            Labels, probabilities and pictures of them.

        Raises:
            PhotoError: If a file cannot be used.
            ValueError: For another type, shape or dtype, scales outside 0.05 to 20, or a size from 1 to 31.
            MemoryError: If the photo needs more memory than is free.
        """
        started = time.perf_counter()
        photos = [photo_from_any(image)]
        decoding = time.perf_counter() - started
        views = self._views(scales, mirror, size)
        return next(self._segment_equal(photos, decoding, _Options(crf, iterations, threads, views, tile)))

    def segment_many(
        self, images: Iterable[Any], *, batch: int = 8, **options: Any
    ) -> Iterator[Segmentation]:
        """Label photos in batches, in their order.

        Neighbouring photos of the same size go through the network together. That makes better use of a GPU;
        on a CPU, one photo at a time is as fast and takes less memory.

        Args:
            images: Photos as ``segment`` takes them, read when they are needed.
            batch: Maximum number of photos that are read and go through the network together.
            options: crf, iterations, threads, scales, mirror, tile and size, as in ``segment``. Photos larger
                than ``size`` go through the network one at a time, because their resized probabilities take
                the memory.

        Yields:
            The labelled photos.

        Raises:
            ValueError: For a batch below 1, and as in ``segment``.
            TypeError: For an unknown option.
        """
        if batch < 1:
            raise ValueError(f"got batch {batch}, wanted at least 1")
        settings = self._options(**options)
        remaining = iter(images)
        while chunk := list(islice(remaining, batch)):
            started = time.perf_counter()
            photos = [photo_from_any(image) for image in chunk]
            decoding = (time.perf_counter() - started) / len(chunk)
            for (height, width, _), group in groupby(photos, key=np.shape):
                equal = list(group)
                is_full_size = settings.views.reduced_size(height, width) == (height, width)
                step = len(equal) if is_full_size else 1
                for first in range(0, len(equal), step):
                    yield from self._segment_equal(equal[first : first + step], decoding, settings)

    def _options(self, **options: Any) -> _Options:
        """The options of ``segment_many``; ``TypeError`` names those that are unknown."""
        views = self._views(
            options.pop("scales", (1.0,)), options.pop("mirror", False), options.pop("size", None)
        )
        settings = _Options(
            crf=options.pop("crf", True),
            iterations=options.pop("iterations", 10),
            threads=options.pop("threads", None),
            views=views,
            tile=options.pop("tile", None),
        )
        if options:
            raise TypeError(
                f"got {', '.join(options)}; wanted crf, iterations, threads, scales, mirror, tile, size"
            )
        return settings

    def _views(self, scales: Sequence[float], mirror: bool, size: int | None) -> TestTimeAugmentation:
        return TestTimeAugmentation(tuple(scales), mirror, self.card.size if size is None else size)

    def _segment_equal(
        self, photos: list[np.ndarray], decoding: float, options: _Options
    ) -> Iterator[Segmentation]:
        """Label photos of one size together; ``decoding`` is the time in seconds that reading each took."""
        if options.crf is not False:
            _require_memory(photos[0])
        started = time.perf_counter()
        batch = self.predictor.probabilities(photos, views=options.views, tile=options.tile)
        seconds = {"decode": decoding, "network": (time.perf_counter() - started) / len(photos)}
        for photo, probabilities in zip(photos, batch, strict=True):
            result = Segmentation(photo, probabilities, self.class_names, dict(seconds))
            if options.crf is not False:
                params = None if options.crf is True else options.crf
                result = self.refine(
                    result, params=params, iterations=options.iterations, threads=options.threads
                )
            yield result

    def refine(
        self,
        result: Segmentation,
        *,
        params: densecrf.Params | None = None,
        iterations: int = 10,
        threads: int | None = None,
    ) -> Segmentation:
        """Run the CRF on a segmentation that was made without it. The CRF sees the photo in 0–255 levels.

        Args:
            result: Segmentation with the network's probabilities.
            params: Parameters; by default those that belong to the weights.
            iterations: Number of mean-field steps.
            threads: Threads; by default as many as there are cores for this process.

        Returns:
            The segmentation with the CRF's marginals.

        Raises:
            MemoryError: If the photo needs more memory than is free.
        """
        _require_memory(result.photo)
        started = time.perf_counter()
        marginals = densecrf.refine(
            result.photo,
            result.probabilities,
            params=params or self.crf_params,
            iterations=iterations,
            threads=threads,
        )
        seconds = result.seconds | {"CRF": time.perf_counter() - started}
        return replace(result, probabilities=marginals, seconds=seconds)

    def replace_classes(self, class_names: Sequence[str]) -> tuple[Model, ClassReplacement]:
        """Make a model for other classes, to be trained further.

        Args:
            class_names: New classes in the order of their ids, background first if there is one.

        Returns:
            The model and a report. Classifiers of classes with the same names are copied; the others are
            random.

        Raises:
            ValueError: For fewer than two names, a name that is listed twice, or an exported network.
        """
        network, card, report = replace_classes(self.network, self.card, class_names)
        return Model(network, card, device=str(self.predictor.device)), report

    def save(self, path: str | Path) -> None:
        """Write weights (fp16) and card, each completely or not at all.

        Args:
            path: File to write, ending in .safetensors. The card is written beside it, ending in .json.
        """
        save_weights(path, self.network, self.card)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Publish weights and card on the Hugging Face hub, for ``load(weights="hf-hub:OWNER/NAME")``.

        Args:
            repository: "owner/name" of the repository, which is created if it does not exist.
            options: Options of huggingface_hub's ``ModelHubMixin.push_to_hub``: ``private``, ``token``,
                ``commit_message`` …

        Returns:
            The address of the commit.

        Raises:
            ModuleNotFoundError: If huggingface_hub is not installed.
        """
        return str(hub_model(self.network, self.card).push_to_hub(repository, **options))


def _require_memory(photo: np.ndarray) -> None:
    """Raise ``MemoryError`` before the CRF starts, where the system would kill the process during it."""
    height, width = photo.shape[:2]
    memory.require(height * width * CRF_BYTES_PER_PIXEL, f"the CRF of a photo of {width}×{height}")
