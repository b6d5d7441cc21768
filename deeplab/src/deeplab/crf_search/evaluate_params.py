"""The CRF's parameters on trial: label maps of many settings over many photos, and what they score.

A lattice depends on the photo and the widths but not on the weights. So the settings of one photo are taken
lattice by lattice, each built once for all weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from threading import Event, Lock
from typing import IO

import numpy as np
from tqdm import tqdm

from deeplab.crf_search.score_cache import ScoreSource
from deeplab.datasets.opening import Sample
from deeplab.evaluation.metrics import confusion_matrix
from deeplab.evaluation.scoring import Scores
from deeplab.model.segmentation import CRF_BYTES_PER_PIXEL
from densecrf import Bilateral, Gaussian, Params, memory
from densecrf.crf import CONVERGENCE_TOLERANCE, MERGE_THRESHOLD
from densecrf.lattice import Kernel, MeanField
from densecrf.threads import thread_count
from densecrf.unary import FLOOR

ITERATIONS = 10
"""Mean-field steps, as everywhere in the paper (section 4.2)."""
LATTICES_A_TASK = 8
"""A worker's task is one photo with so many lattices: long enough to be worth reading the photo."""


def refined_labels(
    photo: np.ndarray, probabilities: np.ndarray, settings: Sequence[Params], *, threads: int = 1
) -> Iterator[tuple[Params, np.ndarray]]:
    """The labels that ``densecrf.refine`` gives with each of many settings, each lattice built once.

    Args:
        photo: (H, W, 3) uint8.
        probabilities: (K, H, W) float32.
        settings: in any order; those that differ only in ``appearance_weight`` share a lattice.
        threads: how many the CRF uses.

    Yields:
        Each setting and its labels, (H, W) uint8; lattice by lattice.
    """
    size = probabilities.shape[1:]
    planes = np.ascontiguousarray(probabilities, np.float32).reshape(len(probabilities), -1)
    smoothness: dict[tuple[float, str], Kernel] = {}
    for group in by_lattice(settings):
        first = group[0]
        key = first.smoothness_xy_std, first.normalization
        if first.smoothness_weight > 0 and key not in smoothness:
            features = Gaussian((size[0], size[1]), first.smoothness_xy_std).features()
            smoothness[key] = Kernel(features, first.normalization, include_self=True, threads=threads)
        appearance: Kernel | None = None
        for params in group:
            kernels, weights = [], []
            if params.smoothness_weight > 0:
                kernels, weights = [smoothness[key]], [params.smoothness_weight]
            if params.appearance_weight > 0:
                if appearance is None:
                    features = Bilateral(
                        photo, params.appearance_xy_std, params.appearance_rgb_std
                    ).features()
                    appearance = Kernel(features, params.normalization, include_self=True, threads=threads)
                kernels, weights = [*kernels, appearance], [*weights, params.appearance_weight]
            strengths = [np.full(len(planes), weight) for weight in weights]
            field = MeanField(
                planes,
                kernels,
                strengths,
                merge_threshold=MERGE_THRESHOLD,
                convergence_tolerance=CONVERGENCE_TOLERANCE,
                threads=threads,
                floor=FLOOR,
            )
            field.run(ITERATIONS)
            yield params, field.finish().argmax(axis=0).reshape(size).astype(np.uint8)


def by_lattice(settings: Sequence[Params]) -> list[list[Params]]:
    """Settings in groups that share all but the weight of the appearance kernel, in the order they came."""
    groups: dict[tuple[object, ...], list[Params]] = {}
    for params in settings:
        rest = {name: value for name, value in asdict(params).items() if name != "appearance_weight"}
        groups.setdefault(tuple(rest.values()), []).append(params)
    return list(groups.values())


class ParamsEvaluator:
    """Scores of settings over photos. What is found is kept in a file as it comes, and not computed again.

    Args:
        pairs: photos with labels.
        source: their class scores.
        class_names: K names, id order.
        store: the file (JSON lines, one for each photo and setting); what it holds must be of these photos
            and scores.
        workers: photos looked at at a time, one thread each; by default as many as this process may run on.
            Two such workers took a quarter less time than one with two threads.

    Raises:
        ValueError: if the file is damaged elsewhere than at its end, where a line may have been cut off.
    """

    def __init__(
        self,
        pairs: Sequence[Sample],
        source: ScoreSource,
        class_names: Sequence[str],
        store: Path,
        *,
        workers: int | None = None,
    ):
        self._pairs, self._source, self._names, self._store = pairs, source, tuple(class_names), store
        self._workers = thread_count(workers)
        self._sums: dict[Params, np.ndarray] = {}
        self._done: dict[Params, set[str]] = {}
        self._guard, self._stop = Lock(), Event()
        self._read()

    @property
    def names(self) -> list[str]:
        """The photos' names."""
        return [pair.name for pair in self._pairs]

    def scores(self, settings: Iterable[Params]) -> dict[Params, Scores]:
        """The scores of each setting, from one confusion matrix over all photos; those not known are
        computed.

        Raises:
            ValueError: if photo, scores and labels do not fit, with the photo's name.
            OSError: if the file cannot be written.
        """
        settings = list(dict.fromkeys(settings))
        tasks = [(pair, task) for pair in self._pairs for task in self._tasks(pair, settings)]
        if tasks:
            self._store.parent.mkdir(parents=True, exist_ok=True)
            title = f"{len(settings)} settings × {len(self._pairs)} photos"
            total, missing = len(settings) * len(self._pairs), sum(len(task) for _, task in tasks)
            with (
                open(self._store, "ab") as file,
                tqdm(
                    total=total, initial=total - missing, desc=title, unit="CRF", disable=None, leave=False
                ) as bar,
            ):
                self._run(tasks, file, bar)
        empty = np.zeros((len(self._names),) * 2, np.int64)
        return {params: Scores(self._names, self._sums.get(params, empty), {}) for params in settings}

    def _tasks(self, pair: Sample, settings: Sequence[Params]) -> Iterator[list[Params]]:
        """What is not known of one photo, in tasks."""
        missing = [params for params in settings if pair.name not in self._done.get(params, ())]
        groups = iter(by_lattice(missing))
        while task := [params for group in islice(groups, LATTICES_A_TASK) for params in group]:
            yield task

    def _run(self, tasks: list[tuple[Sample, list[Params]]], file: IO[bytes], bar: tqdm) -> None:
        self._stop.clear()
        with ThreadPoolExecutor(self._workers) as pool:  # threads: the CRF releases the interpreter's lock
            running = [pool.submit(self._try, pair, task, file, bar) for pair, task in tasks]
            try:
                for done in as_completed(running):
                    done.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _try(self, pair: Sample, settings: list[Params], file: IO[bytes], bar: tqdm) -> None:
        """One task: one photo with some settings."""
        photo, truth = pair.read_photo(), pair.read_labels()
        height, width = photo.shape[:2]
        memory.require(height * width * CRF_BYTES_PER_PIXEL, f"{pair.photo}: the CRF of {width}×{height}")
        probabilities = self._source.probabilities(pair, (height, width))
        for params, labels in refined_labels(photo, probabilities, settings):
            if self._stop.is_set():
                return
            try:
                counts = confusion_matrix(truth, labels, len(self._names)).ravel()
            except ValueError as error:
                raise ValueError(f"{pair.labels}: {error}") from None
            cells = np.flatnonzero(counts)
            line = {
                "photo": pair.name,
                "params": asdict(params),
                "cells": cells.tolist(),
                "counts": counts[cells].tolist(),
            }
            with self._guard:
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))
                file.flush()
                self._add(pair.name, params, cells, counts[cells])
                bar.update()

    def _add(self, name: str, params: Params, cells: np.ndarray, counts: np.ndarray) -> None:
        if name in self._done.setdefault(params, set()):
            return
        total = self._sums.setdefault(params, np.zeros((len(self._names),) * 2, np.int64))
        total.flat[cells] += counts
        self._done[params].add(name)

    def _read(self) -> None:
        content = self._store.read_bytes() if self._store.is_file() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # a line that was being written when the program was killed
            os.truncate(self._store, whole)
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                found = json.loads(line)
                cells, counts = np.array(found["cells"], np.int64), np.array(found["counts"], np.int64)
                self._add(str(found["photo"]), Params(**found["params"]), cells, counts)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise ValueError(
                    f"{self._store}: line {number} is damaged ({error}); remove the line"
                ) from None
