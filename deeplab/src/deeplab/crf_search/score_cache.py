"""Class scores for the search: a network's, computed once and kept on disk, or another program's file."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

import densecrf
from deeplab.datasets.opening import Dataset, Sample
from deeplab.datasets.score_file import ScoreFile
from deeplab.files import check_settings, write_whole
from deeplab.model.predictor import NETWORK_BYTES_PER_PIXEL, TestTimeAugmentation
from deeplab.model.segmentation import Model
from deeplab.network.upsampling import upsample_array
from deeplab.paths import path_below
from densecrf import memory

MIN_SCORE = -60000.0
"""Scores below it, which fp16 cannot hold, are raised to it."""


class ScoreSource(Protocol):
    """A source of class probabilities of photos."""

    identity: str
    """Text that is the same if and only if the scores are."""
    defaults: densecrf.Params
    """Parameters of the CRF without a search."""

    def fill(self, samples: Sequence[Sample]) -> None:
        """Make sure that there are scores of these photos."""

    def probabilities(self, sample: Sample, size: tuple[int, int]) -> np.ndarray:
        """Get the probabilities of a photo.

        Args:
            sample: the photo.
            size: (H, W) of the photo.

        Returns:
            (K, H, W) float32. May be called from several threads at a time.
        """


class CachedScores:
    """A network's scores in fp16: at stride 8 of single-scale networks, at every pixel of multi-scale ones.

    The network sees photos as in ``Model.segment`` with its default options: once, whole, and larger ones
    reduced to the size on the card of the weights. Scores are stored minus the highest score of their
    position, so that those that matter in the softmax keep their precision. Photos that the folder has are
    not computed again.

    Args:
        model: the network.
        dataset: the photos.
        split: name of the data set's split.
        folder: folder of the cache: one file for each photo, and scores.json, which says what they are of.

    Raises:
        ValueError: if the folder holds scores of other weights or another split, or the classes are not the
            model's.
    """

    def __init__(self, model: Model, dataset: Dataset, split: str, folder: Path):
        if model.class_names != dataset.class_names:
            ours, theirs = (f"({', '.join(x.class_names[:3])} …)" for x in (model, dataset))
            raise ValueError(
                f"got weights for {len(model.class_names)} classes {ours} and data of "
                f"{len(dataset.class_names)} {theirs}, wanted weights trained on them"
            )
        self._predictor = model.predictor
        self._view = TestTimeAugmentation(size=model.card.size)
        self._folder = folder
        self.defaults = model.crf_params
        precision = str(model.predictor.dtype).removeprefix("torch.")
        size = f" at size {self._view.size}" if self._view.size else ""
        self.identity = f"{model.card.variant}{size}, weights {model.digest}, {precision}"
        names = "\n".join(sample.name for sample in dataset).encode(errors="surrogateescape")
        digest = hashlib.sha256(names).hexdigest()[:16]
        check_settings(folder / "scores.json", {"scores of": self.identity, "split": split, "photos": digest})

    def fill(self, samples: Sequence[Sample]) -> None:
        """Run the network on the photos that the folder lacks.

        Raises:
            PhotoError, MemoryError: for a photo that cannot be used.
            ValueError: for scores that are not finite, or a photo whose name leads out of the folder.
        """
        missing = [sample for sample in samples if not self._file(sample).is_file()]
        for sample in tqdm(missing, desc="class scores", unit="photo", disable=None if missing else True):
            photo = sample.read_photo()
            size = photo.shape[:2]
            height, width = self._view.reduced_size(*size)
            memory.require(
                height * width * NETWORK_BYTES_PER_PIXEL, f"{sample.photo}: the network on {width}×{height}"
            )
            if (height, width) != size:
                image = Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR)
                photo = np.asarray(image)
            scores, stride, start = self._predictor.scores(photo)
            if not np.isfinite(scores).all():
                raise ValueError(
                    f"{sample.photo}: got scores that are NaN or infinite; the weights cannot be used"
                )
            scores = np.maximum(scores - scores.max(axis=0), MIN_SCORE).astype(np.float16)
            buffer = io.BytesIO()
            np.savez(buffer, scores=scores, stride=stride, start=start, size=size)
            write_whole(self._file(sample), buffer.getvalue())

    def probabilities(self, sample: Sample, size: tuple[int, int]) -> np.ndarray:
        """Upsample, cut and normalize the scores of a photo as ``Model.segment`` does.

        Args:
            sample: the photo.
            size: (H, W) of the photo.

        Returns:
            (K, H, W) float32.

        Raises:
            ValueError: if the scores are damaged, or of a photo of another size.
        """
        file = self._file(sample)
        try:
            with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
                scores = archive["scores"].astype(np.float32)
                cached_size = tuple(archive["size"].tolist())
                stride = int(archive["stride"])
                start = int(archive["start"])
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{file}: not scores that can be read ({error}); remove it, and it is made again"
            ) from None
        if cached_size != size:
            raise ValueError(
                f"{file}: got scores of a photo {cached_size}, but {sample.photo} is {size}; remove it, and "
                "it is made again"
            )
        height, width = self._view.reduced_size(*size)
        full = upsample_array(scores, stride)[:, start : start + height, start : start + width]
        return _resized(_softmax(full), size)

    def _file(self, sample: Sample) -> Path:
        return path_below(self._folder / "photos", f"{sample.name}.npz")


class FileScores:
    """Scores in 8 bits from a file, as ``ScoreFile`` reads them.

    Args:
        path: the file.
        dataset: data set of the photos.

    Raises:
        FileNotFoundError, ValueError: see ``ScoreFile``.
    """

    def __init__(self, path: Path, dataset: Dataset):
        self._scores = ScoreFile(path, len(dataset.class_names))
        self.defaults = densecrf.Params()
        self.identity = f"{path.name}, {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"

    def fill(self, samples: Sequence[Sample]) -> None:
        """Check that the file has scores of these photos; ValueError if not."""
        self._scores.require([sample.name for sample in samples])

    def probabilities(self, sample: Sample, size: tuple[int, int]) -> np.ndarray:
        """Upsample the scores of a photo with aligned corners, cut, resize and normalize them.

        Args:
            sample: the photo.
            size: (H, W) of the photo.

        Returns:
            (K, H, W) float32.

        Raises:
            ValueError: if the photo has another size than the file says.
        """
        scores, (canvas_height, canvas_width) = self._scores.of(sample.name, size)
        full = upsample_array(scores, self._scores.stride)[:, :canvas_height, :canvas_width]
        return _softmax(_resized(full, size))


def _resized(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize planes (K, h, w) float32 to (K, H, W); Pillow antialiases when it reduces."""
    if planes.shape[1:] == size:
        return planes
    images = [Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR) for plane in planes]
    return np.stack([np.asarray(image) for image in images])


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = scores - scores.max(axis=0)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=0)
    return powers
