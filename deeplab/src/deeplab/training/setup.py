"""Preparation of a training run: open the data, build the network, and set up the batches."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from deeplab.classes import IGNORE, WELL_POPULATED
from deeplab.datasets.label_scan import usable
from deeplab.datasets.opening import Dataset, Sample, open_dataset
from deeplab.files import write_whole
from deeplab.network.architecture import DeepLab
from deeplab.network.preprocessing import Preparation
from deeplab.training.batch_source import BatchSource, make_batches, warn
from deeplab.training.initial_network import initial_network
from deeplab.training.recipe import Recipe

MAX_SIZES_READ = 1000
"""Largest number of photos of a data set that are opened to learn their size."""


@dataclass(frozen=True)
class TrainingSetup:
    """Everything that a run needs to begin."""

    network: DeepLab
    """The network before its first step."""
    preparation: Preparation
    """Channel order, mean and scale that belong to its weights."""
    class_names: tuple[str, ...]
    """K class names in the order of their ids."""
    batches: BatchSource
    """This process's share of the batches."""
    val: Sequence[Sample]
    """Photos to validate on."""
    class_counts: np.ndarray
    """(K, 2) pixels of each class, and of the photos that have it; zeros if the recipe does not use them."""
    crf: dict[str, Any]
    """CRF parameters for the card of the trained weights."""
    size: int
    """Largest side of photos for the card of the trained weights, in pixels; 0 for full size."""
    provenance: dict[str, Any]
    """Data and initial weights, for the card."""


def prepare_training(recipe: Recipe, out: Path, fabric: Any) -> TrainingSetup:
    """Open the data, build the network from the recipe's ``init``, and set up this process's batches.

    Args:
        recipe: the recipe of the run.
        out: folder of the run, for cached features and class counts.
        fabric: Fabric of this process.

    Returns:
        The setup.

    Raises:
        FileNotFoundError: if data or weights are missing.
        ValueError: if data or weights cannot be used.
    """
    train = _open(recipe, fabric, recipe.data, recipe.train_split, is_learnt=True)
    val = _open(recipe, fabric, recipe.data, recipe.val_split, photos="decoded", count=recipe.validate_photos)
    sources = [train]
    if recipe.extra_data:
        sources.append(_open(recipe, fabric, recipe.extra_data, recipe.extra_split))
    _validate_classes(recipe, train, [val, *sources[1:]])
    initial = initial_network(recipe, train.class_names)
    if fabric.is_global_zero:
        init = recipe.init or "random numbers"
        tqdm.write(f"{recipe.variant} from {init}: {initial.summary}", file=sys.stderr)
    splits = (recipe.train_split, recipe.extra_split)
    samples = [f"{len(source)} samples of {split}" for source, split in zip(sources, splits, strict=False)]
    return TrainingSetup(
        network=initial.network,
        preparation=initial.preparation,
        class_names=train.class_names,
        batches=make_batches(recipe, out, fabric, sources, initial.network, initial.preparation),
        val=val,
        class_counts=_class_counts(recipe, out, train),
        crf=initial.crf,
        size=_card_size(recipe, sources, initial.size),
        provenance={"data": " + ".join(samples), "start": initial.summary},
    )


def _open(recipe: Recipe, fabric: Any, folder: str, split: str, *, count: int = 0, **how: Any) -> Dataset:
    """Open a split without the samples that cannot be used, which are noted; ``how``: as in ``usable``.

    ``count`` is the number of samples, 0 for all.
    """
    dataset = open_dataset(folder, split, binary=recipe.binary, line_width=recipe.line_width)
    dataset = replace(dataset, samples=dataset.samples[: count or None])
    on_problem = warn if fabric.is_global_zero else lambda message: None
    return usable(dataset, f"{folder}, split {split}", on_problem=on_problem, **how)


def _validate_classes(recipe: Recipe, train: Dataset, others: Sequence[Dataset]) -> None:
    """ValueError if the parts of the data differ in their classes, or the score needs other classes."""
    for other in others:
        if other.class_names != train.class_names:
            raise ValueError(
                f"got classes {', '.join(other.class_names)} in one part of the data and "
                f"{', '.join(train.class_names)} in another, wanted the same"
            )
    if recipe.score == "mIoU-7" and not set(WELL_POPULATED) <= set(train.class_names):
        raise ValueError(
            f"got score = 'mIoU-7', but the data lacks some of {', '.join(WELL_POPULATED)}; 'mIoU' works"
        )


def _card_size(recipe: Recipe, sources: Sequence[Dataset], initial_size: int) -> int:
    """Largest side at which the trained network is used: that of its initial weights or of its photos.

    Args:
        recipe: says whether photos were reduced.
        sources: the photos; of a large data set, only some at equal distances are opened.
        initial_size: size on the card of the initial weights; 0 for full size.

    Returns:
        Pixels, or 0 for full size.
    """
    if initial_size == 0:
        return 0
    sides = [0]
    for source in sources:
        count = min(len(source), MAX_SIZES_READ)
        for index in np.unique(np.linspace(0, len(source) - 1, count).astype(int)):
            try:
                with Image.open(source[int(index)].photo) as photo:
                    sides.append(max(photo.size))
            except Exception:  # damaged photos are reported by the loader
                continue
    longest = max(sides)
    if recipe.in_memory:
        longest = min(longest, recipe.memory_side)
    return max(longest, initial_size)


def _class_counts(recipe: Recipe, out: Path, train: Dataset) -> np.ndarray:
    """Pixels of each class over all labels, stored in the run's folder; zeros without class weights."""
    classes = len(train.class_names)
    counts = np.zeros((classes, 2), np.int64)
    if recipe.class_weights == "none":
        return counts
    path = out / "class-counts.json"
    if path.is_file():
        return np.array(json.loads(path.read_text()), np.int64)
    for sample in tqdm(train, desc="count classes", unit="mask", disable=None):
        labels = sample.read_labels()
        pixels = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:classes]
        counts[:, 0] += pixels
        counts[:, 1] += (pixels > 0) * pixels.sum()
    write_whole(path, json.dumps(counts.tolist()))
    return counts
