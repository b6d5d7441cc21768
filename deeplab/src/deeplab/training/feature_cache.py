"""What the frozen lower trunk makes of every photo, kept on disk: it is computed once, not at every step.

Stages 1 to 4 of VGG-16 hold three quarters of a training step's work and do not change in a short training.
So each photo is seen a few times ("views": mirrored, scaled), its pool4 features are written to one flat bf16
file, and training crops windows of features and labels out of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from deeplab.classes import IGNORE
from deeplab.datasets.opening import Sample
from deeplab.network.architecture import OUTPUT_STRIDE, DeepLab
from deeplab.network.preprocessing import Preparation, pad_to_stride, prepare
from deeplab.training.augmentation import resized
from deeplab.training.batches import Example, draws

CHANNELS = 512


@dataclass(frozen=True)
class View:
    """How one photo is shown to the trunk: its scale, and whether it is mirrored."""

    scale: float
    mirror: bool


def draw_views(rng: np.random.Generator, count: int, scales: tuple[float, float]) -> list[View]:
    """``count`` views of a photo: first as it is, then mirrored and plain by turns at random log-uniform
    scales."""
    low, high = np.log(scales[0]), np.log(scales[1])
    later = [View(float(np.exp(rng.uniform(low, high))), i % 2 == 0) for i in range(count - 1)]
    return [View(1.0, False), *later]


class FeatureCache:
    """pool4 features and stride-8 targets of all views, in one memory-mapped file beside its table of
    contents."""

    def __init__(self, folder: Path):
        self.sizes = [tuple(size) for size in json.loads((folder / "views.json").read_text())["sizes"]]
        positions = [h * w for h, w in self.sizes]
        self.starts = np.concatenate([[0], np.cumsum(positions)])
        self.features = np.memmap(
            folder / "pool4.bf16", np.int16, "r", shape=(int(self.starts[-1]), CHANNELS)
        )
        self.targets = np.load(folder / "targets.npy")

    def __len__(self) -> int:
        return len(self.sizes)

    def crop(self, index: int, size: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """A random window of one view: features (512, size, size) bf16 and targets (size, size) uint8."""
        height, width = self.sizes[index]
        span = slice(self.starts[index], self.starts[index + 1])
        top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
        window = (slice(top, top + size), slice(left, left + size))
        features = self.features[span].reshape(height, width, CHANNELS)[window].copy()
        targets = self.targets[span].reshape(height, width)[window].copy()
        return torch.from_numpy(features).view(torch.bfloat16).permute(2, 0, 1), torch.from_numpy(targets)


class CachedBatches:
    """Batches of windows of cached views, in the order of ``batches.draws``.

    Args:
        caches: one or two; the second gives ``extra`` places of each batch.
        crop: side of a window in pixels of the photo, 8m + 1.
    """

    def __init__(self, caches: Sequence[FeatureCache], *, crop: int, batch: int, extra: int, seed: int):
        self._caches, self._size = caches, (crop - 1) // OUTPUT_STRIDE + 1
        self._batch, self._extra, self._seed = batch, extra, seed

    def from_step(self, step: int) -> Iterator[Example]:
        """Features (B, 512, h, w) bf16 and targets (B, h, w) uint8 from a step on, without end."""
        while True:
            chosen = draws(step, self._batch, [len(cache) for cache in self._caches], self._extra, self._seed)
            crops = [
                self._caches[draw.source].crop(draw.index, self._size, np.random.default_rng(draw.seed))
                for draw in chosen
            ]
            yield (
                torch.stack([features for features, _ in crops]),
                torch.stack([targets for _, targets in crops]),
            )
            step += 1


def fill(
    folder: Path,
    network: DeepLab,
    pairs: Sequence[Sample],
    *,
    preparation: Preparation,
    views: int,
    scales: tuple[float, float],
    crop: int,
    seed: int,
) -> None:
    """Write the cache of all pairs; its table of contents comes last, so a cache without one is not
    complete."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    sizes: list[tuple[int, int]] = []
    targets: list[np.ndarray] = []
    with open(folder / "pool4.bf16", "wb") as file, torch.inference_mode():
        for pair in tqdm(pairs, desc="pool4 features", unit="photo"):
            photo, labels = pair.read_photo(), pair.read_labels()
            for view in draw_views(rng, views, scales):
                batch, target = _show(photo, labels, view, preparation, crop)
                with torch.autocast("cpu", torch.bfloat16):
                    features = network.pool4(batch.contiguous(memory_format=torch.channels_last))
                rows = features[0].permute(1, 2, 0).to(torch.bfloat16).contiguous()
                file.write(rows.view(torch.int16).numpy().tobytes())
                sizes.append((rows.shape[0], rows.shape[1]))
                targets.append(target.ravel())
    np.save(folder / "targets.npy", np.concatenate(targets))
    (folder / "views.json").write_text(json.dumps({"sizes": sizes}))


def _show(
    photo: np.ndarray, labels: np.ndarray, view: View, preparation: Preparation, crop: int
) -> tuple[torch.Tensor, np.ndarray]:
    """One view as a prepared batch (1, 3, H, W), and its targets at every 8th pixel."""
    photo, labels = resized(photo, labels, view.scale)
    if view.mirror:
        photo, labels = photo[:, ::-1], labels[:, ::-1]
    batch = pad_to_stride(prepare(photo, preparation), min_size=crop)
    height, width = batch.shape[-2:]
    padded = np.full((height, width), IGNORE, np.uint8)
    padded[: labels.shape[0], : labels.shape[1]] = labels
    return batch, padded[
        ::OUTPUT_STRIDE, ::OUTPUT_STRIDE
    ]  # every 8th pixel: class ids are never interpolated
