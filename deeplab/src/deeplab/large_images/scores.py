"""The network over a large picture: scores at stride 8, window by window, each kept in a file once it is
made."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch

from deeplab.files import write_whole
from deeplab.large_images.tiff import LargeTiff
from deeplab.model.predictor import Predictor
from deeplab.network.architecture import OUTPUT_STRIDE
from deeplab.network.tiling import Span, spans
from deeplab.network.upsampling import upsample


def part_of(file: Path) -> np.ndarray | None:
    """An array kept in a file; None if there is no such file or it is not whole, so that it is made again."""
    try:
        found: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except (
        FileNotFoundError,
        ValueError,
        EOFError,
    ):  # empty or cut off, as a crash of the system leaves files
        return None
    return found


class ScoreGrid:
    """Class probabilities of any rectangle of a large picture, as the network would give them on the whole.

    A window that answers for ``core`` pixels sees half a field of view more on each side. Its scores, 4·K/64
    bytes a pixel, are upsampled where they are needed; so each window is looked at once, whatever asks for
    it. Scores of the multi-scale variants have no stride: of these, rectangles are looked at anew, each with
    its margin.

    Args:
        mosaic: the picture.
        predictor: the network.
        folder: for the windows' files.
        core: pixels in each direction; a multiple of 8.
    """

    def __init__(self, mosaic: LargeTiff, predictor: Predictor, folder: Path, core: int):
        self._mosaic, self._predictor, self._folder, self._core = mosaic, predictor, folder, core
        self._start = predictor.network.variant.score_offset
        self._axes = tuple(spans(length, core, predictor.margin) for length in mosaic.size)
        self._shape = tuple(-(-(length - 1 + self._start) // OUTPUT_STRIDE) + 1 for length in mosaic.size)

    def places(self) -> Iterator[tuple[int, int]]:
        """Row and column of every window whose scores are kept."""
        if not self._predictor.network.variant.multi_scale:
            yield from ((y, x) for y in range(len(self._axes[0])) for x in range(len(self._axes[1])))

    def file(self, place: tuple[int, int]) -> Path:
        """Where a window's scores lie once they are made."""
        return self._folder / f"{place[0]}-{place[1]}.npy"

    def make(self, place: tuple[int, int]) -> None:
        """Look at one window and keep its scores; of one in which there is no picture, that there are none.

        Raises:
            PhotoError: if that part of the picture is damaged.
            ValueError: for scores that are not finite.
        """
        rows, columns = (axis[number] for axis, number in zip(self._axes, place, strict=True))
        photo, empty = self._mosaic.window(slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        core = empty[rows.first - rows.start : rows.last - rows.start, columns.first - columns.start :]
        kept = np.zeros((0, 0, 0), np.float32)
        if not core[:, : columns.last - columns.first].all():
            scores, _, _ = self._predictor.scores(photo)
            (top, bottom), (left, right) = (self._kept(axis, number) for axis, number in enumerate(place))
            y, x = rows.start // OUTPUT_STRIDE, columns.start // OUTPUT_STRIDE
            kept = scores[:, top - y : bottom - y, left - x : right - x]
            if not np.isfinite(kept).all():
                raise ValueError("got scores that are NaN or infinite; the weights cannot be used")
        buffer = io.BytesIO()
        np.save(buffer, kept)
        write_whole(self.file(place), buffer.getvalue())

    def probabilities(self, rows: slice, columns: slice) -> np.ndarray:
        """Class probabilities of a rectangle; where there is no picture in a whole window, all classes are
        alike.

        Args:
            rows: start, a multiple of 8, and stop, inside the picture.
            columns: likewise.

        Returns:
            (K, h, w) float32.
        """
        if self._predictor.network.variant.multi_scale:
            return self._looked_at(rows, columns)
        top, left = (axis.start + self._start for axis in (rows, columns))
        first = top // OUTPUT_STRIDE, left // OUTPUT_STRIDE
        last = tuple(-(-(axis.stop - 1 + self._start) // OUTPUT_STRIDE) + 1 for axis in (rows, columns))
        step = self._core // OUTPUT_STRIDE
        scores = np.zeros(
            (self._predictor.network.classes, last[0] - first[0], last[1] - first[1]), np.float32
        )
        numbers = [
            range(*(min(end // step, len(axis) - 1) + more for end, more in ((begin, 0), (stop - 1, 1))))
            for begin, stop, axis in zip(first, last, self._axes, strict=True)
        ]
        for place in product(numbers[0], numbers[1]):
            (a, b), (c, d) = (self._kept(axis, number) for axis, number in enumerate(place))
            a, b, c, d = max(a, first[0]), min(b, last[0]), max(c, first[1]), min(d, last[1])
            part = part_of(self.file(place))
            if part is not None and part.size:
                y, x = place[0] * self._core // OUTPUT_STRIDE, place[1] * self._core // OUTPUT_STRIDE
                scores[:, a - first[0] : b - first[0], c - first[1] : d - first[1]] = part[
                    :, a - y : b - y, c - x : d - x
                ]
        full = upsample(torch.from_numpy(scores)[None])[0]
        y, x = top - OUTPUT_STRIDE * first[0], left - OUTPUT_STRIDE * first[1]
        full = full[:, y : y + rows.stop - rows.start, x : x + columns.stop - columns.start]
        return torch.softmax(full, dim=0).numpy()

    def _kept(self, axis: int, number: int) -> tuple[int, int]:
        """First and last (excluded) rows or columns of scores that a window keeps."""
        step = self._core // OUTPUT_STRIDE
        end = self._shape[axis] if number == len(self._axes[axis]) - 1 else (number + 1) * step
        return number * step, end

    def _looked_at(self, rows: slice, columns: slice) -> np.ndarray:
        seen = [
            self._seen(axis, length) for axis, length in zip((rows, columns), self._mosaic.size, strict=True)
        ]
        photo, _ = self._mosaic.window(*(slice(span.start, span.stop) for span in seen))
        found = self._predictor.probabilities([photo], tile=self._core)[0]
        y, x = (slice(span.first - span.start, span.last - span.start) for span in seen)
        return np.ascontiguousarray(found[:, y, x])

    def _seen(self, axis: slice, length: int) -> Span:
        margin = self._predictor.margin
        return Span(max(0, axis.start - margin), min(length, axis.stop + margin), axis.start, axis.stop)
