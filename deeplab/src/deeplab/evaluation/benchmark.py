"""The evaluation of a model, or of another program's label maps, in one pass over a data set."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import densecrf
from deeplab.datasets.opening import Dataset, Sample
from deeplab.evaluation.calibration import Calibration, Reliability
from deeplab.evaluation.predictions import prediction_files, prediction_reader
from deeplab.evaluation.scoring import Scorer, Scores
from deeplab.model.segmentation import Model, Segmentation

NETWORK = "network"
REFINED = "network + CRF"
PREDICTIONS = "predictions"
ITERATIONS = 10
MAX_NAMED = 3
"""How many classes that differ an error names."""


@dataclass(frozen=True)
class MethodScores:
    """The scores of one method over the whole set."""

    scores: Scores
    reliability: Reliability | None
    """None for label maps without probabilities."""


@dataclass(frozen=True)
class PhotoScore:
    """The scores of each method on one photo."""

    name: str
    mean_iou: dict[str, float]
    """Mean IoU by method over the classes in the photo's labels or prediction, 0–1; NaN if all is void."""
    pixel_accuracy: dict[str, float]
    """Pixel accuracy by method, 0–1."""


@dataclass(frozen=True)
class ExamplePhoto:
    """One photo with its predicted label maps, for the gallery of a report."""

    sample: Sample
    labels: dict[str, np.ndarray]
    """Predicted ids by method, (H, W)."""
    score: PhotoScore


@dataclass(frozen=True)
class Report:
    """All scores of one evaluation."""

    methods: dict[str, MethodScores]
    """Scores by method: "network" and "network + CRF", or "predictions"."""
    photos: tuple[PhotoScore, ...]
    """Scores of each photo, in the order of the data set."""
    worst: tuple[ExamplePhoto, ...]
    """Photos with the lowest mean IoU of the last method, lowest first."""
    about: dict[str, Any]
    """Conditions of the measurement: CRF parameters, time, versions and the like."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names in id order."""
        return next(iter(self.methods.values())).scores.class_names


def score(
    model: Model,
    dataset: Dataset,
    *,
    crf: bool = True,
    boundary: Sequence[int] = (10,),
    boundary_f1: bool = False,
    boundary_iou: bool = False,
    boundary_accuracy: bool = False,
    worst: int = 0,
    progress: bool = False,
    **augmentation: Any,
) -> Report:
    """Score a model without and with the CRF; the network runs once for each photo.

    Args:
        model: model to score.
        dataset: photos with labels; its classes must be the model's.
        crf: whether to score with the CRF as well.
        boundary: widths in pixels of the bands around void borders that are scored as well.
        boundary_f1: whether to measure the boundary F1 as well.
        boundary_iou: whether to measure the boundary IoU as well.
        boundary_accuracy: whether to measure the mean boundary accuracy (mBA) as well.
        worst: how many of the worst photos to keep with their label maps.
        progress: whether to show a progress bar.
        augmentation: scales, mirror, tile and size, as in ``Model.segment``.

    Returns:
        The scores of "network" and, with the CRF, of "network + CRF".

    Raises:
        ValueError: if the classes differ, or labels and photo do not fit; the message names the classes or
            the photo.
    """
    require_same_classes(model.class_names, dataset.class_names)
    methods = (NETWORK, REFINED) if crf else (NETWORK,)
    measures = (boundary, boundary_f1, boundary_iou, boundary_accuracy)
    scores = _Accumulator({method: Scorer(model.class_names, *measures) for method in methods}, worst)
    seconds: dict[str, list[float]] = {}
    for sample in _with_progress(dataset, progress):
        results, times = _predict(model, sample, crf, augmentation)
        labels = {method: result.labels for method, result in results.items()}
        probabilities = {method: result.probabilities for method, result in results.items()}
        scores.add(sample, labels, probabilities)
        for step, value in times.items():
            seconds.setdefault(step, []).append(value)
    return scores.report(_conditions(model, crf, augmentation, seconds))


def score_folder(
    folder: str | Path,
    dataset: Dataset,
    *,
    boundary: Sequence[int] = (10,),
    boundary_f1: bool = False,
    boundary_iou: bool = False,
    boundary_accuracy: bool = False,
    worst: int = 0,
    progress: bool = False,
) -> Report:
    """Score label maps predicted by another program.

    Args:
        folder: folder with NAME.png for each photo of the data set: palette or grey with class ids, or levels
            or colours as in the masks of the data set.
        dataset: photos with labels.
        boundary: widths in pixels of the bands around void borders that are scored as well.
        boundary_f1: whether to measure the boundary F1 as well.
        boundary_iou: whether to measure the boundary IoU as well.
        boundary_accuracy: whether to measure the mean boundary accuracy (mBA) as well.
        worst: how many of the worst photos to keep with their label maps.
        progress: whether to show a progress bar.

    Returns:
        The scores of the method "predictions".

    Raises:
        FileNotFoundError: if predictions are missing; the message says how many, and names the first few.
        ValueError: if one has another size than its labels, or ids that are no classes; the message names
            the file.
    """
    files = prediction_files(folder, [sample.name for sample in dataset], dataset.split)
    reader = prediction_reader(files, dataset)
    scorer = Scorer(dataset.class_names, boundary, boundary_f1, boundary_iou, boundary_accuracy)
    scores = _Accumulator({PREDICTIONS: scorer}, worst)
    for sample, file in zip(_with_progress(dataset, progress), files, strict=True):
        scores.add(sample, {PREDICTIONS: reader(file)}, {}, file=file)
    return scores.report({"predictions": str(folder), "crf": None})


def require_same_classes(weights: Sequence[str], data: Sequence[str]) -> None:
    """Refuse to score a network on data whose ids mean something else.

    Args:
        weights: class names of the weights, id order.
        data: class names of the data, id order.

    Raises:
        ValueError: if they differ; the message names the first ids that do.
    """
    differ = [
        f"id {number} is {_quoted(ours)} in the weights and {_quoted(theirs)} in the data"
        for number, (ours, theirs) in enumerate(zip_longest(weights, data))
        if ours != theirs
    ]
    if differ:
        more = f", and {len(differ) - MAX_NAMED} more ids differ" if len(differ) > MAX_NAMED else ""
        raise ValueError(
            f"the weights have {len(weights)} classes, the data {len(data)}, and they are not the same: "
            f"{'; '.join(differ[:MAX_NAMED])}{more}; wanted weights trained for the classes of this data"
        )


def _predict(
    model: Model, sample: Sample, crf: bool, augmentation: Mapping[str, Any]
) -> tuple[dict[str, Segmentation], dict[str, float]]:
    """The results of a photo by method, and the seconds that each step took."""
    started = time.perf_counter()
    photo = sample.read_photo()
    decode = time.perf_counter() - started
    result = model.segment(photo, crf=False, **augmentation)
    results = {NETWORK: result}
    if crf:
        results[REFINED] = result = model.refine(result)
    return results, result.seconds | {"decode": decode}


def _conditions(
    model: Model, crf: bool, augmentation: Mapping[str, Any], seconds: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """What the scores of a model were measured with, as JSON can hold it."""
    return {
        "crf": asdict(model.crf_params) | {"iterations": ITERATIONS} if crf else None,
        "looks": {
            name: list(value) if isinstance(value, tuple) else value for name, value in augmentation.items()
        },
        "median seconds a photo": {
            step: round(float(np.median(values)), 3) for step, values in seconds.items()
        },
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {
            "torch": torch.__version__,
            "densecrf": densecrf.__version__,
            "python": platform.python_version(),
        },
    }


class _Accumulator:
    """Accumulates the scores of all methods photo by photo."""

    def __init__(self, scorers: dict[str, Scorer], worst: int):
        self._scorers = scorers
        self._calibrations: dict[str, Calibration] = {}
        self._photos: list[PhotoScore] = []
        self._worst: list[ExamplePhoto] = []
        self._max_worst = worst

    def add(
        self,
        sample: Sample,
        labels: Mapping[str, np.ndarray],
        probabilities: Mapping[str, np.ndarray],
        *,
        file: Path | None = None,
    ) -> None:
        """Count one photo.

        Args:
            sample: the photo with its labels.
            labels: predicted ids by method, (H, W).
            probabilities: probabilities by method, (K, H, W), for the methods that have some.
            file: file of the prediction, for messages.
        """
        truth = sample.read_labels()
        try:
            alone = {method: scorer.add(truth, labels[method]) for method, scorer in self._scorers.items()}
            for method, values in probabilities.items():
                self._calibrations.setdefault(method, Calibration()).add(truth, values)
        except ValueError as error:
            raise ValueError(f"{file or sample.name}: {error}") from None
        score = PhotoScore(
            sample.name,
            {method: scores.mean_iou for method, scores in alone.items()},
            {method: scores.pixel_accuracy for method, scores in alone.items()},
        )
        self._photos.append(score)
        if self._max_worst and np.isfinite(list(score.mean_iou.values())[-1]):
            self._worst.append(ExamplePhoto(sample, dict(labels), score))
            self._worst.sort(key=lambda example: list(example.score.mean_iou.values())[-1])
            del self._worst[self._max_worst :]

    def report(self, about: dict[str, Any]) -> Report:
        """Report all photos added so far, with the conditions of the measurement."""
        methods = {}
        for method, scorer in self._scorers.items():
            calibration = self._calibrations.get(method)
            methods[method] = MethodScores(
                scorer.scores(), calibration.reliability() if calibration else None
            )
        about = about | {"photos": len(self._photos)}
        return Report(methods, tuple(self._photos), tuple(self._worst), about)


def _quoted(name: str | None) -> str:
    return "nothing" if name is None else repr(name)


def _with_progress(dataset: Dataset, progress: bool) -> Iterator[Sample]:
    return iter(tqdm(dataset, unit="photo", disable=None if progress else True))
