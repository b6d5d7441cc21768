"""Features of the frozen lower trunk, computed once for each photo and kept on disk.

Stages 1 to 4 of VGG-16 take three quarters of the time of a training step and do not change while they are
frozen. So each photo is passed through them a few times ("views": mirrored and scaled copies), the pool4
features are written to one flat bf16 file, and training crops windows of features and labels out of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from deeplab.classes import IGNORE
from deeplab.datasets.opening import Sample
from deeplab.network.architecture import OUTPUT_STRIDE, DeepLab, Variant
from deeplab.network.preprocessing import Preparation, prepare
from deeplab.training.augmentation import resized
from deeplab.training.batches import Example, draw_batch

CHANNELS = 512
VIEWS_FILE = "views.json"
"""Table of contents; it is written last, so a cache without it is incomplete."""
FEATURES_FILE = "pool4.bf16"
TARGETS_FILE = "targets.npy"


@dataclass(frozen=True)
class View:
    """Scale and mirroring of one copy of a photo."""

    scale: float
    mirror: bool


def draw_views(rng: np.random.Generator, count: int, scales: tuple[float, float]) -> list[View]:
    """Draw the views of one photo: the photo itself, then mirrored and plain copies in turn.

    Args:
        rng: generator of the scales.
        count: number of views.
        scales: smallest and largest scale; scales are drawn log-uniformly.

    Returns:
        The views.
    """
    low, high = np.log(scales[0]), np.log(scales[1])
    later = [View(float(np.exp(rng.uniform(low, high))), i % 2 == 0) for i in range(count - 1)]
    return [View(1.0, False), *later]


class FeatureCache:
    """pool4 features and targets of all views, in memory-mapped files.

    Args:
        folder: folder that ``write_feature_cache`` has written.

    Raises:
        ValueError: if the files do not fit each other.
    """

    def __init__(self, folder: Path):
        self.sizes = [tuple(size) for size in json.loads((folder / VIEWS_FILE).read_text())["sizes"]]
        positions = [height * width for height, width in self.sizes]
        self.starts = np.concatenate([[0], np.cumsum(positions)])
        self.targets = np.load(folder / TARGETS_FILE)
        if len(self.targets) != self.starts[-1]:
            raise ValueError(
                f"{folder}: got features at {self.starts[-1]} positions and {len(self.targets)} targets, "
                "wanted one target for each position; remove the folder to compute them again"
            )
        shape = (len(self.targets), CHANNELS)
        self.features = np.memmap(folder / FEATURES_FILE, np.int16, "r", shape=shape)

    def __len__(self) -> int:
        return len(self.sizes)

    def crop(self, index: int, size: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut a random window out of one view.

        Args:
            index: number of the view.
            size: side of the window in positions of the feature map.
            rng: generator of the window's position.

        Returns:
            Features (512, size, size) bf16 and targets (size, size) uint8.
        """
        height, width = self.sizes[index]
        view = slice(self.starts[index], self.starts[index + 1])
        top = int(rng.integers(height - size + 1))
        left = int(rng.integers(width - size + 1))
        window = (slice(top, top + size), slice(left, left + size))
        features = self.features[view].reshape(height, width, CHANNELS)[window].copy()
        targets = self.targets[view].reshape(height, width)[window].copy()
        return torch.from_numpy(features).view(torch.bfloat16).permute(2, 0, 1), torch.from_numpy(targets)


class CachedBatches:
    """Batches of windows of cached views, in the order of ``batches.draw_batch``.

    Args:
        caches: one or two caches; the second fills ``extra`` slots of each batch.
        crop: side of a window in pixels of the photo; a legal crop of the variant.
        batch: windows a step.
        extra: number of slots that the second cache fills.
        seed: seed of the run.
    """

    def __init__(self, caches: Sequence[FeatureCache], *, crop: int, batch: int, extra: int, seed: int):
        self._caches = caches
        self._size = (crop - 1) // OUTPUT_STRIDE + 1
        self._batch = batch
        self._extra = extra
        self._seed = seed

    def from_step(self, step: int) -> Iterator[Example]:
        """Yield batches without end, beginning with that of a step.

        Args:
            step: step of the run, counted from zero.

        Yields:
            Features (B, 512, h, w) bf16 and targets (B, h, w) uint8.
        """
        sizes = [len(cache) for cache in self._caches]
        while True:
            windows = [
                self._caches[draw.source].crop(draw.index, self._size, np.random.default_rng(draw.seed))
                for draw in draw_batch(step, self._batch, sizes, self._extra, self._seed)
            ]
            features, targets = zip(*windows, strict=True)
            yield torch.stack(features), torch.stack(targets)
            step += 1


@torch.inference_mode()
def write_feature_cache(
    folder: Path,
    network: DeepLab,
    samples: Sequence[Sample],
    *,
    preparation: Preparation,
    views: int,
    scales: tuple[float, float],
    crop: int,
    seed: int,
) -> None:
    """Compute and write the features and targets of all views.

    Args:
        folder: folder to write.
        network: the network whose lower trunk is frozen; it is put into training mode.
        samples: photos with labels.
        preparation: channel order, mean and scale that belong to the weights.
        views: number of views of each photo.
        scales: smallest and largest scale of a view.
        crop: side of a training crop in pixels; smaller views are padded to it.
        seed: seed of the scales.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    network.train()  # pools of the plain variants pad differently in training and in testing
    sizes: list[tuple[int, int]] = []
    targets: list[np.ndarray] = []
    with open(folder / FEATURES_FILE, "wb") as file:
        for sample in tqdm(samples, desc="pool4 features", unit="photo"):
            photo = sample.read_photo()
            labels = sample.read_labels()
            for view in draw_views(rng, views, scales):
                batch, view_targets = _prepared(photo, labels, view, preparation, network.variant, crop)
                with torch.autocast("cpu", torch.bfloat16):
                    features = network.pool4(batch.contiguous(memory_format=torch.channels_last))
                rows = features[0].permute(1, 2, 0).to(torch.bfloat16).contiguous()
                assert rows.shape[:2] == view_targets.shape
                file.write(rows.view(torch.int16).numpy().tobytes())
                sizes.append((rows.shape[0], rows.shape[1]))
                targets.append(view_targets.ravel())
    np.save(folder / TARGETS_FILE, np.concatenate(targets))
    (folder / VIEWS_FILE).write_text(json.dumps({"sizes": sizes}))


def _prepared(
    photo: np.ndarray, labels: np.ndarray, view: View, preparation: Preparation, variant: Variant, crop: int
) -> tuple[torch.Tensor, np.ndarray]:
    """One view as a prepared batch (1, 3, H, W) of legal crop size, and its targets (h, w)."""
    photo, labels = resized(photo, labels, view.scale)
    if view.mirror:
        photo = photo[:, ::-1]
        labels = labels[:, ::-1]
    bottom, right = (variant.legal_crop(max(length, crop)) - length for length in labels.shape)
    batch = F.pad(prepare(photo, preparation), (0, right, 0, bottom))  # zero is the mean colour
    padded = np.pad(labels, ((0, bottom), (0, right)), constant_values=IGNORE)
    first = variant.first_target
    return batch, padded[first::OUTPUT_STRIDE, first::OUTPUT_STRIDE]  # class ids are never interpolated
