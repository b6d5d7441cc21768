"""A large picture in blocks: how it is cut, the network and the CRF on each piece, and the pieces put
together."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

import densecrf
from deeplab.classes import IGNORE
from deeplab.files import write_whole
from deeplab.large_images.scores import ScoreGrid, part_of
from deeplab.large_images.tiff import LargeTiff
from deeplab.model.predictor import NETWORK_BYTES_PER_PIXEL
from deeplab.model.segmentation import CRF_BYTES_PER_PIXEL, Model
from deeplab.network.tiling import Span, spans
from densecrf import memory

BASE = 600_000_000
"""Bytes for the interpreter, torch, the weights, and windows of the picture."""
MARGIN_IN_STDS = 2.0
"""Of the CRF's appearance kernel, that a block sees beyond its core; measured by benchmarks/mosaic.py."""
TILE = 256
"""Pixels of a block's least size, and of the result's tiles where blocks allow it."""


@dataclass(frozen=True)
class Layout:
    """How a large picture is cut. Labels do not depend on it, but for what the CRF sees beyond a block.

    Raises:
        ValueError: for numbers that cannot be.
    """

    window: int
    """Pixels that the network's windows answer for in each direction; a multiple of 8."""
    block: int
    """Pixels that the CRF answers for; a multiple of 16, better of 256."""
    margin: int
    """Pixels that it sees more on each side; a multiple of 8."""

    def __post_init__(self) -> None:
        for name, step, least in (("window", 8, 8), ("block", 16, 16), ("margin", 8, 0)):
            value = getattr(self, name)
            if value < least or value % step:
                raise ValueError(f"got {name} = {value}, wanted a multiple of {step} from {least} up")

    @classmethod
    def within(cls, limit: int, model: Model, params: densecrf.Params | None) -> Layout:
        """The largest windows and blocks that fit into so many bytes, with those of the program itself.

        Raises:
            MemoryError: if even the smallest do not.
        """
        base = BASE + model.predictor.cached_bytes
        room = limit - base
        a_pixel = NETWORK_BYTES_PER_PIXEL
        window = int(max(0, room / a_pixel) ** 0.5) - 2 * model.predictor.margin
        margin = 0
        if params is not None:
            margin = (
                -(-int(MARGIN_IN_STDS * max(params.appearance_xy_std, params.smoothness_xy_std)) // 8) * 8
            )
        refined = CRF_BYTES_PER_PIXEL * max(1.0, len(model.class_names) / 21)
        block = int(max(0, room / refined) ** 0.5) - 2 * margin
        if window < 8 or block < TILE:
            least = (
                max((8 + 2 * model.predictor.margin) ** 2 * a_pixel, (TILE + 2 * margin) ** 2 * refined)
                + base
            )
            raise MemoryError(
                f"got {limit / 1e9:.1f} GB for windows that see {model.predictor.margin} pixels more on each side and "
                f"blocks of the CRF that see {margin}, wanted {least / 1e9:.1f} GB or more"
            )
        return cls(window // 8 * 8, block // TILE * TILE, margin)


class Blocks:
    """The work on one picture; what is done lies in a folder, a file a piece, and is not done again.

    Args:
        mosaic: the picture.
        model: network and CRF.
        params: of the CRF; None to leave it out.
        layout: how the picture is cut.
        folder: for the pieces.
        iterations: mean-field steps.
        threads: for the CRF.
    """

    def __init__(
        self,
        mosaic: LargeTiff,
        model: Model,
        params: densecrf.Params | None,
        layout: Layout,
        folder: Path,
        *,
        iterations: int = 10,
        threads: int | None = None,
    ):
        self._mosaic, self._params, self._folder = mosaic, params, folder
        self._iterations, self._threads = iterations, threads
        self._grid = ScoreGrid(mosaic, model.predictor, folder / "scores", layout.window)
        margin = layout.margin if params is not None else 0
        self._rows, self._columns = (spans(length, layout.block, margin) for length in mosaic.size)
        self.tile = next(side for side in (TILE, 128, 64, 32, 16) if layout.block % side == 0)
        self.seconds = {"network": 0.0, "CRF": 0.0} if params is not None else {"network": 0.0}
        self.counts = np.zeros(256, np.int64)

    def work(self) -> None:
        """Make every piece that is not there: the network's windows first, then the blocks of labels.

        Raises:
            PhotoError: if a part of the picture is damaged.
            ValueError: for scores that are not finite.
        """
        windows, blocks = self.windows(), self.blocks()
        with tqdm(
            total=len(windows) + len(blocks),
            desc=self._mosaic.path.name,
            unit="block",
            leave=False,
            disable=None,
        ) as bar:
            for place in windows:
                self.look(place)
                bar.update()
            for place in blocks:
                self.refine(place)
                bar.update()

    def windows(self) -> list[tuple[int, int]]:
        """Row and column of every window that the network looks at."""
        return list(self._grid.places())

    def blocks(self) -> list[tuple[int, int]]:
        """Row and column of every block of labels."""
        return [(y, x) for y in range(len(self._rows)) for x in range(len(self._columns))]

    def look(self, window: tuple[int, int]) -> None:
        """Make the scores of a window, if they are not there."""
        if part_of(self._grid.file(window)) is None:
            started = time.perf_counter()
            self._grid.make(window)
            memory.give_back()
            self.seconds["network"] += time.perf_counter() - started

    def refine(self, block: tuple[int, int]) -> None:
        """Make the labels of a block, if they are not there, of windows that have been looked at."""
        if part_of(self._file(block)) is None:
            buffer = io.BytesIO()
            np.save(buffer, self._labels(self._rows[block[0]], self._columns[block[1]]))
            write_whole(self._file(block), buffer.getvalue())

    def tiles(self, factor: int, small: np.ndarray) -> Iterator[np.ndarray]:
        """The labels in tiles, row by row, those at the right and bottom edge filled up with void.

        On the way ``counts`` becomes the number of pixels of each id, and ``small`` every ``factor``-th
        label.

        Args:
            factor: of reduction.
            small: (⌈H / factor⌉, ⌈W / factor⌉) uint8, to be filled.
        """
        self.counts[:] = 0
        height, width = self._mosaic.size
        middle = [
            np.minimum(factor * np.arange(-(-n // factor)) + factor // 2, n - 1) for n in (height, width)
        ]
        for y, rows in enumerate(self._rows):
            tall = -(-(rows.last - rows.first) // self.tile) * self.tile
            band = np.full((tall, -(-width // self.tile) * self.tile), IGNORE, np.uint8)
            for x, columns in enumerate(self._columns):
                found = np.load(self._file((y, x)), allow_pickle=False)
                pixels = (rows.last - rows.first) * (columns.last - columns.first)
                self.counts[IGNORE] += pixels - found.size
                self.counts += np.bincount(found.ravel(), minlength=256)
                if found.size:
                    band[: rows.last - rows.first, columns.first : columns.last] = found
            inside = (middle[0] >= rows.first) & (middle[0] < rows.last)
            small[inside] = band[middle[0][inside] - rows.first][:, middle[1]]
            for top in range(0, band.shape[0], self.tile):
                for left in range(0, band.shape[1], self.tile):
                    yield band[top : top + self.tile, left : left + self.tile]

    def reduced(self, factor: int) -> np.ndarray:
        """The picture made smaller by a whole number: (⌈H / factor⌉, ⌈W / factor⌉, 3) uint8, means of
        squares."""
        height, width = self._mosaic.size
        out = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
        step = max(1, 1024 // factor)
        for y in range(0, out.shape[0], step):
            for x in range(0, out.shape[1], step):
                rows = slice(y * factor, min((y + step) * factor, height))
                columns = slice(x * factor, min((x + step) * factor, width))
                photo, _ = self._mosaic.window(rows, columns)
                out[y : y + step, x : x + step] = np.asarray(Image.fromarray(photo).reduce(factor))
        return out

    def _file(self, place: tuple[int, int]) -> Path:
        return self._folder / "labels" / f"{place[0]}-{place[1]}.npy"

    def _labels(self, rows: Span, columns: Span) -> np.ndarray:
        """(h, w) uint8 ids of a block's core, void where there is no picture; nothing if there is none at
        all."""
        seen = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        core = (
            slice(rows.first - rows.start, rows.last - rows.start),
            slice(columns.first - columns.start, columns.last - columns.start),
        )
        photo, empty = self._mosaic.window(*seen)
        if empty[core].all():
            return np.zeros((0, 0), np.uint8)
        started = time.perf_counter()
        probabilities = self._grid.probabilities(*seen)
        between = time.perf_counter()
        self.seconds["network"] += between - started
        if self._params is not None:
            if empty.any():  # what is no picture says nothing about its neighbours
                probabilities[:, empty] = 1 / len(probabilities)
            probabilities = densecrf.refine(
                photo,
                probabilities,
                params=self._params,
                iterations=self._iterations,
                threads=self._threads,
                origin=(rows.start, columns.start),
            )
            self.seconds["CRF"] += time.perf_counter() - between
        labels = probabilities[:, core[0], core[1]].argmax(axis=0).astype(np.uint8)
        labels[empty[core]] = IGNORE
        return labels
