"""All photos and label maps of a training run, decoded into one device's memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from deeplab.classes import IGNORE
from deeplab.datasets.label_scan import too_many_bad
from deeplab.datasets.opening import Sample

UNUSABLE = (0, 0)
"""Size of a photo that cannot be used."""


class PhotoStore:
    """Photos and label maps of all sources, in one tensor each.

    Args:
        sources: one or two sequences of samples.
        side: largest height and width in pixels; larger photos are resized to it.
        device: device that keeps the tensors; each photo takes ``4 · side²`` bytes.
        workers: number of threads that decode.
        on_problem: called with one line for each photo that cannot be used; another takes its place.

    Raises:
        ValueError: if a source is empty, or too many of the photos cannot be used.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Sample]],
        *,
        side: int,
        device: torch.device,
        workers: int,
        on_problem: Callable[[str], None],
    ):
        if not all(len(source) for source in sources):
            raise ValueError("got a split without photos, wanted at least one")
        unique: dict[tuple[int, str], Sample] = {}  # a list may name a photo more than once
        for number, source in enumerate(sources):
            for sample in source:
                unique.setdefault((number, sample.name), sample)
        count = len(unique)
        row_of = {key: row for row, key in enumerate(unique)}
        self.photos = torch.zeros((count, 3, side, side), dtype=torch.uint8, device=device)
        """(photos, 3, side, side) uint8, each photo at the top left."""
        self.labels = torch.full((count, side, side), IGNORE, dtype=torch.uint8, device=device)
        """(photos, side, side) uint8 ids."""
        self.sizes: list[tuple[int, int]] = [UNUSABLE] * count
        """Height and width of each photo in the store; ``UNUSABLE`` if it cannot be used."""
        self.original_sizes: list[tuple[int, int]] = [UNUSABLE] * count
        """Height and width of each photo's file."""
        self.names = [name for _, name in unique]
        """Name of each photo."""
        self.rows = [
            [row_of[number, sample.name] for sample in source] for number, source in enumerate(sources)
        ]
        """For each source, the row of each sample in the tensors."""
        self._decode(list(unique.values()), side, workers, on_problem)
        for rows in self.rows:
            if not any(self._is_usable(row) for row in rows):
                raise ValueError(
                    "not one photo of the split can be used; deeplab check-data names each problem"
                )

    def usable_row(self, source: int, index: int) -> int:
        """Row in the tensors of a sample, or of the next sample of its source that can be used.

        Args:
            source: number of the source.
            index: index of the sample in it.

        Returns:
            The row.
        """
        rows = self.rows[source]
        for offset in range(len(rows)):
            row = rows[(index + offset) % len(rows)]
            if self._is_usable(row):
                return row
        raise AssertionError("a source without one usable photo is refused at the start")

    def _is_usable(self, row: int) -> bool:
        return self.sizes[row] != UNUSABLE

    def _decode(
        self, samples: Sequence[Sample], side: int, workers: int, on_problem: Callable[[str], None]
    ) -> None:
        """Fill the tensors with these samples."""
        bad = 0
        with ThreadPoolExecutor(workers, thread_name_prefix="photos") as pool:
            results = pool.map(lambda sample: _decoded(sample, side), samples)
            bar = tqdm(results, total=len(samples), desc="decode", unit="photo", disable=None)
            for row, result in enumerate(bar):
                if isinstance(result, str):
                    bad += 1
                    on_problem(f"{self.names[row]}: {result}; another photo takes its place")
                    if too_many_bad(bad, len(samples)):
                        raise ValueError(
                            f"{self.names[row]}: {result}; {bad} photos cannot be used by now, so the run "
                            "stops: deeplab check-data names each problem"
                        )
                    continue
                height, width = result.labels.shape
                photo = torch.from_numpy(result.photo.copy()).permute(2, 0, 1)
                self.photos[row, :, :height, :width] = photo
                self.labels[row, :height, :width] = torch.from_numpy(result.labels.copy())
                self.sizes[row] = (height, width)
                self.original_sizes[row] = result.original_size


@dataclass(frozen=True)
class _Decoded:
    """A photo and its labels, small enough for the store."""

    photo: np.ndarray
    labels: np.ndarray
    original_size: tuple[int, int]


def _decoded(sample: Sample, side: int) -> _Decoded | str:
    """A sample reduced to ``side``, or the reason why it cannot be used."""
    try:
        photo = sample.read_photo()
        labels = sample.read_labels()
    except (ValueError, OSError) as error:
        return " ".join(str(error).split())
    size = labels.shape[0], labels.shape[1]
    if photo.shape[:2] != size:
        return f"got a photo {photo.shape[:2]} and labels {size}, wanted one size"
    if max(size) > side:
        height, width = (max(1, round(length * side / max(size))) for length in size)
        photo = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))
        labels = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
    return _Decoded(photo, labels, size)
