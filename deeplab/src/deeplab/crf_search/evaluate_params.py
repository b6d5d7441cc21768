"""The evaluation of CRF parameters: label maps of many settings over many photos, and their scores.

A lattice depends on the photo and the kernel widths, but not on the weights. So the settings of one photo are
taken lattice by lattice, and each lattice is built once for all weights.
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
"""Lattices of one photo in a worker's task: enough to make reading the photo worthwhile."""

Task = tuple[Sample, list[Params]]
"""Settings to score on one photo."""


def refined_labels(
    photo: np.ndarray, probabilities: np.ndarray, settings: Sequence[Params], *, threads: int = 1
) -> Iterator[tuple[Params, np.ndarray]]:
    """Compute the labels of ``densecrf.refine`` for many settings, building each lattice once.

    Args:
        photo: (H, W, 3) uint8.
        probabilities: (K, H, W) float32.
        settings: in any order; those that differ only in ``appearance_weight`` share a lattice.
        threads: number of threads of the CRF.

    Yields:
        Each setting and its labels, (H, W) uint8; lattice by lattice.
    """
    height, width = probabilities.shape[1:]
    planes = np.ascontiguousarray(probabilities, np.float32).reshape(len(probabilities), -1)
    smoothness: dict[tuple[float, str], Kernel] = {}
    for group in by_lattice(settings):
        appearance: Kernel | None = None
        for params in group:
            kernels: list[tuple[Kernel, float]] = []
            if params.smoothness_weight > 0:
                key = params.smoothness_xy_std, params.normalization
                if key not in smoothness:
                    features = Gaussian((height, width), params.smoothness_xy_std).features()
                    smoothness[key] = _kernel(features, params, threads)
                kernels.append((smoothness[key], params.smoothness_weight))
            if params.appearance_weight > 0:
                if appearance is None:
                    stds = params.appearance_xy_std, params.appearance_rgb_std
                    appearance = _kernel(Bilateral(photo, *stds).features(), params, threads)
                kernels.append((appearance, params.appearance_weight))
            yield params, _labels(planes, kernels, threads).reshape(height, width)


def by_lattice(settings: Sequence[Params]) -> list[list[Params]]:
    """Group settings that share all but the weight of the appearance kernel, in their order."""
    groups: dict[tuple[object, ...], list[Params]] = {}
    for params in settings:
        rest = {name: value for name, value in asdict(params).items() if name != "appearance_weight"}
        groups.setdefault(tuple(rest.values()), []).append(params)
    return list(groups.values())


class ParamsEvaluator:
    """Scores settings over photos; every result is written to a file and not computed again.

    Args:
        samples: photos with labels.
        source: class scores of the photos.
        class_names: K names in id order.
        store: file of the results (JSON lines, one for each photo and setting); results in it must be of
            these photos and scores.
        workers: number of photos processed at a time, with one thread each; by default as many as this
            process may run on. Two such workers took a quarter less time than one with two threads.

    Raises:
        ValueError: if the file is damaged anywhere but at its end, where a line may have been cut off.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        source: ScoreSource,
        class_names: Sequence[str],
        store: Path,
        *,
        workers: int | None = None,
    ):
        self._samples = samples
        self._source = source
        self._class_names = tuple(class_names)
        self._store = store
        self._workers = thread_count(workers)
        self._sums: dict[Params, np.ndarray] = {}
        self._done: dict[Params, set[str]] = {}
        self._lock = Lock()
        self._stop = Event()
        self._read_store()

    @property
    def names(self) -> list[str]:
        """Names of the photos."""
        return [sample.name for sample in self._samples]

    def scores(self, settings: Iterable[Params]) -> dict[Params, Scores]:
        """Score settings, each by one confusion matrix over all photos; known results are not recomputed.

        Raises:
            ValueError: if photo, scores and labels do not fit; the message names the photo.
            OSError: if the file cannot be written.
        """
        settings = list(dict.fromkeys(settings))
        tasks = [(sample, task) for sample in self._samples for task in self._missing(sample, settings)]
        if tasks:
            self._store.parent.mkdir(parents=True, exist_ok=True)
            title = f"{len(settings)} settings × {len(self._samples)} photos"
            total = len(settings) * len(self._samples)
            done = total - sum(len(task) for _, task in tasks)
            progress = tqdm(total=total, initial=done, desc=title, unit="CRF", disable=None, leave=False)
            with open(self._store, "ab") as file, progress:
                self._run(tasks, file, progress)
        empty = np.zeros((len(self._class_names),) * 2, np.int64)
        return {params: Scores(self._class_names, self._sums.get(params, empty), {}) for params in settings}

    def _missing(self, sample: Sample, settings: Sequence[Params]) -> Iterator[list[Params]]:
        """The settings without a result for a photo, divided into tasks."""
        missing = [params for params in settings if sample.name not in self._done.get(params, ())]
        groups = iter(by_lattice(missing))
        while task := [params for group in islice(groups, LATTICES_A_TASK) for params in group]:
            yield task

    def _run(self, tasks: Sequence[Task], file: IO[bytes], progress: tqdm) -> None:
        self._stop.clear()
        with ThreadPoolExecutor(self._workers) as pool:  # threads: the CRF releases the interpreter's lock
            running = [pool.submit(self._run_task, task, file, progress) for task in tasks]
            try:
                for done in as_completed(running):
                    done.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _run_task(self, task: Task, file: IO[bytes], progress: tqdm) -> None:
        sample, settings = task
        photo, truth = sample.read_photo(), sample.read_labels()
        height, width = photo.shape[:2]
        memory.require(height * width * CRF_BYTES_PER_PIXEL, f"{sample.photo}: the CRF of {width}×{height}")
        probabilities = self._source.probabilities(sample, (height, width))
        for params, labels in refined_labels(photo, probabilities, settings):
            if self._stop.is_set():
                return
            try:
                counts = confusion_matrix(truth, labels, len(self._class_names)).ravel()
            except ValueError as error:
                raise ValueError(f"{sample.labels}: {error}") from None
            cells = np.flatnonzero(counts)
            with self._lock:
                file.write(_line(sample.name, params, cells, counts[cells]))
                file.flush()
                self._add(sample.name, params, cells, counts[cells])
                progress.update()

    def _add(self, name: str, params: Params, cells: np.ndarray, counts: np.ndarray) -> None:
        """Add the result of a photo to the sums, unless it is there."""
        if name in self._done.setdefault(params, set()):
            return
        total = self._sums.setdefault(params, np.zeros((len(self._class_names),) * 2, np.int64))
        total.flat[cells] += counts
        self._done[params].add(name)

    def _read_store(self) -> None:
        content = self._store.read_bytes() if self._store.is_file() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # the program was killed while it wrote a line
            os.truncate(self._store, whole)
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                row = json.loads(line)
                cells = np.array(row["cells"], np.int64)
                counts = np.array(row["counts"], np.int64)
                self._add(str(row["photo"]), Params(**row["params"]), cells, counts)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise ValueError(
                    f"{self._store}: line {number} is damaged ({error}); remove the line"
                ) from None


def _kernel(features: np.ndarray, params: Params, threads: int) -> Kernel:
    return Kernel(features, params.normalization, include_self=True, threads=threads)


def _labels(planes: np.ndarray, kernels: Sequence[tuple[Kernel, float]], threads: int) -> np.ndarray:
    """The labels (N,) uint8 of probabilities (K, N) after mean-field steps with kernels and their weights."""
    field = MeanField(
        planes,
        [kernel for kernel, _ in kernels],
        [np.full(len(planes), weight) for _, weight in kernels],
        merge_threshold=MERGE_THRESHOLD,
        convergence_tolerance=CONVERGENCE_TOLERANCE,
        threads=threads,
        floor=FLOOR,
    )
    field.run(ITERATIONS)
    return field.finish().argmax(axis=0).astype(np.uint8)


def _line(name: str, params: Params, cells: np.ndarray, counts: np.ndarray) -> bytes:
    """A result as a line of JSON: the cells of the confusion matrix that are not zero."""
    row = {"photo": name, "params": asdict(params), "cells": cells.tolist(), "counts": counts.tolist()}
    return (json.dumps(row, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
