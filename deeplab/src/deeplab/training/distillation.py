"""What another network says of the training photos: soft targets for a network that learns from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from deeplab.datasets.score_file import ScoreFile
from deeplab.network.architecture import OUTPUT_STRIDE
from deeplab.training.augmentation import Place


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

    def on(
        self, device: torch.device, names: Sequence[str], sizes: Sequence[tuple[int, int]]
    ) -> DeviceTeacher:
        """The scores of these photos in a device's memory.

        Args:
            device: where they are kept, 8 bits a score.
            names: photos.
            sizes: (H, W) of each photo's file; (0, 0) of one that is not used.

        Raises:
            ValueError: if the files' score maps differ in size, or a photo has another size than its file
                says.
        """
        files = [next(file for file in self._files if name in file) for name in names]
        strides = sorted({file.stride for file in files})
        if len(strides) > 1:
            raise ValueError(
                f"got teachers with scores at strides {', '.join(map(str, strides))}, wanted one stride for all; "
                "without in_memory they can be mixed"
            )
        found = [file.levels_of(name, size) for file, name, size in zip(files, names, sizes, strict=True)]
        levels = torch.from_numpy(np.stack([levels for levels, _ in found])).to(device)
        filled = torch.tensor([canvas for _, canvas in found], dtype=torch.float64, device=device)
        scale = torch.tensor([(file.scale, file.zero_point) for file in files], device=device)
        return DeviceTeacher(levels, filled, scale, strides[0])

    def targets(self, name: str, place: Place, first: int, count: int) -> torch.Tensor:
        """Probabilities (K, count, count) float32 at the pixels ``first``, ``first + 8`` … of a crop; 0 at
        padding."""
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


class DeviceTeacher:
    """``Teacher`` for a batch at once, with all scores on one device."""

    def __init__(self, levels: torch.Tensor, filled: torch.Tensor, scale: torch.Tensor, stride: int):
        self._levels, self._filled, self._scale, self._stride = levels, filled, scale, stride

    def targets(self, index: torch.Tensor, places: Sequence[Place], first: int, count: int) -> torch.Tensor:
        """Probabilities (B, K, count, count) float32 at the pixels ``first``, ``first + 8`` … of crops; 0 at
        padding.

        Args:
            index: (B,) which photos.
            places: what each crop shows.
            first: the first row and column.
            count: how many of each.
        """
        seen = np.array([place.seen_at(first, OUTPUT_STRIDE, count) for place in places])  # (B, 2, count)
        size = torch.tensor([place.size for place in places], dtype=torch.float64).to(index.device)
        lines = torch.from_numpy(seen).to(index.device)
        lines = ((lines + 0.5) * (self._filled[index] / size)[:, :, None] - 0.5) / self._stride
        inside = ~lines[:, 0, :, None].isnan() & ~lines[:, 1, None, :].isnan()
        last = self._levels.shape[1] - 1
        y, x = (lines.nan_to_num().clamp(0, last) * (2 / last) - 1).float().unbind(1)
        shape = (len(index), count, count)
        grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), dim=-1)
        scale, zero = self._scale[index].float().unbind(1)
        scores = (self._levels[index].permute(0, 3, 1, 2).float() - zero[:, None, None, None]) * scale[
            :, None, None, None
        ]
        sampled = F.grid_sample(scores, grid, mode="bilinear", padding_mode="border", align_corners=True)
        return torch.softmax(sampled, dim=1) * inside[:, None]


def _between(scores: torch.Tensor, at: np.ndarray, axis: int) -> torch.Tensor:
    """Linear interpolation along one axis at given positions, in samples; the ends go on beyond
    themselves."""
    last = scores.shape[axis] - 1
    inside = np.clip(np.nan_to_num(at), 0, last)
    low = np.minimum(inside.astype(np.int64), max(0, last - 1))
    share = torch.from_numpy((inside - low).astype(np.float32))
    share = share[:, None] if axis == 1 else share
    below, above = (scores.index_select(axis, torch.from_numpy(np.minimum(low + i, last))) for i in (0, 1))
    return below + (above - below) * share
