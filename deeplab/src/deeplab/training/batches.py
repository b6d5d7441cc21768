"""Endless batches of crops, read from files.

The seed and the step alone decide the order of the photos and every crop, so that a run can resume at any
step without saved state.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from deeplab.datasets.label_scan import too_many_bad
from deeplab.datasets.opening import Sample
from deeplab.network.architecture import OUTPUT_STRIDE, Variant
from deeplab.network.preprocessing import Preparation, prepare
from deeplab.training.augmentation import Augmentation, augment, draw_crop_window
from deeplab.training.distillation import Teacher

PREFETCH = 3
"""Batches that are prepared ahead of the training step."""

Example = tuple[torch.Tensor, ...]
"""Photos or features, targets, and the teacher's probabilities if there is a teacher."""


@dataclass(frozen=True)
class SampleDraw:
    """The photo of one slot of a batch, and the seed of its crop."""

    source: int
    """Number of the source, 0 or 1."""
    index: int
    """Index of the sample in that source."""
    seed: tuple[int, ...]


def draw_batch(step: int, batch: int, sizes: Sequence[int], extra: int, seed: int) -> list[SampleDraw]:
    """Draw the samples of one step's batch.

    Each source is traversed in a new random order in every epoch. The draws do not depend on the number of
    processes that share the batch.

    Args:
        step: step of the run, counted from zero.
        batch: crops a step over all processes.
        sizes: number of samples of each source.
        extra: number of slots, at the end of the batch, that the second source fills.
        seed: seed of the run.

    Returns:
        One draw for each slot.
    """
    drawn = []
    for slot in range(batch):
        source = int(slot >= batch - extra)
        slots_of_source = extra if source else batch - extra
        slot_in_source = slot - (batch - extra) if source else slot
        epoch, position = divmod(step * slots_of_source + slot_in_source, sizes[source])
        order = np.random.default_rng((seed, 1, source, epoch)).permutation(sizes[source])
        drawn.append(SampleDraw(source, int(order[position]), (seed, 2, step, slot)))
    return drawn


class Batches:
    """Reads, augments and prepares crops in threads, ahead of the steps that need them.

    Args:
        sources: one or two sequences of samples; the second fills ``extra`` slots of each batch.
        variant: the network, which decides where its targets lie.
        preparation: channel order, mean and scale that belong to the weights.
        augmentation: the random changes.
        batch: crops a step over all processes.
        extra: number of slots that the second source fills.
        slots: the slots of each batch that this process works on.
        seed: seed of the run.
        workers: number of threads.
        warn: called with one line for each photo that cannot be used; another photo takes its slot.
        teacher: source of soft targets.

    Raises:
        ValueError: if a source is empty.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Sample]],
        variant: Variant,
        preparation: Preparation,
        augmentation: Augmentation,
        *,
        batch: int,
        extra: int,
        slots: slice,
        seed: int,
        workers: int,
        warn: Callable[[str], None],
        teacher: Teacher | None = None,
    ):
        if not all(len(source) for source in sources):
            raise ValueError("got a split without photos, wanted at least one")
        self._sources = sources
        self._variant = variant
        self._preparation = preparation
        self._augmentation = augmentation
        self._batch = batch
        self._extra = extra
        self._slots = slots
        self._seed = seed
        self._workers = workers
        self._warn = warn
        self._teacher = teacher
        self._bad: set[str] = set()
        self._lock = threading.Lock()  # guards _bad, which all threads write
        mean = [round(level) for level in preparation.mean]
        red, green, blue = mean if preparation.channels == "RGB" else mean[::-1]
        self._fill = (red, green, blue)

    def from_step(self, step: int) -> Generator[Example, None, None]:
        """Yield batches without end, beginning with that of a step.

        Args:
            step: step of the run, counted from zero.

        Yields:
            Photos (b, 3, crop, crop) float32, targets (b, h, w) uint8, and probabilities (b, K, h, w) float32
            if there is a teacher.
        """
        sizes = [len(source) for source in self._sources]
        pending: deque[list[Future[Example]]] = deque()
        with ThreadPoolExecutor(self._workers, thread_name_prefix="photos") as pool:
            try:
                while True:
                    while len(pending) < PREFETCH:
                        drawn = draw_batch(step, self._batch, sizes, self._extra, self._seed)
                        pending.append([pool.submit(self._example, draw) for draw in drawn[self._slots]])
                        step += 1
                    examples = [future.result() for future in pending.popleft()]
                    yield tuple(torch.stack(parts) for parts in zip(*examples, strict=True))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _example(self, draw: SampleDraw) -> Example:
        """One crop with its targets, of the next photo that can be used."""
        samples = self._sources[draw.source]
        for offset in range(len(samples)):
            sample = samples[(draw.index + offset) % len(samples)]
            try:
                photo = sample.read_photo()
                labels = sample.read_labels()
                rng = np.random.default_rng(draw.seed)
                window = draw_crop_window(labels.shape, self._augmentation, rng)
                crop, ids = augment(photo, labels, self._augmentation, rng, self._fill, window)
            except (ValueError, OSError) as error:
                self._report_bad(sample.name, " ".join(str(error).split()))
                continue
            first = self._variant.first_target
            targets = torch.from_numpy(ids[first::OUTPUT_STRIDE, first::OUTPUT_STRIDE].copy())
            example = prepare(crop, self._preparation)[0], targets
            if self._teacher is None:
                return example
            return *example, self._teacher.targets(sample.name, window, first, len(targets))
        raise ValueError("not one photo of the split can be used; deeplab check-data names each problem")

    def _report_bad(self, name: str, reason: str) -> None:
        """Warn once of a photo that cannot be used; ValueError if there are too many of them."""
        with self._lock:
            is_known = name in self._bad
            self._bad.add(name)
        if too_many_bad(len(self._bad), sum(len(source) for source in self._sources)):
            raise ValueError(
                f"{name}: {reason}; {len(self._bad)} photos cannot be used by now, so the run stops: "
                "deeplab check-data names each problem"
            )
        if not is_known:
            self._warn(f"{name}: {reason}; another photo takes its place")
