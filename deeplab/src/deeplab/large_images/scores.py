"""Network scores of a large image at stride 8: each window is saved to a file once it is computed."""

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


def load_array(path: Path) -> np.ndarray | None:
    """Load a saved array; None if there is no such file or it is incomplete, as after a system crash."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return array


def save_array(path: Path, array: np.ndarray) -> None:
    """Save an array, whole or not at all.

    Args:
        path: the .npy file.
        array: of any shape and dtype but objects.
    """
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_whole(path, buffer.getvalue())


class ScoreGrid:
    """Class probabilities of any rectangle of a large image, as if the network saw the whole image.

    Each window sees half a field of view more on each side than it answers for. Its scores take 4·K/64 bytes
    a pixel and are upsampled where they are needed, so the network runs once on each window whatever
    rectangles are asked for. The multi-scale variants have no scores at stride 8: with them the network runs
    anew on each rectangle and its margin.

    Args:
        image: the image.
        predictor: the network.
        folder: folder for the windows' files.
        window: height and width in pixels that a window answers for; a multiple of 8.
    """

    def __init__(self, image: LargeTiff, predictor: Predictor, folder: Path, window: int):
        self._image = image
        self._predictor = predictor
        self._folder = folder
        self._window = window
        self._is_multi_scale = predictor.network.variant.multi_scale
        # Row and column at which the image starts in upsampled scores.
        self._offset = predictor.network.variant.score_offset
        self._axes = tuple(spans(length, window, predictor.margin) for length in image.size)
        self._shape = tuple(-(-(length - 1 + self._offset) // OUTPUT_STRIDE) + 1 for length in image.size)

    def windows(self) -> Iterator[tuple[int, int]]:
        """Row and column of every window whose scores are saved."""
        if not self._is_multi_scale:
            yield from product(range(len(self._axes[0])), range(len(self._axes[1])))

    def path(self, window: tuple[int, int]) -> Path:
        """File of a window's scores."""
        return self._folder / f"{window[0]}-{window[1]}.npy"

    def compute(self, window: tuple[int, int]) -> None:
        """Run the network on a window and save its scores; a window without data gets an empty array.

        Raises:
            PhotoError: if that part of the image is damaged.
            ValueError: if scores are not finite.
        """
        rows, columns = self._axes[0][window[0]], self._axes[1][window[1]]
        photo, empty = self._image.window(slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        core = np.s_[
            rows.first - rows.start : rows.last - rows.start,
            columns.first - columns.start : columns.last - columns.start,
        ]
        own = np.zeros((0, 0, 0), np.float32)
        if not empty[core].all():
            scores, _, _ = self._predictor.scores(photo)
            (top, bottom), (left, right) = self._score_range(0, window[0]), self._score_range(1, window[1])
            y, x = rows.start // OUTPUT_STRIDE, columns.start // OUTPUT_STRIDE
            own = scores[:, top - y : bottom - y, left - x : right - x]
            if not np.isfinite(own).all():
                raise ValueError("got scores that are NaN or infinite; the weights cannot be used")
        save_array(self.path(window), own)

    def probabilities(self, rows: slice, columns: slice) -> np.ndarray:
        """Class probabilities of a rectangle; all classes are equal in windows without data.

        Args:
            rows: start and stop in pixels, inside the image; start is a multiple of 8.
            columns: likewise.

        Returns:
            (K, h, w) float32.
        """
        if self._is_multi_scale:
            return self._multi_scale_probabilities(rows, columns)
        tops = rows.start + self._offset, columns.start + self._offset
        first = tops[0] // OUTPUT_STRIDE, tops[1] // OUTPUT_STRIDE
        last = (
            -(-(rows.stop - 1 + self._offset) // OUTPUT_STRIDE) + 1,
            -(-(columns.stop - 1 + self._offset) // OUTPUT_STRIDE) + 1,
        )
        scores = self._saved_scores(first, last)
        full = upsample(torch.from_numpy(scores)[None])[0]
        y, x = tops[0] - OUTPUT_STRIDE * first[0], tops[1] - OUTPUT_STRIDE * first[1]
        full = full[:, y : y + rows.stop - rows.start, x : x + columns.stop - columns.start]
        return torch.softmax(full, dim=0).numpy()

    def _saved_scores(self, first: tuple[int, int], last: tuple[int, int]) -> np.ndarray:
        """(K, h, w) float32 scores from row and column ``first`` to ``last`` (excluded) of the score map."""
        step = self._window // OUTPUT_STRIDE
        out = np.zeros((self._predictor.network.classes, last[0] - first[0], last[1] - first[1]), np.float32)
        numbers = [
            range(min(start // step, len(axis) - 1), min((stop - 1) // step, len(axis) - 1) + 1)
            for start, stop, axis in zip(first, last, self._axes, strict=True)
        ]
        for window in product(*numbers):
            saved = load_array(self.path((window[0], window[1])))
            if saved is None or not saved.size:
                continue
            (top, bottom), (left, right) = (self._score_range(axis, n) for axis, n in enumerate(window))
            y0, y1 = max(top, first[0]), min(bottom, last[0])
            x0, x1 = max(left, first[1]), min(right, last[1])
            part = saved[:, y0 - top : y1 - top, x0 - left : x1 - left]
            out[:, y0 - first[0] : y1 - first[0], x0 - first[1] : x1 - first[1]] = part
        return out

    def _score_range(self, axis: int, number: int) -> tuple[int, int]:
        """First and last (excluded) rows (axis 0) or columns (axis 1) of scores that a window saves."""
        step = self._window // OUTPUT_STRIDE
        is_last = number == len(self._axes[axis]) - 1
        return number * step, self._shape[axis] if is_last else (number + 1) * step

    def _multi_scale_probabilities(self, rows: slice, columns: slice) -> np.ndarray:
        height, width = self._image.size
        y, x = self._with_margin(rows, height), self._with_margin(columns, width)
        photo, _ = self._image.window(slice(y.start, y.stop), slice(x.start, x.stop))
        seen = self._predictor.probabilities([photo], tile=self._window)[0]
        core = seen[:, y.first - y.start : y.last - y.start, x.first - x.start : x.last - x.start]
        return np.ascontiguousarray(core)

    def _with_margin(self, axis: slice, length: int) -> Span:
        margin = self._predictor.margin
        return Span(max(0, axis.start - margin), min(length, axis.stop + margin), axis.start, axis.stop)
