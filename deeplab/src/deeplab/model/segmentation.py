"""The cascade: a photo of any size goes through the network and the CRF and comes out as labels."""

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
from deeplab.weights.exported import Exported
from deeplab.weights.hub import published
from deeplab.weights.replace_classes import ClassReplacement, replace_classes
from deeplab.weights.store import Card, save_weights
from densecrf import memory

CRF_BYTES_A_PIXEL = (
    1200  # 920 measured at 2 megapixels, 21 classes; more where noise makes the lattice larger
)


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
        """(H, W) uint8 class ids; of equally probable ones the first."""
        best = self.probabilities.max(axis=0)
        ids = np.zeros(best.shape, np.uint8)
        for number in range(
            len(self.probabilities) - 1, -1, -1
        ):  # a third of the time of argmax, plane by plane
            np.copyto(ids, np.uint8(number), where=self.probabilities[number] == best)
        return ids

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
    """A trained network with everything needed to label photos.

    Args:
        network: as trained, in fp32; it stays as it is and can be saved or trained further. Or one that was
            exported, which only labels photos, on the device and in the precision that it was opened with.
        card: that belongs to it.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" …
        precision: "auto" (bfloat16 where the processor has it in hardware), "fp32" or "bf16".
        compile: run the network through ``torch.compile``; worth it for thousands of photos of few sizes.

    Raises:
        ValueError: for a device or precision that cannot be had, or CRF parameters on the card that do not
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
        self._network, self.card = network if isinstance(network, Exported) else network.eval(), card
        self.predictor = Predictor(
            network, card.preparation, device=device, precision=precision, compile=compile
        )
        try:
            self.crf_params = densecrf.Params(**card.crf)
        except TypeError as error:
            raise ValueError(f"the card's CRF parameters {card.crf} cannot be used: {error}") from None

    @property
    def network(self) -> DeepLab:
        """The network as trained, in fp32; ValueError for one that was exported."""
        if isinstance(self._network, Exported):
            raise ValueError(
                f"{self._network.path}: an exported network, which can only label photos; for all else give the "
                "weights it was made from"
            )
        return self._network

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes, id order."""
        return self.card.class_names

    @property
    def digest(self) -> str:
        """Sixteen digits that tell these weights and their preparation from all others."""
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

        The network sees a photo as large as those it was trained on: a larger one is reduced first,
        antialiased, and the probabilities are enlarged to the photo's size. The CRF runs at the photo's size.

        Args:
            image: a path, a Pillow image, or an array (H, W, 3) uint8 in R, G, B; any size.
            crf: True for the parameters that belong to the weights, False for the network alone, or
                parameters.
            iterations: mean-field steps.
            threads: for the CRF; by default as many as this process may run on.
            scales: factors on height and width at which the network looks, after ``size``; probabilities are
                averaged.
            mirror: whether it also looks at mirrored copies.
            tile: pixels that a window answers for; by default windows are used only where memory asks for
                them.
            size: pixels of the longer side at which the network looks at larger photos, at least 32; 0 for
                full size; by default the card's. Smaller photos are not enlarged.

        Returns:
            Labels, probabilities and pictures of them.

        Raises:
            PhotoError: if a file cannot be used.
            ValueError: for another type, shape or dtype, scales outside 0.05 to 20, or a size below 32 other
                than 0.
            MemoryError: if the photo needs more memory than there is.
        """
        decoding = time.perf_counter()
        photos = [photo_from_any(image)]
        decode, views = time.perf_counter() - decoding, self._views(scales, mirror, size)
        return next(self._same_size(photos, decode, crf, iterations, threads, views, tile))

    def segment_many(
        self, images: Iterable[Any], *, batch: int = 8, **options: Any
    ) -> Iterator[Segmentation]:
        """Label photos in batches, in their order; neighbours in it are looked at together if their sizes are
        equal.

        A GPU is used better so; on a CPU one photo at a time is as fast and takes less memory.

        Args:
            images: as ``segment`` takes them; read as they are needed.
            batch: photos looked at together, at most.
            options: crf, iterations, threads, scales, mirror, tile, size: as in ``segment``. Photos larger
                than ``size`` are looked at one at a time, as their enlarged probabilities take the memory.
        """
        if batch < 1:
            raise ValueError(f"got batch {batch}, wanted at least 1")
        crf, tile = options.pop("crf", True), options.pop("tile", None)
        steps = options.pop("iterations", 10), options.pop("threads", None)
        scales, mirror = options.pop("scales", (1.0,)), options.pop("mirror", False)
        views = self._views(scales, mirror, options.pop("size", None))
        if options:
            raise TypeError(
                f"got {', '.join(options)}; wanted crf, iterations, threads, scales, mirror, tile, size"
            )
        remaining = iter(images)
        while chunk := list(islice(remaining, batch)):
            started = time.perf_counter()
            photos = [photo_from_any(image) for image in chunk]
            decode = (time.perf_counter() - started) / len(chunk)
            for (height, width, _), group in groupby(photos, key=np.shape):
                together = list(group)
                most = len(together) if views.reduced(height, width) == (height, width) else 1
                for first in range(0, len(together), most):
                    yield from self._same_size(
                        together[first : first + most], decode, crf, *steps, views, tile
                    )

    def _views(self, scales: Sequence[float], mirror: bool, size: int | None) -> TestTimeAugmentation:
        return TestTimeAugmentation(tuple(scales), mirror, self.card.size if size is None else size)

    def _same_size(
        self,
        photos: list[np.ndarray],
        decode: float,
        crf: bool | densecrf.Params,
        iterations: int,
        threads: int | None,
        views: TestTimeAugmentation,
        tile: int | None,
    ) -> Iterator[Segmentation]:
        if crf is not False:
            _require_memory(photos[0])
        started = time.perf_counter()
        probabilities = self.predictor.probabilities(photos, views=views, tile=tile)
        seconds = {"decode": decode, "network": (time.perf_counter() - started) / len(photos)}
        for photo, mine in zip(photos, probabilities, strict=True):
            result = Segmentation(photo, mine, self.class_names, dict(seconds))
            if crf is not False:
                params = None if crf is True else crf
                result = self.refine(result, params=params, iterations=iterations, threads=threads)
            yield result

    def refine(
        self,
        result: Segmentation,
        *,
        params: densecrf.Params | None = None,
        iterations: int = 10,
        threads: int | None = None,
    ) -> Segmentation:
        """The CRF alone, on a segmentation made without it; the CRF sees the raw photo. Arguments as in
        ``segment``."""
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
        """A model for other classes, to be trained further: see ``replace_classes.replace_classes``."""
        network, card, report = replace_classes(self.network, self.card, class_names)
        return Model(network, card, device=str(self.predictor.device)), report

    def save(self, path: str | Path) -> None:
        """Write weights (.safetensors, fp16) and card (.json), each whole or not at all."""
        save_weights(path, self.network, self.card)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Publish weights and card on the Hugging Face hub, for ``load(weights="hf-hub:OWNER/NAME")``.

        Args:
            repository: "owner/name"; made if it is not there.
            options: of huggingface_hub's ``ModelHubMixin.push_to_hub``: ``private``, ``token``,
                ``commit_message`` …

        Returns:
            The address of the commit.
        """
        return str(published(self.network, self.card).push_to_hub(repository, **options))


def _require_memory(photo: np.ndarray) -> None:
    """Refuse at once what the system would kill the process for later."""
    height, width = photo.shape[:2]
    memory.require(height * width * CRF_BYTES_A_PIXEL, f"the CRF of a photo of {width}×{height}")
