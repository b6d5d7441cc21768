"""What masks show and which class it stands for: ids, or colours turned into ids exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deeplab.classes import IGNORE
from deeplab.datasets.problems import LabelError
from deeplab.datasets.samples import ids_of, load_mask

Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class ClassTable:
    """The classes of a data set, and how masks show them."""

    names: tuple[str, ...]
    """K names, id order."""
    file: Path
    """The file that the names are from."""
    levels: tuple[int, ...] = field(default=tuple(range(256)), repr=False)
    """The id that each grey level or palette index stands for."""
    colours: dict[Colour, int] = field(default_factory=dict, repr=False)
    """The id that each colour stands for, void among them; empty if masks hold ids."""

    def read(self, path: Path) -> np.ndarray:
        """Class ids of a mask.

        Where there are colours, they decide, in palette masks too (but index 255 is void); grey masks hold
        ids, unless all the colours are shades of grey.

        Args:
            path: a picture saved without loss.

        Returns:
            (H, W) uint8, 255 void; ids that have no class stay as they are.

        Raises:
            LabelError: for a colour that has no class: says which, how often, and where; and as ``read_ids``.
        """
        mask = load_mask(path)
        shades = all(r == g == b for r, g, b in self.colours)
        painted = ("P", "RGB", "RGBA", *(("1", "L") if shades else ()))
        if not self.colours or mask.mode not in painted:
            return np.array(self.levels, np.uint8)[ids_of(mask, path)]
        if mask.mode == "P":
            indices, palette = np.asarray(mask), np.zeros((256, 3), np.uint8)
            held = np.array(mask.getpalette("RGB"), np.uint8).reshape(-1, 3)
            palette[: len(held)] = held
            of_index, has_class = self._look_up(palette)
            of_index[IGNORE], has_class[IGNORE] = IGNORE, True
            ids, known = of_index[indices], has_class[indices]
        else:
            colours = np.asarray(mask.convert("RGB"))
            ids, known = self._look_up(colours)
        if not known.all():
            raise self._unknown((palette[indices] if mask.mode == "P" else colours)[~known], path)
        return ids

    def _look_up(self, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids (…) uint8 of colours (…, 3) uint8, and which of them are known."""
        codes = np.array(sorted((r << 16 | g << 8 | b, i) for (r, g, b), i in self.colours.items()))
        wanted = _code(colours)
        place = np.minimum(np.searchsorted(codes[:, 0], wanted), len(codes) - 1)
        return codes[place, 1].astype(np.uint8), codes[place, 0] == wanted

    def _unknown(self, colours: np.ndarray, path: Path) -> LabelError:
        found, counts = np.unique(_code(colours), return_counts=True)
        most = int(found[counts.argmax()])
        what = f"colour {(most >> 16, most >> 8 & 255, most & 255)} in {counts.max()} pixels"
        if len(found) > 1:
            what += f" and {len(found) - 1} more colours in {counts.sum() - counts.max()} pixels"
        cure = "give the colour a class there; many such colours mean blurred edges: export without smoothing"
        return LabelError.of("unknown colour", path, f"{what}, not in {self.file.name}", cure)


def _code(colours: np.ndarray) -> np.ndarray:
    """Colours (…, 3) as one number each."""
    wide = colours.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
