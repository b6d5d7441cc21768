"""Black and white masks: 0 is background, and the one other level, be it 1, 128 or 255, the object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeplab.datasets.mask_colours import ClassTable
from deeplab.datasets.mask_files import COLOUR_MODES, load_mask, mask_ids
from deeplab.datasets.problems import LabelError

DEFAULT_NAMES = ("background", "object")
MAX_SHOWN = 4


@dataclass(frozen=True)
class BinaryReader:
    """Reads class ids 0 and 1 from black and white masks; no pixel is void."""

    names: tuple[str, str] = DEFAULT_NAMES
    """Names of background and object."""

    def __call__(self, path: Path) -> np.ndarray:
        """Read a mask: (H, W) uint8, 0 where it is black and 1 elsewhere.

        Raises:
            LabelError: for a mask with more than one level beside 0, or in colours, and for all that
                ``read_ids`` refuses.
        """
        mask = load_mask(path)
        if mask.mode in COLOUR_MODES:
            colours = np.asarray(mask.convert("RGB"))
            if (colours != colours[:, :, :1]).any():
                fix = "wanted black and one other level: leave out binary"
                raise LabelError.of("not a binary mask", path, "a mask in colours", fix)
            levels = colours[:, :, 0]
        else:
            levels = mask_ids(mask, path)
        used = np.unique(levels)
        if len(used[used > 0]) > 1:
            shown = ", ".join(map(str, used[:MAX_SHOWN])) + (" …" if len(used) > MAX_SHOWN else "")
            fix = "wanted 0 and one other level: leave out binary, or export without anti-aliasing"
            raise LabelError.of("not a binary mask", path, f"levels {shown}", fix)
        return (levels > 0).astype(np.uint8)


def binary_reader(table: ClassTable | None) -> BinaryReader:
    """Make the reader of binary masks with the names of a class file, if there is one.

    Raises:
        ValueError: if the file names more or fewer than two classes.
    """
    if table is None:
        return BinaryReader()
    if len(table.names) != 2:
        raise ValueError(
            f"{table.file}: got {len(table.names)} classes and binary masks, wanted background and object"
        )
    return BinaryReader((table.names[0], table.names[1]))
