"""Batches from photos that were decoded once into the device's memory: crops, colours and mixing are made
there.

For a GPU, which trains faster than a processor decodes JPEG files. Photo, scale, place and mirroring of a
crop are drawn exactly as ``deeplab.training.batches`` draws them, from recipe and step alone, so a run can go
on from any step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from deeplab.classes import IGNORE
from deeplab.datasets.opening import Sample
from deeplab.network.architecture import OUTPUT_STRIDE, Variant
from deeplab.network.preprocessing import Preparation
from deeplab.photos import resize_photo
from deeplab.training.augmentation import Augmentation, Place, draw_factors, draw_place
from deeplab.training.batches import AHEAD, BAD_SHARE, Example, draws
from deeplab.training.distillation import Teacher

MIX_SEED = 3  # beside the seeds 1 and 2 of orders and crops in ``deeplab.training.batches.draws``


@dataclass(frozen=True)
class _Plan:
    """What is drawn for one batch before any pixel is touched."""

    index: list[int]
    places: list[Place]
    factors: np.ndarray
    """(B, 3) brightness, contrast and saturation."""
    class_ranks: np.ndarray
    """(B, K) random numbers that say which of a partner's classes are pasted."""
    mixed: np.ndarray
    """(B,) whether something is pasted."""


class PhotoStore:
    """Photos and label maps of all sources, decoded, in one tensor each.

    Args:
        sources: one or two sequences of pairs.
        side: larger photos are resized so that their longer side has this many pixels.
        device: where they are kept; each takes ``4 · side²`` bytes.
        workers: threads that decode.
        on_problem: called with one line for each photo that cannot be used; another takes its place.

    Raises:
        ValueError: if a source is empty or more than 1 % of the photos cannot be used.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Sample]],
        *,
        side: int,
        device: torch.device,
        workers: int,
        on_problem: Callable[[str], None],
    ):
        if not all(len(source) for source in sources):
            raise ValueError("got a split without photos, wanted at least one")
        unique: dict[tuple[int, str], Sample] = {}  # a list may name a photo more than once
        for number, source in enumerate(sources):
            for pair in source:
                unique.setdefault((number, pair.name), pair)
        self.photos = torch.zeros((len(unique), 3, side, side), dtype=torch.uint8, device=device)
        self.labels = torch.full((len(unique), side, side), IGNORE, dtype=torch.uint8, device=device)
        self.sizes: list[tuple[int, int]] = [(0, 0)] * len(unique)
        """(H, W) in the store; (0, 0) of a photo that cannot be used."""
        self.original_sizes: list[tuple[int, int]] = [(0, 0)] * len(unique)
        self.names = [name for _, name in unique]
        places = {key: place for place, key in enumerate(unique)}
        self.rows = [[places[number, pair.name] for pair in source] for number, source in enumerate(sources)]
        """For each source, where its pairs are in the tensors."""
        problems = 0
        with ThreadPoolExecutor(workers, thread_name_prefix="photos") as pool:
            found = pool.map(lambda pair: _decoded(pair, side), unique.values())
            for place, result in enumerate(
                tqdm(found, total=len(unique), desc="decode", unit="photo", disable=None)
            ):
                if isinstance(result, str):
                    problems += 1
                    on_problem(f"{self.names[place]}: {result}; another photo takes its place")
                    if problems > max(3, BAD_SHARE * len(unique)):
                        raise ValueError(
                            f"{self.names[place]}: {result}; {problems} photos cannot be used by now, so the run "
                            "stops: deeplab check-data names each problem"
                        )
                    continue
                photo, labels, size = result
                height, width = labels.shape
                self.photos[place, :, :height, :width] = torch.from_numpy(photo.copy()).permute(2, 0, 1)
                self.labels[place, :height, :width] = torch.from_numpy(labels.copy())
                self.sizes[place], self.original_sizes[place] = (height, width), size
        self._require_photos()

    def usable(self, source: int, index: int) -> int:
        """Where the pair of that index is in the tensors; where it cannot be used, the next one of its
        source."""
        rows = self.rows[source]
        for offset in range(len(rows)):
            place = rows[(index + offset) % len(rows)]
            if self.sizes[place] != (0, 0):
                return place
        raise AssertionError("a source without one usable photo is refused at the start")

    def _require_photos(self) -> None:
        for rows in self.rows:
            if not any(self.sizes[place] != (0, 0) for place in rows):
                raise ValueError(
                    "not one photo of the split can be used; deeplab check-data names each problem"
                )


def _decoded(pair: Sample, side: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]] | str:
    """Photo, labels and the photo's own (H, W); or why it cannot be used."""
    try:
        photo, labels = pair.read_photo(), pair.read_labels()
    except (ValueError, OSError) as error:
        return " ".join(str(error).split())
    size = labels.shape[0], labels.shape[1]
    if photo.shape[:2] != size:
        return f"got a photo {photo.shape[:2]} and labels {size}, wanted one size"
    if max(size) > side:
        height, width = (max(1, round(length * side / max(size))) for length in size)
        photo = resize_photo(photo, (height, width))
        labels = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
    return photo, labels, size


class MemoryBatches:
    """Augmented, prepared batches made on the device that holds the photos.

    Args:
        store: the photos.
        variant: whose targets are wanted.
        preparation: what the network's weights were trained to see.
        how: scale, crop, mirroring and colours.
        classes: K.
        batch: crops a step, over all processes.
        extra: of them, from the second source.
        places: which of them this process works on.
        seed: decides all draws.
        teacher: gives soft targets, too.
        mix: probability that a crop gets half of the classes of another crop of its batch pasted into it.

    Source: "ClassMix" (arXiv 2007.07936), section 3.2, with labels instead of predictions.
    """

    def __init__(
        self,
        store: PhotoStore,
        variant: Variant,
        preparation: Preparation,
        how: Augmentation,
        *,
        classes: int,
        batch: int,
        extra: int,
        places: slice,
        seed: int,
        teacher: Teacher | None = None,
        mix: float = 0.0,
    ):
        self._store, self._how, self._classes, self._mix = store, how, classes, mix
        self._batch, self._extra, self._places, self._seed = batch, extra, places, seed
        self._first = variant.first_target
        self._teacher = (
            None if teacher is None else teacher.on(store.photos.device, store.names, store.original_sizes)
        )
        device = store.photos.device
        self._mean, self._scale = (
            torch.tensor(values, device=device)[:, None, None]
            for values in (preparation.mean, preparation.scale)
        )
        self._reversed = preparation.channels == "BGR"

    def from_step(self, step: int) -> Generator[Example, None, None]:
        """Batches from a step on: (b, 3, crop, crop) float32, targets (b, h, w) uint8, (b, K, h, w) of a
        teacher."""
        waiting: deque[Future[_Plan]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="draws") as pool:
            try:
                while True:
                    while len(waiting) < AHEAD:
                        waiting.append(pool.submit(self._plan, step))
                        step += 1
                    yield self._example(waiting.popleft().result())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _plan(self, step: int) -> _Plan:
        sizes = [len(rows) for rows in self._store.rows]
        index, places, factors = [], [], []
        for draw in draws(step, self._batch, sizes, self._extra, self._seed)[self._places]:
            rng = np.random.default_rng(draw.seed)
            index.append(self._store.usable(draw.source, draw.index))
            places.append(draw_place(self._store.sizes[index[-1]], self._how, rng))
            factors.append(draw_factors(self._how.jitter, rng))
        rng = np.random.default_rng((self._seed, MIX_SEED, step))
        ranks = rng.random((self._batch, self._classes), np.float32)[self._places]
        mixed = rng.random(self._batch)[self._places] < self._mix
        return _Plan(index, places, np.array(factors, np.float32), ranks, mixed & (len(index) > 1))

    @torch.no_grad()
    def _example(self, plan: _Plan) -> Example:
        store, crop = self._store, self._how.crop
        device = store.photos.device
        index = torch.tensor(plan.index, device=device)
        where = _Positions.of(plan.places, crop, device)
        levels = _cut(store.photos[index], where)
        if self._how.jitter > 0:
            levels = _jittered(levels, where.inside(), torch.from_numpy(plan.factors).to(device))
        targets_at = slice(self._first, None, OUTPUT_STRIDE)
        count = len(range(crop)[targets_at])
        soft = None
        if self._teacher is not None:
            soft = self._teacher.targets(index, plan.places, self._first, count)
        if plan.mixed.any():
            labels = where.labels(store.labels, index)
            pasted = _pasted(labels, torch.from_numpy(plan.class_ranks).to(device))
            pasted &= torch.from_numpy(plan.mixed).to(device)[:, None, None]
            other = torch.arange(len(index), device=device).roll(-1)
            levels = torch.where(pasted[:, None], levels[other], levels)
            visible = where.inside() | pasted
            small = pasted[:, targets_at, targets_at]
            targets = torch.where(pasted, labels[other], labels)[:, targets_at, targets_at].contiguous()
            if soft is not None:
                soft = torch.where(small[:, None], soft[other], soft)
        else:
            visible = where.inside()
            targets = where.labels(store.labels, index, targets_at)
        batch = levels.flip(1) if self._reversed else levels
        batch = (batch - self._mean) * self._scale * visible[:, None]  # padding is the mean colour, so zero
        return (batch, targets) if soft is None else (batch, targets, soft)


@dataclass(frozen=True)
class _Positions:
    """Where in its photo each pixel of a crop comes from: rows and columns (B, crop) in pixels of the stored
    photo."""

    rows: torch.Tensor
    columns: torch.Tensor
    sizes: torch.Tensor
    """(B, 2) height and width of the stored photo."""
    spread: torch.Tensor
    """(B, 2) how much a resized pixel is wider than one of the photo, in pixels; 0 where it is not."""
    rows_inside: torch.Tensor
    columns_inside: torch.Tensor

    @classmethod
    def of(cls, places: Sequence[Place], crop: int, device: torch.device) -> _Positions:
        numbers = [
            (*place.size, *place.scaled, place.top, place.left, place.height, place.width, place.mirror)
            for place in places
        ]
        table = torch.tensor(numbers, dtype=torch.float64).to(device)
        size, scaled, start, shown = (table[:, 2 * part : 2 * part + 2] for part in range(4))
        mirror = table[:, 8:9].bool()
        at = torch.arange(crop, device=device, dtype=torch.float64)[None]
        across = torch.where(mirror, shown[:, 1:] - 1 - at, at)
        lines = [
            (line + start[:, axis : axis + 1] + 0.5) * (size / scaled)[:, axis : axis + 1] - 0.5
            for axis, line in enumerate((at, across))
        ]
        spread = (size / scaled - 1).clamp(min=0).float()
        return cls(lines[0], lines[1], size.long(), spread, at < shown[:, :1], at < shown[:, 1:])

    def inside(self) -> torch.Tensor:
        """(B, crop, crop) bool: where a crop shows its photo, not padding."""
        return self.rows_inside[:, :, None] & self.columns_inside[:, None, :]

    def labels(self, stored: torch.Tensor, index: torch.Tensor, at: slice = slice(None)) -> torch.Tensor:
        """(B, h, w) uint8 labels of the nearest pixels, 255 in the padding."""
        lines = [
            (line[:, at] + 0.5).floor().long().clamp(min=0).minimum(self.sizes[:, axis : axis + 1] - 1)
            for axis, line in enumerate((self.rows, self.columns))
        ]
        found = stored[index[:, None, None], lines[0][:, :, None], lines[1][:, None, :]]
        inside = self.rows_inside[:, at, None] & self.columns_inside[:, None, at]
        return torch.where(inside, found, torch.full_like(found, IGNORE))


def _cut(photos: torch.Tensor, where: _Positions) -> torch.Tensor:
    """Crops (B, 3, crop, crop) float32 of photos (B, 3, S, S) uint8: bilinear, and the mean of four where
    shrunk."""
    side = photos.shape[-1]
    levels = photos.float()
    last = (where.sizes - 1).float()
    total: torch.Tensor | None = None
    shrunk = bool((where.spread > 0).any())
    signs = (-0.5, 0.5) if shrunk else (0.0,)
    for down in signs:
        for right in signs:
            rows = (where.rows.float() + down * where.spread[:, :1]).clamp(min=0).minimum(last[:, :1])
            columns = (where.columns.float() + right * where.spread[:, 1:]).clamp(min=0).minimum(last[:, 1:])
            y, x = ((line + 0.5) * (2 / side) - 1 for line in (rows, columns))
            shape = (len(photos), y.shape[1], x.shape[1])
            grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), dim=-1)
            found = F.grid_sample(levels, grid, mode="bilinear", padding_mode="border", align_corners=False)
            total = found if total is None else total.add_(found)
    assert total is not None
    return total / len(signs) ** 2


def _jittered(levels: torch.Tensor, inside: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast about the mean grey, and saturation, as
    ``deeplab.training.augmentation.jittered``, of a batch."""
    brightness, contrast, saturation = (factors[:, n, None, None, None] for n in range(3))
    levels = levels * brightness
    shown = inside[:, None]
    mean = (levels * shown).sum((1, 2, 3), keepdim=True) / (3 * shown.sum((1, 2, 3), keepdim=True))
    levels = mean + contrast * (levels - mean)
    weights = torch.tensor([0.299, 0.587, 0.114], device=levels.device)
    grey = (levels * weights[:, None, None]).sum(1, keepdim=True)
    return (grey + saturation * (levels - grey)).clamp(0, 255)


def _pasted(labels: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """(B, H, W) bool: where a crop gets pixels of the next one, those of half of its classes other than
    background."""
    batch, classes = ranks.shape
    flat = labels.reshape(batch, -1).long()
    present = torch.zeros((batch, IGNORE + 1), dtype=torch.bool, device=labels.device)
    present = present.scatter(1, flat, True)[:, :classes].clone()
    present[:, 0] = False
    order = (
        torch.where(present, ranks, torch.full_like(ranks, 2)).argsort(1).argsort(1)
    )  # the absent come last
    chosen = present & (order < ((present.sum(1, keepdim=True) + 1) // 2))
    table = torch.cat((chosen, chosen.new_zeros(batch, IGNORE + 1 - classes)), dim=1)
    return table.gather(1, flat).view(labels.shape).roll(-1, 0)
