"""Soft targets: class probabilities of another network, the teacher, at the positions of a crop's targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from deeplab.datasets.score_file import ScoreFile
from deeplab.network.architecture import OUTPUT_STRIDE
from deeplab.training.augmentation import CropWindow


class Teacher:
    """Score files of another network, sampled at the positions of a crop's targets.

    Args:
        paths: score files in the format of ``ScoreFile``; the first that has a photo is used for it.
        classes: number of classes K.
        names: photos that the files must have scores of.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a file cannot be used, or no file has a photo's scores.

    Source: "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2, at temperature 1.
    """

    def __init__(self, paths: Sequence[str | Path], classes: int, names: Sequence[str]):
        self._files = [ScoreFile(Path(path), classes) for path in paths]
        missing = [name for name in names if not any(name in file for file in self._files)]
        if missing:
            raise ValueError(
                f"teacher {', '.join(map(str, paths))}: lacks scores of {len(missing)} of {len(names)} "
                f"photos, first {missing[0]}"
            )

    def to_device(
        self, device: torch.device, names: Sequence[str], sizes: Sequence[tuple[int, int]]
    ) -> DeviceTeacher:
        """Copy the scores of some photos into a device's memory.

        Args:
            device: receives the scores, 8 bits each.
            names: names of the photos.
            sizes: (H, W) of each photo's file; (0, 0) for a photo that is not used.

        Returns:
            A teacher for photos by their index in ``names``.

        Raises:
            ValueError: if the files' score maps have different strides, or a photo has another size than its
                file says.
        """
        files = [self._file_of(name) for name in names]
        strides = sorted({file.stride for file in files})
        if len(strides) > 1:
            raise ValueError(
                f"got teachers with scores at strides {', '.join(map(str, strides))}, wanted one stride for "
                "all; without in_memory they can be mixed"
            )
        scores = [file.levels_of(name, size) for file, name, size in zip(files, names, sizes, strict=True)]
        levels = torch.from_numpy(np.stack([levels for levels, _ in scores])).to(device)
        filled = torch.tensor([filled for _, filled in scores], dtype=torch.float64, device=device)
        scales = torch.tensor([(file.scale, file.zero_point) for file in files], device=device)
        return DeviceTeacher(levels, filled, scales, strides[0])

    def targets(self, name: str, window: CropWindow, first: int, count: int) -> torch.Tensor:
        """Probabilities at the pixels ``first``, ``first + 8`` and so on of a crop.

        Args:
            name: name of the photo.
            window: the part of the photo that the crop shows.
            first: first row and column of the crop that has a target.
            count: number of target rows and columns.

        Returns:
            (K, count, count) float32; 0 in the padding.
        """
        file = self._file_of(name)
        scores, filled = file.of(name, window.photo_size)
        rows, columns = window.source_positions(first, OUTPUT_STRIDE, count)
        in_scores = [
            ((positions + 0.5) * filled_length / length - 0.5) / file.stride
            for positions, filled_length, length in zip(
                (rows, columns), filled, window.photo_size, strict=True
            )
        ]
        is_inside = ~np.isnan(rows)[:, None] & ~np.isnan(columns)
        sampled = _interpolated(torch.from_numpy(scores), in_scores[0], axis=1)
        sampled = _interpolated(sampled, in_scores[1], axis=2)
        return torch.softmax(sampled, dim=0) * torch.from_numpy(is_inside)

    def _file_of(self, name: str) -> ScoreFile:
        return next(file for file in self._files if name in file)


class DeviceTeacher:
    """``Teacher`` for whole batches, with all scores on one device.

    Args:
        levels: (photos, h, w, K) uint8 scores.
        filled: (photos, 2) float64 height and width that each photo fills of its score file's square.
        scales: (photos, 2) scale and zero point of the levels.
        stride: pixels of the square from one score to the next.
    """

    def __init__(self, levels: torch.Tensor, filled: torch.Tensor, scales: torch.Tensor, stride: int):
        self._levels = levels
        self._filled = filled
        self._scales = scales
        self._stride = stride

    def targets(
        self, index: torch.Tensor, windows: Sequence[CropWindow], first: int, count: int
    ) -> torch.Tensor:
        """Probabilities at the pixels ``first``, ``first + 8`` and so on of crops.

        Args:
            index: (B,) indices of the photos.
            windows: the part that each crop shows.
            first: first row and column of a crop that has a target.
            count: number of target rows and columns.

        Returns:
            (B, K, count, count) float32; 0 in the padding.
        """
        in_scores = self._score_positions(index, windows, first, count)  # (B, 2, count)
        is_inside = ~in_scores[:, 0, :, None].isnan() & ~in_scores[:, 1, None, :].isnan()
        last = self._levels.shape[1] - 1
        y, x = (in_scores.nan_to_num().clamp(0, last) * (2 / last) - 1).float().unbind(1)
        shape = (len(index), count, count)
        grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), dim=-1)
        scale, zero_point = self._scales[index].float()[:, :, None, None, None].unbind(1)
        scores = (self._levels[index].permute(0, 3, 1, 2).float() - zero_point) * scale
        sampled = F.grid_sample(scores, grid, mode="bilinear", padding_mode="border", align_corners=True)
        return torch.softmax(sampled, dim=1) * is_inside[:, None]

    def _score_positions(
        self, index: torch.Tensor, windows: Sequence[CropWindow], first: int, count: int
    ) -> torch.Tensor:
        """Rows and columns (B, 2, count) of the targets in the score maps; NaN in the padding."""
        positions = np.array([window.source_positions(first, OUTPUT_STRIDE, count) for window in windows])
        in_photo = torch.from_numpy(positions).to(index.device)
        sizes = torch.tensor([window.photo_size for window in windows], dtype=torch.float64).to(index.device)
        return ((in_photo + 0.5) * (self._filled[index] / sizes)[:, :, None] - 0.5) / self._stride


def _interpolated(scores: torch.Tensor, positions: np.ndarray, axis: int) -> torch.Tensor:
    """Linear interpolation along one axis of (K, h, w); positions beyond an end get the end's value."""
    last = scores.shape[axis] - 1
    inside = np.clip(np.nan_to_num(positions), 0, last)
    lower = np.minimum(inside.astype(np.int64), max(0, last - 1))
    fraction = torch.from_numpy((inside - lower).astype(np.float32))
    fraction = fraction[:, None] if axis == 1 else fraction
    below = scores.index_select(axis, torch.from_numpy(lower))
    above = scores.index_select(axis, torch.from_numpy(np.minimum(lower + 1, last)))
    return below + (above - below) * fraction
