"""Everything that is measured of a model, or of somebody's label maps, in one pass over a data set."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import densecrf
from deeplab.datasets.opening import Dataset, Sample, read_ids
from deeplab.evaluation.calibration import Calibration, Reliability
from deeplab.evaluation.predictions import prediction_files
from deeplab.evaluation.scoring import Scorer, Scores
from deeplab.model.segmentation import Model

NETWORK, REFINED, GIVEN = "network", "network + CRF", "predictions"
NAMED = 3  # of many classes that differ, how many an error names


@dataclass(frozen=True)
class Measures:
    """What one way of predicting reached over the whole set."""

    scores: Scores
    reliability: Reliability | None
    """None where there are labels but no probabilities."""


@dataclass(frozen=True)
class PhotoScore:
    """What each way of predicting reached on one photo."""

    name: str
    mean_iou: dict[str, float]
    """Over the classes in the photo's labels or its prediction, 0–1, by way; NaN if all is void."""
    pixel_accuracy: dict[str, float]


@dataclass(frozen=True)
class ExamplePhoto:
    """One photo with the label maps that were predicted for it, to be looked at."""

    pair: Sample
    labels: dict[str, np.ndarray]
    """(H, W) ids by way."""
    score: PhotoScore


@dataclass(frozen=True)
class Report:
    """All scores of one evaluation."""

    ways: dict[str, Measures]
    """By way of predicting: "network" and "network + CRF", or "predictions"."""
    photos: tuple[PhotoScore, ...]
    """In the order of the data set."""
    worst: tuple[ExamplePhoto, ...]
    """Those with the lowest mean IoU in the last of the ways, lowest first."""
    about: dict[str, Any]
    """With what it was measured, for people."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names, id order."""
        return next(iter(self.ways.values())).scores.class_names


def score(
    model: Model,
    dataset: Dataset,
    *,
    crf: bool = True,
    boundary: Sequence[int] = (10,),
    boundary_f1: bool = False,
    worst: int = 0,
    progress: bool = False,
    **looks: Any,
) -> Report:
    """Score a model, without and with the CRF; the network runs once a photo.

    Args:
        model: whose predictions are scored.
        dataset: photos with labels; its classes must be the model's.
        crf: score with the CRF, too.
        boundary: widths in pixels of the bands around void borders that are scored besides.
        boundary_f1: measure the boundary F1, too.
        worst: how many of the worst photos to keep with their label maps.
        progress: show a progress bar.
        looks: ``Model.segment``'s scales, mirror, tile and size.

    Raises:
        ValueError: if the classes differ, or labels and photo do not fit; names the classes or the photo.
    """
    require_same_classes(model.class_names, dataset.class_names)
    tally = _Tally((NETWORK, REFINED)[: 1 + crf], model.class_names, boundary, boundary_f1, worst)
    seconds: dict[str, list[float]] = {}
    for pair in _counted(dataset, progress):
        started = time.perf_counter()
        photo = pair.read_photo()
        spent = {"decode": time.perf_counter() - started}
        result = model.segment(photo, crf=False, **looks)
        results = {NETWORK: result}
        if crf:
            results[REFINED] = result = model.refine(result)
        labels = {way: found.labels for way, found in results.items()}
        tally.add(pair, labels, {way: found.probabilities for way, found in results.items()})
        for step, value in (result.seconds | spent).items():
            seconds.setdefault(step, []).append(value)
    about = {
        "crf": asdict(model.crf_params) | {"iterations": 10} if crf else None,
        "looks": {name: list(value) if isinstance(value, tuple) else value for name, value in looks.items()},
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
    return tally.board(about)


def score_folder(
    folder: str | Path,
    dataset: Dataset,
    *,
    boundary: Sequence[int] = (10,),
    boundary_f1: bool = False,
    worst: int = 0,
    progress: bool = False,
) -> Report:
    """Score label maps that another program has predicted.

    Args:
        folder: with NAME.png, palette or grey with class ids, for each photo of the data set.
        dataset: photos with labels.
        boundary: widths in pixels of the bands around void borders that are scored besides.
        boundary_f1: measure the boundary F1, too.
        worst: how many of the worst photos to keep with their label maps.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: if predictions are missing; says how many, and names the first few.
        ValueError: if one has another size than its labels, or ids that are no classes; names the file.
    """
    files = prediction_files(folder, [pair.name for pair in dataset])
    tally = _Tally((GIVEN,), dataset.class_names, boundary, boundary_f1, worst)
    for pair, file in zip(_counted(dataset, progress), files, strict=True):
        tally.add(pair, {GIVEN: read_ids(file)}, {}, file=file)
    return tally.board({"predictions": str(folder), "crf": None})


def require_same_classes(weights: Sequence[str], data: Sequence[str]) -> None:
    """Refuse to score a network on data whose ids mean something else.

    Raises:
        ValueError: says which ids differ.
    """
    differ = [
        f"id {place} is {_quoted(ours)} in the weights and {_quoted(theirs)} in the data"
        for place, (ours, theirs) in enumerate(zip_longest(weights, data))
        if ours != theirs
    ]
    if differ:
        more = f", and {len(differ) - NAMED} more ids differ" if len(differ) > NAMED else ""
        raise ValueError(
            f"the weights know {len(weights)} classes, the data {len(data)}, and they are not the same: "
            f"{'; '.join(differ[:NAMED])}{more}; wanted weights that were trained for the classes of this data"
        )


class _Tally:
    """Adds up the scores of all ways of predicting, photo by photo."""

    def __init__(
        self,
        ways: Sequence[str],
        class_names: Sequence[str],
        boundary: Sequence[int],
        boundary_f1: bool,
        worst: int,
    ):
        self._scorers = {way: Scorer(class_names, boundary, boundary_f1) for way in ways}
        self._calibrations: dict[str, Calibration] = {}
        self._photos: list[PhotoScore] = []
        self._worst: list[ExamplePhoto] = []
        self._keep = worst

    def add(
        self,
        pair: Sample,
        labels: Mapping[str, np.ndarray],
        probabilities: Mapping[str, np.ndarray],
        *,
        file: Path | None = None,
    ) -> None:
        """Count one photo: ids (H, W) and, where there are any, probabilities (K, H, W) by way."""
        truth = pair.read_labels()
        try:
            alone = {way: scorer.add(truth, labels[way]) for way, scorer in self._scorers.items()}
            for way, values in probabilities.items():
                self._calibrations.setdefault(way, Calibration()).add(truth, values)
        except ValueError as error:
            raise ValueError(f"{file or pair.name}: {error}") from None
        score = PhotoScore(
            pair.name,
            {way: scores.mean_iou for way, scores in alone.items()},
            {way: scores.pixel_accuracy for way, scores in alone.items()},
        )
        self._photos.append(score)
        if self._keep and np.isfinite(list(score.mean_iou.values())[-1]):
            self._worst.append(ExamplePhoto(pair, dict(labels), score))
            self._worst.sort(key=lambda shown: list(shown.score.mean_iou.values())[-1])
            del self._worst[self._keep :]

    def board(self, about: dict[str, Any]) -> Report:
        """What was added so far."""
        ways = {}
        for way, scorer in self._scorers.items():
            calibration = self._calibrations.get(way)
            ways[way] = Measures(scorer.scores(), calibration.reliability() if calibration else None)
        return Report(ways, tuple(self._photos), tuple(self._worst), about | {"photos": len(self._photos)})


def _quoted(name: str | None) -> str:
    return "nothing" if name is None else repr(name)


def _counted(dataset: Dataset, progress: bool) -> Any:
    return tqdm(dataset, unit="photo", disable=None if progress else True)
