"""Class scores of many photos in one file of 8 bits each: how networks of other programs come in."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CANVAS = 513
"""Height and width in pixels of the square that a score map covers."""


class ScoreFile:
    """Score maps over a square that each photo fills from its top left.

    Args:
        path: an .npz file with ``ids`` (n,) the photos' names; ``logits_u8`` (n, h, w, K) uint8, of which a
            score is (q − ``zero_point``) · ``scale``; ``width_height_canvasw_canvash`` (n, 4): size of the
            photo, and of the part that it fills of the square of 513×513 pixels.
        classes: K.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, or has another number of classes.
    """

    def __init__(self, path: Path, classes: int):
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}; wanted class scores as .npz")
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                self._places = {str(name): place for place, name in enumerate(file["ids"])}
                self._logits, sizes = file["logits_u8"], file["width_height_canvasw_canvash"]
                self.scale, self.zero_point = float(file["scale"]), float(file["zero_point"])
            count, height, width, found = self._logits.shape
            if (
                len(self._places) != count
                or sizes.shape != (count, 4)
                or height != width
                or (CANVAS - 1) % (width - 1)
            ):
                raise ValueError(
                    f"shapes {self._logits.shape} and {sizes.shape} for {len(self._places)} photos"
                )
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            EOFError,
            ZeroDivisionError,
            zipfile.BadZipFile,
        ) as error:
            raise ValueError(
                f"{path}: not a file of class scores in 8 bits: {' '.join(str(error).split())}"
            ) from None
        if found != classes:
            raise ValueError(f"{path}: got scores of {found} classes, wanted the data's {classes}")
        self.path, self._sizes = path, sizes.tolist()
        self.stride = (CANVAS - 1) // (width - 1)
        """Pixels of the square from one score to the next."""

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def require(self, names: Sequence[str]) -> None:
        """ValueError if the file lacks one of these photos."""
        lacking = [name for name in names if name not in self._places]
        if lacking:
            raise ValueError(
                f"{self.path}: lacks scores of {len(lacking)} of {len(names)} photos, first {lacking[0]}"
            )

    def of(self, name: str, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
        """One photo's scores.

        Args:
            name: the photo's.
            size: (H, W) of the photo.

        Returns:
            Scores (K, h, w) float32, and (height, width) of the part of the square that the photo fills.

        Raises:
            ValueError: if the photo has another size than the file says.
        """
        levels, canvas = self.levels_of(name, size)
        scores = (levels.astype(np.float32) - self.zero_point) * self.scale
        return np.moveaxis(scores, 2, 0), canvas

    def levels_of(self, name: str, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
        """The same as they are stored: (h, w, K) uint8; ``size`` (0, 0) is not checked."""
        place = self._places[name]
        width, height, canvas_width, canvas_height = self._sizes[place]
        if size not in ((height, width), (0, 0)):
            raise ValueError(f"{self.path}: got scores of a photo {(height, width)}, but {name} is {size}")
        return self._logits[place], (canvas_height, canvas_width)
