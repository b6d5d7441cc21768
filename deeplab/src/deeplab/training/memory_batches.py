"""Batches of photos in the device's memory, where crops, colour changes and class mixing are made.

This is for a GPU, which trains faster than a processor decodes JPEG files. Photo, scale, position and
mirroring of a crop are drawn exactly as ``deeplab.training.batches`` draws them, from seed and step alone, so
that a run can resume at any step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from deeplab.network.architecture import OUTPUT_STRIDE, Variant
from deeplab.network.preprocessing import Preparation
from deeplab.training.augmentation import Augmentation, CropWindow, draw_crop_window, draw_factors
from deeplab.training.batches import PREFETCH, Example, draw_batch
from deeplab.training.device_crops import CropPositions, cut_crops, jittered_batch, paste_mask
from deeplab.training.distillation import Teacher
from deeplab.training.photo_store import PhotoStore

MIX_SEED = 3
"""Number beside the seeds 1 and 2 of orders and crops in ``deeplab.training.batches.draw_batch``."""


@dataclass(frozen=True)
class _BatchDraw:
    """All random choices of one batch."""

    rows: list[int]
    """Rows of the photos in the store."""
    windows: list[CropWindow]
    factors: np.ndarray
    """(B, 3) factors on brightness, contrast and saturation."""
    class_ranks: np.ndarray
    """(B, K) random numbers that decide which classes are pasted into the next crop."""
    is_mixed: np.ndarray
    """(B,) bool: crops into which classes are pasted."""


class MemoryBatches:
    """Augmented, prepared batches made on the device that holds the photos.

    Args:
        store: the photos.
        variant: the network, which decides where its targets lie.
        preparation: channel order, mean and scale that belong to the weights.
        augmentation: the random changes.
        classes: number of classes K.
        batch: crops a step over all processes.
        extra: number of slots that the second source fills.
        slots: the slots of each batch that this process works on.
        seed: seed of the run.
        teacher: source of soft targets.
        mix: probability that half of the classes of another crop of the batch are pasted into a crop.

    Source: "ClassMix" (arXiv 2007.07936), section 3.2, with labels instead of predictions.
    """

    def __init__(
        self,
        store: PhotoStore,
        variant: Variant,
        preparation: Preparation,
        augmentation: Augmentation,
        *,
        classes: int,
        batch: int,
        extra: int,
        slots: slice,
        seed: int,
        teacher: Teacher | None = None,
        mix: float = 0.0,
    ):
        device = store.photos.device
        self._store = store
        self._augmentation = augmentation
        self._classes = classes
        self._batch = batch
        self._extra = extra
        self._slots = slots
        self._seed = seed
        self._mix = mix
        self._teacher = teacher.to_device(device, store.names, store.original_sizes) if teacher else None
        self._mean = torch.tensor(preparation.mean, device=device)[:, None, None]
        self._scale = torch.tensor(preparation.scale, device=device)[:, None, None]
        self._is_bgr = preparation.channels == "BGR"
        self._first_target = variant.first_target
        self._targets_at = slice(variant.first_target, None, OUTPUT_STRIDE)

    def from_step(self, step: int) -> Generator[Example, None, None]:
        """Yield batches without end, beginning with that of a step.

        Args:
            step: step of the run, counted from zero.

        Yields:
            Photos (b, 3, crop, crop) float32, targets (b, h, w) uint8, and probabilities (b, K, h, w) float32
            if there is a teacher.
        """
        pending: deque[Future[_BatchDraw]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="draws") as pool:
            try:
                while True:
                    while len(pending) < PREFETCH:
                        pending.append(pool.submit(self._draw, step))
                        step += 1
                    yield self._example(pending.popleft().result())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _draw(self, step: int) -> _BatchDraw:
        sizes = [len(rows) for rows in self._store.rows]
        rows: list[int] = []
        windows: list[CropWindow] = []
        factors: list[np.ndarray] = []
        for draw in draw_batch(step, self._batch, sizes, self._extra, self._seed)[self._slots]:
            rng = np.random.default_rng(draw.seed)
            row = self._store.usable_row(draw.source, draw.index)
            rows.append(row)
            windows.append(draw_crop_window(self._store.sizes[row], self._augmentation, rng))
            factors.append(draw_factors(self._augmentation.jitter, rng))
        rng = np.random.default_rng((self._seed, MIX_SEED, step))
        class_ranks = rng.random((self._batch, self._classes), np.float32)[self._slots]
        is_mixed = rng.random(self._batch)[self._slots] < self._mix
        if len(rows) == 1:  # there is no other crop to paste from
            is_mixed[:] = False
        return _BatchDraw(rows, windows, np.array(factors, np.float32), class_ranks, is_mixed)

    @torch.no_grad()
    def _example(self, draw: _BatchDraw) -> Example:
        store = self._store
        device = store.photos.device
        index = torch.tensor(draw.rows, device=device)
        positions = CropPositions.of(draw.windows, self._augmentation.crop, device)
        is_visible = positions.inside()
        levels = cut_crops(store.photos[index], positions)
        if self._augmentation.jitter > 0:
            levels = jittered_batch(levels, is_visible, torch.from_numpy(draw.factors).to(device))
        targets = positions.labels(store.labels, index, self._targets_at)
        soft = None
        if self._teacher is not None:
            soft = self._teacher.targets(index, draw.windows, self._first_target, targets.shape[-1])
        if draw.is_mixed.any():
            labels = positions.labels(store.labels, index)
            is_pasted = paste_mask(labels, torch.from_numpy(draw.class_ranks).to(device))
            is_pasted &= torch.from_numpy(draw.is_mixed).to(device)[:, None, None]
            is_visible = is_visible | is_pasted
            levels = torch.where(is_pasted[:, None], levels.roll(-1, 0), levels)
            at_targets = is_pasted[:, self._targets_at, self._targets_at]
            targets = torch.where(at_targets, targets.roll(-1, 0), targets)
            if soft is not None:
                soft = torch.where(at_targets[:, None], soft.roll(-1, 0), soft)
        batch = levels.flip(1) if self._is_bgr else levels
        batch = (batch - self._mean) * self._scale * is_visible[:, None]  # padding is the mean colour
        return (batch, targets) if soft is None else (batch, targets, soft)
