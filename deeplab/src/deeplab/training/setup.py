"""What a recipe trains on: the data it names, the network it starts from, and the batches that come of
them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from deeplab.classes import IGNORE, WELL_POPULATED
from deeplab.datasets.opening import Dataset, Sample, open_dataset
from deeplab.files import write_whole
from deeplab.model.loading import shipped
from deeplab.network.architecture import DeepLab, build
from deeplab.network.preprocessing import Preparation
from deeplab.training.augmentation import Augmentation
from deeplab.training.batches import Batches, Example
from deeplab.training.distillation import Teacher
from deeplab.training.feature_cache import CachedBatches, FeatureCache, fill
from deeplab.training.memory_batches import MemoryBatches, PhotoStore
from deeplab.training.recipe import Recipe
from deeplab.weights.class_replacement import replace_classes
from deeplab.weights.conversion import convert
from deeplab.weights.hub import IMAGENET_FILE, IMAGENET_REPOSITORY, fetch
from deeplab.weights.store import LONGEST_SIDE, card_path, load_weights

MOST_HEADS = 1000  # of photos' files that are read to learn their size
CACHED_LAYERS = ("conv1", "conv2", "conv3", "conv4")


class Source(Protocol):
    """Where batches come from."""

    def from_step(self, step: int) -> Iterator[Example]:
        """Batches from a step on, without end."""
        ...


@dataclass
class TrainingSetup:
    """All that a run needs to begin."""

    network: DeepLab
    preparation: Preparation
    class_names: tuple[str, ...]
    batches: Source
    val: Sequence[Sample]
    class_counts: np.ndarray
    """(K, 2) pixels of each class, and of the photos that have it; zeros where the recipe does not ask."""
    size: int
    """The card's."""
    provenance: dict[str, Any] = field(default_factory=dict)


def prepare_training(recipe: Recipe, out: Path, fabric: Any) -> TrainingSetup:
    """Open the data, build the network from the recipe's ``init``, and line up this process's share of the
    batches.

    Raises:
        FileNotFoundError, ValueError: for data or weights that cannot be used.
    """
    train, val = (open_dataset(recipe.data, split) for split in (recipe.train_split, recipe.val_split))
    sources: list[Dataset] = [train]
    if recipe.extra_data:
        sources.append(open_dataset(recipe.extra_data, recipe.extra_split))
    for other in (val, *sources[1:]):
        if other.class_names != train.class_names:
            raise ValueError(
                f"got classes {', '.join(other.class_names)} in one part of the data and "
                f"{', '.join(train.class_names)} in another, wanted the same"
            )
    if recipe.score == "mIoU-7" and not set(WELL_POPULATED) <= set(train.class_names):
        raise ValueError(
            f"got score = 'mIoU-7', but the data lacks some of {', '.join(WELL_POPULATED)}; 'mIoU' works"
        )
    network, preparation, told = _start(recipe, train.class_names)
    if fabric.is_global_zero:
        tqdm.write(f"{recipe.variant} from {recipe.init or 'random numbers'}: {told}", file=sys.stderr)
    batches = _batches(recipe, out, fabric, sources, network, preparation)
    counts = np.zeros((len(train.class_names), 2), np.int64)
    if recipe.class_weights != "none":
        counts = _class_counts(out, train)
    provenance = {
        "data": " + ".join(
            f"{len(source)} pairs of {split}"
            for source, split in zip(sources, (recipe.train_split, recipe.extra_split), strict=False)
        ),
        "start": told,
    }
    return TrainingSetup(
        network, preparation, train.class_names, batches, val, counts, _size(recipe, sources), provenance
    )


def _start(recipe: Recipe, class_names: tuple[str, ...]) -> tuple[DeepLab, Preparation, str]:
    """The network before its first step, how its photos are prepared, and what there is to say of it."""
    torch.manual_seed(recipe.seed)
    fresh = build(recipe.variant, classes=len(class_names), dropout=recipe.dropout)
    if not recipe.init:
        return fresh, Preparation(), "every layer random"
    path = fetch(IMAGENET_REPOSITORY, IMAGENET_FILE) if recipe.init == "imagenet" else Path(recipe.init)
    if recipe.init == "shipped":
        network, card = shipped()
        told = f"the package's weights of {card.variant}"
    elif path.suffix == ".safetensors" and card_path(path).is_file():
        network, card = load_weights(path)
        told = f"weights of {card.variant}"
    else:
        found = convert(path, recipe.variant, seed=recipe.seed)
        network, card, told = found.network, found.card, found.summary()
    if card.class_names != class_names:
        network, card, report = replace_classes(network, card, class_names)
        told = f"{told}; classes {report.summary()}"
    taken = {
        n: v
        for n, v in network.state_dict().items()
        if n in (own := fresh.state_dict()) and own[n].shape == v.shape
    }
    fresh.load_state_dict(taken, strict=False)
    random = sorted(
        {name.rpartition(".")[0] for name in fresh.state_dict()} - {n.rpartition(".")[0] for n in taken}
    )
    return fresh, card.preparation, f"{told}; not in the file: {', '.join(random)}" if random else told


def _batches(
    recipe: Recipe, out: Path, fabric: Any, sources: list[Dataset], network: DeepLab, preparation: Preparation
) -> Source:
    extra = round(recipe.extra_share * recipe.batch) if len(sources) > 1 else 0
    if recipe.teacher and recipe.cached_views:
        raise ValueError(
            "got a teacher and cached_views; soft targets need photos, so wanted cached_views = 0"
        )
    if recipe.cached_views:
        if (
            fabric.world_size > 1
            or network.variant.multi_scale
            or not set(CACHED_LAYERS) <= set(recipe.frozen)
        ):
            raise ValueError(
                f"cached_views = {recipe.cached_views} needs one process, a variant without branches, and "
                f"frozen = {', '.join(CACHED_LAYERS)} (conv5 may learn)"
            )
        caches = []
        for number, source in enumerate(sources):
            folder = out / f"cache-{number}"
            if not (folder / "views.json").is_file():
                fill(
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
        return CachedBatches(caches, crop=recipe.crop, batch=recipe.batch, extra=extra, seed=recipe.seed)
    share = recipe.batch // fabric.world_size
    how = Augmentation(recipe.crop, recipe.mirror, recipe.scale_low, recipe.scale_high, recipe.jitter)
    names = [pair.name for source in sources for pair in source]
    classes, places = (
        len(sources[0].class_names),
        slice(fabric.global_rank * share, (fabric.global_rank + 1) * share),
    )
    teacher = Teacher(recipe.teacher, classes, names) if recipe.teacher else None
    if recipe.in_memory:
        store = PhotoStore(
            sources, side=recipe.memory_side, device=fabric.device, workers=recipe.workers, on_problem=_note
        )
        return MemoryBatches(
            store,
            network.variant,
            preparation,
            how,
            classes=classes,
            batch=recipe.batch,
            extra=extra,
            places=places,
            seed=recipe.seed,
            teacher=teacher,
            mix=recipe.mix,
        )
    return Batches(
        sources,
        network.variant,
        preparation,
        how,
        batch=recipe.batch,
        extra=extra,
        places=places,
        seed=recipe.seed,
        workers=recipe.workers,
        complain=_note,
        teacher=teacher,
    )


def _size(recipe: Recipe, sources: Sequence[Dataset]) -> int:
    """The longest side of the photos as the network sees them in training, at least LONGEST_SIDE.

    Larger photos are then reduced to what is known. Of many photos, some at equal distances are looked at.
    """
    sides = [0]
    for source in sources:
        for place in np.unique(np.linspace(0, len(source) - 1, min(len(source), MOST_HEADS)).astype(int)):
            try:
                with Image.open(source[int(place)].photo) as photo:
                    sides.append(max(photo.size))
            except Exception:  # a damaged one is told of by whoever decodes it
                continue
    longest = min(max(sides), recipe.memory_side) if recipe.in_memory and recipe.memory_side else max(sides)
    return max(longest, LONGEST_SIDE)


def _note(line: str) -> None:
    tqdm.write(f"deeplab: note: {line}", file=sys.stderr)


def _class_counts(out: Path, train: Dataset) -> np.ndarray:
    """Pixels by class over all labels; kept in the run's folder."""
    path, classes = out / "class-counts.json", len(train.class_names)
    if path.is_file():
        return np.array(json.loads(path.read_text()), np.int64)
    counts = np.zeros((classes, 2), np.int64)
    for pair in tqdm(train, desc="count classes", unit="mask", disable=None):
        labels = pair.read_labels()
        pixels = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:classes]
        counts[:, 0] += pixels
        counts[:, 1] += (pixels > 0) * pixels.sum()
    write_whole(path, json.dumps(counts.tolist()))
    return counts
