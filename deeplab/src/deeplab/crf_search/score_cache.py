"""Class scores for the CRF's search: a network's, computed once and kept on disk, or those of a file from
elsewhere."""

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
from deeplab.model.predictor import NETWORK_BYTES_PER_PIXEL
from deeplab.model.segmentation import Model
from deeplab.network.upsampling import upsample_array
from deeplab.paths import path_below
from densecrf import memory

LEAST_SCORE = -60000.0  # of fp16


class ScoreSource(Protocol):
    """Where photos' class probabilities come from."""

    identity: str
    """What the scores are of: the same text means the same scores."""
    defaults: densecrf.Params
    """The CRF's parameters where nobody searches."""

    def fill(self, pairs: Sequence[Sample]) -> None:
        """Make sure that there are scores of these photos."""

    def probabilities(self, pair: Sample, size: tuple[int, int]) -> np.ndarray:
        """(K, H, W) float32 of one photo of a size (H, W); may be called from several threads at a time."""


class CachedScores:
    """A network's scores: as fp16 at stride 8 of single-scale networks, at every pixel of multi-scale ones.

    They are less each position's highest score, so that what matters in the softmax keeps its bits. A photo
    that is in the folder is not run again; photos are looked at once, whole, at their own scale.

    Args:
        model: whose scores they are.
        dataset: its photos.
        split: the data set's name.
        folder: where they lie: a file a photo, and scores.json, which says what they are of.

    Raises:
        ValueError: if the folder holds scores of other weights or another split, or the classes are not the
            model's.
    """

    def __init__(self, model: Model, dataset: Dataset, split: str, folder: Path):
        if model.class_names != dataset.class_names:
            raise ValueError(
                f"got weights for {len(model.class_names)} classes ({', '.join(model.class_names[:3])} …) and data of "
                f"{len(dataset.class_names)} ({', '.join(dataset.class_names[:3])} …), wanted weights trained on them"
            )
        self._predictor, self._folder = model.predictor, folder
        self.defaults = model.crf_params
        precision = str(model.predictor.dtype).removeprefix("torch.")
        self.identity = f"{model.card.variant}, weights {model.digest}, {precision}"
        names = hashlib.sha256(
            "\n".join(pair.name for pair in dataset).encode(errors="surrogateescape")
        ).hexdigest()[:16]
        check_settings(folder / "scores.json", {"scores of": self.identity, "split": split, "photos": names})

    def fill(self, pairs: Sequence[Sample]) -> None:
        """Run the network on those photos that the folder lacks.

        Raises:
            PhotoError, MemoryError: for a photo that cannot be used.
            ValueError: for scores that are not finite, or a photo whose name leads out of the folder.
        """
        missing = [pair for pair in pairs if not self._file(pair).is_file()]
        for pair in tqdm(missing, desc="class scores", unit="photo", disable=None if missing else True):
            photo = pair.read_photo()
            height, width = photo.shape[:2]
            memory.require(
                height * width * NETWORK_BYTES_PER_PIXEL, f"{pair.photo}: the network on {width}×{height}"
            )
            scores, stride, start = self._predictor.scores(photo)
            if not np.isfinite(scores).all():
                raise ValueError(
                    f"{pair.photo}: got scores that are NaN or infinite; the weights cannot be used"
                )
            scores = np.maximum(scores - scores.max(axis=0), LEAST_SCORE).astype(np.float16)
            buffer = io.BytesIO()
            np.savez(buffer, scores=scores, stride=stride, start=start, size=(height, width))
            write_whole(self._file(pair), buffer.getvalue())

    def probabilities(self, pair: Sample, size: tuple[int, int]) -> np.ndarray:
        """Upsampled, cut and normalised as ``Model`` does: (K, H, W) float32.

        Raises:
            ValueError: if the photo's scores are damaged, or of another size than the photo is.
        """
        file = self._file(pair)
        try:
            with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
                scores, found = archive["scores"].astype(np.float32), tuple(archive["size"].tolist())
                stride, start = int(archive["stride"]), int(archive["start"])
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{file}: not scores that can be read ({error}); remove it, and it is made again"
            ) from None
        if found != size:
            raise ValueError(
                f"{file}: got scores of a photo {found}, but {pair.photo} is {size}; remove it, and it is made again"
            )
        return _softmax(upsample_array(scores, stride)[:, start : start + size[0], start : start + size[1]])

    def _file(self, pair: Sample) -> Path:
        return path_below(self._folder / "photos", f"{pair.name}.npz")


class FileScores:
    """Scores in 8 bits from a file, as ``ScoreFile`` reads them.

    Args:
        path: the file.
        dataset: that the photos are of.

    Raises:
        FileNotFoundError, ValueError: as of ``ScoreFile``.
    """

    def __init__(self, path: Path, dataset: Dataset):
        self._scores = ScoreFile(path, len(dataset.class_names))
        self.defaults = densecrf.Params()
        self.identity = f"{path.name}, {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"

    def fill(self, pairs: Sequence[Sample]) -> None:
        """ValueError if the file lacks one of these photos."""
        self._scores.require([pair.name for pair in pairs])

    def probabilities(self, pair: Sample, size: tuple[int, int]) -> np.ndarray:
        """Upsampled with corners aligned, cut, resized to the photo and normalised: (K, H, W) float32.

        Raises:
            ValueError: if the photo has another size than the file says.
        """
        scores, (canvas_height, canvas_width) = self._scores.of(pair.name, size)
        full = upsample_array(scores, self._scores.stride)[:, :canvas_height, :canvas_width]
        # The canvas may be larger than the photo, so planes are antialiased, as Pillow does it.
        planes = [Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR) for plane in full]
        return _softmax(np.stack([np.asarray(plane) for plane in planes]))


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = scores - scores.max(axis=0)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=0)
    return powers
