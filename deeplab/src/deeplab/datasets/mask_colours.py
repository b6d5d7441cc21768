"""Turning the levels or colours of masks into class ids, exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deeplab.classes import IGNORE
from deeplab.datasets.class_lines import Colour
from deeplab.datasets.mask_files import load_mask, mask_ids, palette_colours, read_ids
from deeplab.datasets.problems import LabelError


@dataclass(frozen=True, eq=False)
class ClassTable:
    """The classes of a data set and their levels or colours in masks."""

    names: tuple[str, ...]
    """K names in id order."""
    file: Path
    """File that the names are from."""
    levels: tuple[int, ...] = field(default=tuple(range(256)), repr=False)
    """Id of each grey level or palette index."""
    colours: dict[Colour, int] = field(default_factory=dict, repr=False)
    """Id of each colour, void included; empty if masks hold ids."""

    def read(self, path: Path) -> np.ndarray:
        """Read the class ids of a mask.

        If there are colours, they decide, in palette masks too (but index 255 is void). Grey masks hold
        ids, unless all the colours are shades of grey.

        Args:
            path: a mask saved without loss.

        Returns:
            (H, W) uint8, 255 void; ids without a class stay as they are.

        Raises:
            LabelError: for a colour without a class (the message says which, how often and where), and for
                all that ``read_ids`` refuses.
        """
        mask = load_mask(path)
        all_grey = all(r == g == b for r, g, b in self.colours)
        modes = ("P", "RGB", "RGBA", *(("1", "L") if all_grey else ()))
        if not self.colours or mask.mode not in modes:
            return np.array(self.levels, np.uint8)[mask_ids(mask, path)]
        if mask.mode == "P":
            indices = np.asarray(mask)
            palette = palette_colours(mask)
            id_of_index, has_class = self._look_up(palette)
            id_of_index[IGNORE] = IGNORE
            has_class[IGNORE] = True
            ids = id_of_index[indices]
            known = has_class[indices]
        else:
            colours = np.asarray(mask.convert("RGB"))
            ids, known = self._look_up(colours)
        if not known.all():
            raise self._unknown((palette[indices] if mask.mode == "P" else colours)[~known], path)
        return ids

    def reads_ids(self) -> bool:
        """Whether levels and palette indices are the class ids as they are."""
        return not self.colours and self.levels == tuple(range(256))

    def _look_up(self, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids (…) uint8 of colours (…, 3) uint8, and a mask of the known ones."""
        table = np.array(sorted((r << 16 | g << 8 | b, i) for (r, g, b), i in self.colours.items()))
        codes = _code(colours)
        index = np.minimum(np.searchsorted(table[:, 0], codes), len(table) - 1)
        return table[index, 1].astype(np.uint8), table[index, 0] == codes

    def _unknown(self, colours: np.ndarray, path: Path) -> LabelError:
        """The error for colours (n, 3) without a class."""
        codes, counts = np.unique(_code(colours), return_counts=True)
        top = int(codes[counts.argmax()])
        what = f"colour {(top >> 16, top >> 8 & 255, top & 255)} in {counts.max()} pixels"
        if len(codes) > 1:
            what += f" and {len(codes) - 1} more colours in {counts.sum() - counts.max()} pixels"
        fix = "give the colour a class there; many such colours mean blurred edges: export without smoothing"
        return LabelError.of("unknown colour", path, f"{what}, not in {self.file.name}", fix)


def reads_indices(reader: Callable[[Path], np.ndarray]) -> bool:
    """Whether a reader of masks takes palette indices for ids and leaves palette colours aside."""
    table = getattr(reader, "__self__", None)
    return reader is read_ids or (isinstance(table, ClassTable) and table.reads_ids())


def _code(colours: np.ndarray) -> np.ndarray:
    """Encode colours (…, 3) as one number each."""
    wide = colours.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
