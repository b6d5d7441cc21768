"""Labels of a large image, block by block: the network on windows, the CRF on overlapping blocks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

import densecrf
from deeplab.classes import IGNORE
from deeplab.large_images.layout import TILE, Layout
from deeplab.large_images.scores import ScoreGrid, load_array, save_array
from deeplab.large_images.tiff import LargeTiff
from deeplab.model.segmentation import Model
from deeplab.network.tiling import Span, spans
from densecrf import memory

THUMBNAIL_STEP = 1024
"""Height and width in pixels of the windows in which an image is reduced."""


class BlockSegmenter:
    """Segments one image in blocks. Each finished piece is a file in a folder and is not computed again.

    Args:
        image: the image.
        model: network and CRF.
        params: parameters of the CRF; None to leave it out.
        layout: sizes of windows and blocks.
        folder: folder for the pieces.
        iterations: number of mean-field steps.
        threads: number of threads of the CRF; None for all processors.
    """

    def __init__(
        self,
        image: LargeTiff,
        model: Model,
        params: densecrf.Params | None,
        layout: Layout,
        folder: Path,
        *,
        iterations: int = 10,
        threads: int | None = None,
    ):
        self._image = image
        self._params = params
        self._folder = folder
        self._iterations = iterations
        self._threads = threads
        self._grid = ScoreGrid(image, model.predictor, folder / "scores", layout.window)
        margin = layout.margin if params is not None else 0
        height, width = image.size
        self._rows = spans(height, layout.block, margin)
        self._columns = spans(width, layout.block, margin)
        self.tile = next(side for side in (TILE, 128, 64, 32, 16) if layout.block % side == 0)
        """Side in pixels of the tiles of ``label_tiles``."""
        self.seconds = {"network": 0.0, "CRF": 0.0} if params is not None else {"network": 0.0}
        """Seconds that each step took so far."""
        self.counts = np.zeros(256, np.int64)
        """Number of pixels of each class id; filled by ``label_tiles``."""

    def run(self) -> None:
        """Compute every missing piece: first the scores of all windows, then the labels of all blocks.

        Raises:
            PhotoError: if a part of the image is damaged.
            ValueError: if scores are not finite.
        """
        windows, blocks = self.windows(), self.blocks()
        name, total = self._image.path.name, len(windows) + len(blocks)
        with tqdm(total=total, desc=name, unit="block", leave=False, disable=None) as bar:
            for window in windows:
                self.compute_scores(window)
                bar.update()
            for block in blocks:
                self.compute_labels(block)
                bar.update()

    def windows(self) -> list[tuple[int, int]]:
        """Row and column of every window of the network."""
        return list(self._grid.windows())

    def blocks(self) -> list[tuple[int, int]]:
        """Row and column of every block of labels."""
        return [(y, x) for y in range(len(self._rows)) for x in range(len(self._columns))]

    def compute_scores(self, window: tuple[int, int]) -> None:
        """Compute and save the scores of a window, unless they are there."""
        if load_array(self._grid.path(window)) is None:
            started = time.perf_counter()
            self._grid.compute(window)
            memory.give_back()
            self.seconds["network"] += time.perf_counter() - started

    def compute_labels(self, block: tuple[int, int]) -> None:
        """Compute and save the labels of a block, unless they are there; its windows must have scores."""
        if load_array(self._label_path(block)) is None:
            labels = self._labels(self._rows[block[0]], self._columns[block[1]])
            save_array(self._label_path(block), labels)

    def label_tiles(self, factor: int, small: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the labels in square tiles, row by row, and fill ``counts`` and ``small`` on the way.

        Tiles at the right and bottom edge are filled up with void.

        Args:
            factor: only every ``factor``-th row and column of labels goes into ``small``.
            small: (⌈H / factor⌉, ⌈W / factor⌉) uint8, is overwritten.
        """
        self.counts[:] = 0
        middle_rows, middle_columns = (
            np.minimum(factor * np.arange(-(-length // factor)) + factor // 2, length - 1)
            for length in self._image.size
        )
        for y, rows in enumerate(self._rows):
            band = self._label_band(y)
            inside = (middle_rows >= rows.first) & (middle_rows < rows.last)
            small[inside] = band[middle_rows[inside] - rows.first][:, middle_columns]
            for top in range(0, band.shape[0], self.tile):
                for left in range(0, band.shape[1], self.tile):
                    yield band[top : top + self.tile, left : left + self.tile]

    def thumbnail(self, factor: int) -> np.ndarray:
        """The image reduced by an integer factor: (⌈H / factor⌉, ⌈W / factor⌉, 3) uint8, means of squares."""
        height, width = self._image.size
        out = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
        step = max(1, THUMBNAIL_STEP // factor)
        for y in range(0, out.shape[0], step):
            for x in range(0, out.shape[1], step):
                rows = slice(y * factor, min((y + step) * factor, height))
                columns = slice(x * factor, min((x + step) * factor, width))
                photo, _ = self._image.window(rows, columns)
                out[y : y + step, x : x + step] = np.asarray(Image.fromarray(photo).reduce(factor))
        return out

    def _label_path(self, block: tuple[int, int]) -> Path:
        return self._folder / "labels" / f"{block[0]}-{block[1]}.npy"

    def _label_band(self, y: int) -> np.ndarray:
        """Labels of one row of blocks, filled with void to whole tiles; their pixels are counted."""
        rows = self._rows[y]
        height = rows.last - rows.first
        width = self._image.size[1]
        tiled = -(-height // self.tile) * self.tile, -(-width // self.tile) * self.tile
        band = np.full(tiled, IGNORE, np.uint8)
        for x, columns in enumerate(self._columns):
            labels = np.load(self._label_path((y, x)), allow_pickle=False)
            self.counts[IGNORE] += height * (columns.last - columns.first) - labels.size
            self.counts += np.bincount(labels.ravel(), minlength=256)
            if labels.size:
                band[:height, columns.first : columns.last] = labels
        return band

    def _labels(self, rows: Span, columns: Span) -> np.ndarray:
        """(h, w) uint8 ids of a block without margin, void where there is no data; (0, 0) if all is void."""
        seen = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        core = (
            slice(rows.first - rows.start, rows.last - rows.start),
            slice(columns.first - columns.start, columns.last - columns.start),
        )
        photo, empty = self._image.window(*seen)
        if empty[core].all():
            return np.zeros((0, 0), np.uint8)
        started = time.perf_counter()
        probabilities = self._grid.probabilities(*seen)
        self.seconds["network"] += time.perf_counter() - started
        if self._params is not None:
            probabilities = self._refine(photo, probabilities, empty, (rows.start, columns.start))
        labels = probabilities[:, core[0], core[1]].argmax(axis=0).astype(np.uint8)
        labels[empty[core]] = IGNORE
        return labels

    def _refine(
        self, photo: np.ndarray, probabilities: np.ndarray, empty: np.ndarray, origin: tuple[int, int]
    ) -> np.ndarray:
        """Marginals of a block at ``origin``; pixels without data do not influence their neighbours."""
        started = time.perf_counter()
        if empty.any():
            probabilities[:, empty] = 1 / len(probabilities)
        marginals = densecrf.refine(
            photo,
            probabilities,
            params=self._params,
            iterations=self._iterations,
            threads=self._threads,
            origin=origin,
        )
        self.seconds["CRF"] += time.perf_counter() - started
        return marginals
