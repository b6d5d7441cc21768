"""What another network says of the training photos: soft targets for a network that learns from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from deeplab.augmentation import Place
from deeplab.network import OUTPUT_STRIDE
from deeplab.score_file import ScoreFile


class Teacher:
    """Another network's class probabilities at the positions of a crop's targets.

    Args:
        paths: files of scores, as ``ScoreFile`` reads them; a photo is looked up in one after the other.
        classes: K.
        names: photos that there must be scores of.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if one cannot be used, or a photo is in none.

    Source: "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2, at temperature 1.
    """

    def __init__(self, paths: Sequence[str | Path], classes: int, names: Sequence[str]):
        self._files = [ScoreFile(Path(path), classes) for path in paths]
        lacking = [name for name in names if not any(name in file for file in self._files)]
        if lacking:
            raise ValueError(
                f"teacher {', '.join(map(str, paths))}: lacks scores of {len(lacking)} of {len(names)} photos, first "
                f"{lacking[0]}"
            )

    def targets(self, name: str, place: Place, first: int, count: int) -> torch.Tensor:
        """Probabilities (K, count, count) float32 at the pixels ``first``, ``first + 8`` … of a crop; 0 at padding."""
        file = next(file for file in self._files if name in file)
        scores, canvas = file.of(name, place.size)
        rows, columns = place.seen_at(first, OUTPUT_STRIDE, count)
        lines = [
            ((at + 0.5) * filled / length - 0.5) / file.stride
            for at, filled, length in zip((rows, columns), canvas, place.size, strict=True)
        ]
        inside = ~np.isnan(lines[0])[:, None] & ~np.isnan(lines[1])
        sampled = _between(_between(torch.from_numpy(scores), lines[0], 1), lines[1], 2)
        return torch.softmax(sampled, dim=0) * torch.from_numpy(inside)


def _between(scores: torch.Tensor, at: np.ndarray, axis: int) -> torch.Tensor:
    """Linear interpolation along one axis at given positions, in samples; the ends go on beyond themselves."""
    last = scores.shape[axis] - 1
    inside = np.clip(np.nan_to_num(at), 0, last)
    low = np.minimum(inside.astype(np.int64), max(0, last - 1))
    share = torch.from_numpy((inside - low).astype(np.float32))
    share = share[:, None] if axis == 1 else share
    below, above = (scores.index_select(axis, torch.from_numpy(np.minimum(low + i, last))) for i in (0, 1))
    return below + (above - below) * share
