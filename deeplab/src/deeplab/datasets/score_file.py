"""Class scores of many photos in one file, 8 bits each: the way to use networks of other programs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CANVAS = 513
"""Height and width in pixels of the square that a score map covers."""
READ_ERRORS = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    ZeroDivisionError,
    zipfile.BadZipFile,
)


class ScoreFile:
    """Score maps over a square canvas that each photo fills from its top left.

    Args:
        path: an .npz file with ``ids`` (n,), the names of the photos; ``logits_u8`` (n, h, w, K) uint8, where
            a score is (q − ``zero_point``) · ``scale``; ``width_height_canvasw_canvash`` (n, 4): size of the
            photo, and of the part that it fills of the canvas of 513×513 pixels.
        classes: K.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not of this form, or has another number of classes.
    """

    def __init__(self, path: Path, classes: int):
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}; wanted class scores as .npz")
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                self._index = {str(name): index for index, name in enumerate(file["ids"])}
                self._logits = file["logits_u8"]
                sizes = file["width_height_canvasw_canvash"]
                self.scale = float(file["scale"])
                self.zero_point = float(file["zero_point"])
            count, height, width, file_classes = self._logits.shape
            square = height == width and (CANVAS - 1) % (width - 1) == 0
            if len(self._index) != count or sizes.shape != (count, 4) or not square:
                shapes = f"{self._logits.shape} and {sizes.shape}"
                raise ValueError(f"shapes {shapes} for {len(self._index)} photos")
        except READ_ERRORS as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: not a file of class scores in 8 bits: {reason}") from None
        if file_classes != classes:
            raise ValueError(f"{path}: got scores of {file_classes} classes, wanted the data's {classes}")
        self.path = path
        self.stride = (CANVAS - 1) // (width - 1)
        """Pixels of the canvas from one score to the next."""
        self._sizes = sizes.tolist()

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def require(self, names: Sequence[str]) -> None:
        """Check that the file has scores of all these photos.

        Raises:
            ValueError: if some are missing; the message says how many.
        """
        missing = [name for name in names if name not in self._index]
        if missing:
            raise ValueError(
                f"{self.path}: lacks scores of {len(missing)} of {len(names)} photos, first {missing[0]}"
            )

    def of(self, name: str, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
        """Get the scores of one photo.

        Args:
            name: name of the photo.
            size: (H, W) of the photo.

        Returns:
            Scores (K, h, w) float32, and (height, width) of the part of the canvas that the photo fills.

        Raises:
            ValueError: if the photo has another size than the file says.
        """
        levels, canvas = self.levels_of(name, size)
        scores = (levels.astype(np.float32) - self.zero_point) * self.scale
        return np.moveaxis(scores, 2, 0), canvas

    def levels_of(self, name: str, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
        """Get the scores of one photo in 8 bits, as they are stored.

        Args:
            name: name of the photo.
            size: (H, W) of the photo; (0, 0) is not checked.

        Returns:
            (h, w, K) uint8, and (height, width) of the part of the canvas that the photo fills.

        Raises:
            ValueError: if the photo has another size than the file says.
        """
        index = self._index[name]
        width, height, canvas_width, canvas_height = self._sizes[index]
        if size not in ((height, width), (0, 0)):
            raise ValueError(f"{self.path}: got scores of a photo {(height, width)}, but {name} is {size}")
        return self._logits[index], (canvas_height, canvas_width)
