"""The source of a run's batches: files, the device's memory, or cached features, as the recipe asks for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from deeplab.datasets.opening import Dataset
from deeplab.network.architecture import DeepLab
from deeplab.network.preprocessing import Preparation
from deeplab.training.augmentation import Augmentation
from deeplab.training.batches import Batches, Example
from deeplab.training.distillation import Teacher
from deeplab.training.feature_cache import VIEWS_FILE, CachedBatches, FeatureCache, write_feature_cache
from deeplab.training.memory_batches import MemoryBatches
from deeplab.training.photo_store import PhotoStore
from deeplab.training.recipe import Recipe

CACHED_LAYERS = ("conv1", "conv2", "conv3", "conv4")


class BatchSource(Protocol):
    """Anything that yields the batches of a run."""

    def from_step(self, step: int) -> Iterator[Example]:
        """Yield batches without end, beginning with that of a step."""
        ...


def make_batches(
    recipe: Recipe,
    out: Path,
    fabric: Any,
    sources: Sequence[Dataset],
    network: DeepLab,
    preparation: Preparation,
) -> BatchSource:
    """Set up this process's share of the batches.

    Args:
        recipe: the recipe of the run.
        out: folder of the run, for cached features.
        fabric: Fabric of this process.
        sources: the data, and the extra data if there is any.
        network: the network before its first step.
        preparation: channel order, mean and scale that belong to its weights.

    Returns:
        The source of the batches.

    Raises:
        FileNotFoundError: if a teacher's file does not exist.
        ValueError: if the recipe does not fit the network or the number of processes, or the data cannot be
            used.
    """
    extra = round(recipe.extra_share * recipe.batch) if len(sources) > 1 else 0
    if recipe.cached_views:
        _validate_cached_views(recipe, fabric.world_size, network)
        caches = _feature_caches(recipe, out, sources, network, preparation)
        return CachedBatches(caches, crop=recipe.crop, batch=recipe.batch, extra=extra, seed=recipe.seed)
    share = recipe.batch // fabric.world_size
    slots = slice(fabric.global_rank * share, (fabric.global_rank + 1) * share)
    augmentation = Augmentation(
        recipe.crop, recipe.mirror, recipe.scale_low, recipe.scale_high, recipe.jitter
    )
    classes = len(sources[0].class_names)
    names = [sample.name for source in sources for sample in source]
    teacher = Teacher(recipe.teacher, classes, names) if recipe.teacher else None
    common: dict[str, Any] = {
        "batch": recipe.batch,
        "extra": extra,
        "slots": slots,
        "seed": recipe.seed,
        "teacher": teacher,
    }
    variant = network.variant
    if recipe.in_memory:
        store = PhotoStore(
            sources, side=recipe.memory_side, device=fabric.device, workers=recipe.workers, on_problem=warn
        )
        return MemoryBatches(
            store, variant, preparation, augmentation, classes=classes, mix=recipe.mix, **common
        )
    return Batches(sources, variant, preparation, augmentation, workers=recipe.workers, warn=warn, **common)


def warn(message: str) -> None:
    """Print one line to the error stream, above a progress bar if there is one."""
    tqdm.write(f"deeplab: note: {message}", file=sys.stderr)


def _validate_cached_views(recipe: Recipe, processes: int, network: DeepLab) -> None:
    is_frozen = set(CACHED_LAYERS) <= set(recipe.frozen)
    if processes > 1 or network.variant.multi_scale or not is_frozen:
        raise ValueError(
            f"cached_views = {recipe.cached_views} needs one process, a variant without branches, and "
            f"frozen = {', '.join(CACHED_LAYERS)} (conv5 may learn)"
        )


def _feature_caches(
    recipe: Recipe, out: Path, sources: Sequence[Dataset], network: DeepLab, preparation: Preparation
) -> list[FeatureCache]:
    """The features of each source, computed if the run's folder does not have them yet."""
    caches = []
    for number, source in enumerate(sources):
        folder = out / f"cache-{number}"
        if not (folder / VIEWS_FILE).is_file():
            write_feature_cache(
                folder,
                network,
                source,
                preparation=preparation,
                views=recipe.cached_views,
                scales=(recipe.scale_low, recipe.scale_high),
                crop=recipe.crop,
                seed=recipe.seed + number,
            )
        caches.append(FeatureCache(folder))
    return caches
