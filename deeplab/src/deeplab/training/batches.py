"""Batches of crops without end, in an order that recipe and step alone decide: nothing has to be saved to go
on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from deeplab.datasets.opening import Sample
from deeplab.network.architecture import OUTPUT_STRIDE, Variant
from deeplab.network.preprocessing import Preparation, prepare
from deeplab.training.augmentation import Augmentation, augment, draw_place
from deeplab.training.distillation import Teacher

AHEAD = 3  # batches that are read before they are asked for
BAD_SHARE = 0.01  # of the photos, that may be unreadable before the run stops

Example = tuple[torch.Tensor, ...]
"""Photos or features, targets, and a teacher's probabilities if there is one."""


@dataclass(frozen=True)
class Draw:
    """Which photo one place in a batch is of, and the seed of what happens to it."""

    source: int
    index: int
    seed: tuple[int, ...]


def draws(step: int, batch: int, sizes: Sequence[int], extra: int, seed: int) -> list[Draw]:
    """The places of one step's batch: ``extra`` of the second source at the end, all others of the first.

    Each source is gone through in a new random order each time round; no order depends on how many processes
    share the batch.
    """
    found = []
    for place in range(batch):
        source = int(place >= batch - extra)
        share = extra if source else batch - extra
        position = step * share + (place - (batch - extra) if source else place)
        rounds, index = divmod(position, sizes[source])
        order = np.random.default_rng((seed, 1, source, rounds)).permutation(sizes[source])
        found.append(Draw(source, int(order[index]), (seed, 2, step, place)))
    return found


class Batches:
    """Reads, augments and prepares crops in threads, ahead of the steps that need them.

    Args:
        sources: one or two sequences of pairs; the second gives ``extra`` places of each batch.
        places: which places of each step's batch this process works on.
        complain: told in one line of a photo that cannot be used; another takes its place.
        teacher: gives soft targets, too.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Sample]],
        variant: Variant,
        preparation: Preparation,
        how: Augmentation,
        *,
        batch: int,
        extra: int,
        places: slice,
        seed: int,
        workers: int,
        complain: Callable[[str], None],
        teacher: Teacher | None = None,
    ):
        if not all(len(source) for source in sources):
            raise ValueError("got a split without photos, wanted at least one")
        self._sources, self._variant, self._preparation, self._how = sources, variant, preparation, how
        self._batch, self._extra, self._places, self._seed = batch, extra, places, seed
        self._workers, self._complain, self._teacher = workers, complain, teacher
        self._bad: set[str] = set()
        self._lock = (
            threading.Lock()
        )  # of what is known to be bad: every thread that meets too much of it says so
        mean = [round(level) for level in preparation.mean]
        red, green, blue = mean if preparation.channels == "RGB" else mean[::-1]
        self._fill = (red, green, blue)

    def from_step(self, step: int) -> Generator[Example, None, None]:
        """Batches from a step on: (b, 3, crop, crop) float32, targets (b, h, w) uint8, (b, K, h, w) of a
        teacher."""
        waiting: deque[list[Future[Example]]] = deque()
        with ThreadPoolExecutor(self._workers, thread_name_prefix="photos") as pool:
            try:
                while True:
                    while len(waiting) < AHEAD:
                        chosen = draws(
                            step, self._batch, [len(s) for s in self._sources], self._extra, self._seed
                        )
                        waiting.append([pool.submit(self._example, draw) for draw in chosen[self._places]])
                        step += 1
                    examples = [future.result() for future in waiting.popleft()]
                    yield tuple(torch.stack(parts) for parts in zip(*examples, strict=True))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _example(self, draw: Draw) -> Example:
        """One crop with its targets; where a photo cannot be used, of the next one."""
        pairs = self._sources[draw.source]
        for offset in range(len(pairs)):
            pair = pairs[(draw.index + offset) % len(pairs)]
            try:
                photo, labels = pair.read_photo(), pair.read_labels()
                rng = np.random.default_rng(draw.seed)
                place = draw_place(labels.shape, self._how, rng)
                crop, ids = augment(photo, labels, self._how, rng, self._fill, place)
            except (ValueError, OSError) as error:
                self._note(pair.name, " ".join(str(error).split()))
                continue
            first = self._variant.first_target
            targets = torch.from_numpy(ids[first::OUTPUT_STRIDE, first::OUTPUT_STRIDE].copy())
            example = prepare(crop, self._preparation)[0], targets
            if self._teacher is None:
                return example
            return *example, self._teacher.targets(pair.name, place, first, len(targets))
        raise ValueError("not one photo of the split can be used; deeplab check-data names each fault")

    def _note(self, name: str, reason: str) -> None:
        with self._lock:
            known = name in self._bad
            self._bad.add(name)
        if len(self._bad) > max(3, BAD_SHARE * sum(len(source) for source in self._sources)):
            raise ValueError(
                f"{name}: {reason}; {len(self._bad)} photos cannot be used by now, so the run stops: "
                "deeplab check-data names each fault"
            )
        if not known:
            self._complain(f"{name}: {reason}; another photo takes its place")
