"""Scores of any function from photo to labels over a set of samples; needs neither torch nor the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from deeplab.classes import VOC_CLASSES, WELL_POPULATED
from deeplab.datasets.opening import Dataset, Sample
from deeplab.evaluation.boundary_accuracy import boundary_accuracy as photo_boundary_accuracy
from deeplab.evaluation.boundary_accuracy import mean_boundary_accuracy
from deeplab.evaluation.boundary_f1 import boundary_f1 as photo_boundary_f1
from deeplab.evaluation.boundary_f1 import mean_boundary_f1
from deeplab.evaluation.boundary_iou import boundary_overlap, class_boundary_iou
from deeplab.evaluation.metrics import (
    Absent,
    band_matrices,
    class_iou,
    class_recall,
    frequency_weighted_iou,
    mean_iou,
    mean_of,
    mean_recall,
    pixel_accuracy,
)


@dataclass(frozen=True)
class Scores:
    """The scores of a set: one confusion matrix over all photos, and one for each boundary band."""

    class_names: tuple[str, ...]
    confusion: np.ndarray
    """(K, K) int64: pixels by true class (rows) and predicted class (columns)."""
    bands: dict[int, np.ndarray]
    """Confusion matrices of the pixels near the void border, by the width of the band in pixels."""
    boundary_f1_by_photo: np.ndarray | None = None
    """(photos, K) boundary F1 of each photo and class; None if it was not measured."""
    boundary_overlap: np.ndarray | None = None
    """(K, 2) pixels in the intersection and in the union of boundary bands; None if they were not counted."""
    boundary_accuracy_by_photo: np.ndarray | None = None
    """(photos,) accuracy near boundaries, see ``boundary_accuracy``; None if it was not measured."""

    @property
    def mean_iou(self) -> float:
        """Mean IoU of all classes that occur, 0–1."""
        return mean_iou(self.confusion)

    def mean_iou_with(self, absent: Absent) -> float:
        """Mean IoU over all classes, 0–1, with a rule for those without any pixel; see ``metrics.Absent``."""
        return mean_iou(self.confusion, absent=absent)

    @property
    def iou(self) -> dict[str, float]:
        """IoU of each class, 0–1; NaN for a class that is neither in the labels nor predicted."""
        return dict(zip(self.class_names, class_iou(self.confusion).tolist(), strict=True))

    @property
    def classes_scored(self) -> int:
        """Number of classes in ``mean_iou``: those in the labels or predicted."""
        return int(np.isfinite(class_iou(self.confusion)).sum())

    @property
    def pixel_accuracy(self) -> float:
        """Share of correct pixels, 0–1."""
        return pixel_accuracy(self.confusion)

    @property
    def recall(self) -> dict[str, float]:
        """Share of each class's labelled pixels predicted correctly, 0–1; NaN for a class without any."""
        return dict(zip(self.class_names, class_recall(self.confusion).tolist(), strict=True))

    @property
    def mean_recall(self) -> float:
        """Mean recall of the classes in the labels, 0–1."""
        return mean_recall(self.confusion)

    @property
    def frequency_weighted_iou(self) -> float:
        """IoU weighted with each class's share of the labelled pixels, 0–1."""
        return frequency_weighted_iou(self.confusion)

    @property
    def boundary_f1(self) -> float:
        """Boundary F1, 0–1, averaged over classes and then photos; ValueError if it was not measured."""
        if self.boundary_f1_by_photo is None:
            raise ValueError("the boundary F1 was not measured; ask for it with boundary_f1=True")
        return mean_boundary_f1(self.boundary_f1_by_photo)

    @property
    def boundary_iou(self) -> dict[str, float]:
        """Boundary IoU of each class, 0–1; NaN for an absent class; ValueError if it was not measured."""
        if self.boundary_overlap is None:
            raise ValueError("the boundary IoU was not measured; ask for it with boundary_iou=True")
        return dict(zip(self.class_names, class_boundary_iou(self.boundary_overlap).tolist(), strict=True))

    @property
    def mean_boundary_iou(self) -> float:
        """Mean boundary IoU of all classes that occur, 0–1; ValueError if it was not measured."""
        return mean_of(np.array(list(self.boundary_iou.values())))

    @property
    def mean_boundary_accuracy(self) -> float:
        """Mean boundary accuracy (mBA) over photos, 0–1; ValueError if it was not measured."""
        if self.boundary_accuracy_by_photo is None:
            raise ValueError("the boundary accuracy was not measured; ask for it with boundary_accuracy=True")
        return mean_boundary_accuracy(self.boundary_accuracy_by_photo)

    def boundary(self, width: int) -> Scores:
        """Get the scores within ``width`` pixels of the void border; ValueError if they were not measured."""
        if width not in self.bands:
            raise ValueError(f"got a band of {width} px, wanted one of those scored: {sorted(self.bands)}")
        return Scores(self.class_names, self.bands[width], {})

    def mean_iou_of(self, names: Iterable[str] = WELL_POPULATED) -> float:
        """Mean IoU of the named classes, 0–1; by default the seven well-populated ones (mIoU-7)."""
        names = tuple(names)
        if unknown := set(names) - set(self.class_names):
            raise ValueError(f"got classes {sorted(unknown)}, wanted some of {', '.join(self.class_names)}")
        return mean_iou(self.confusion, [self.class_names.index(name) for name in names])

    def summary(self) -> dict[str, float]:
        """Summarize in percent: mean IoU over all K classes ("mIoU-K") and pixel accuracy, also near borders.

        mIoU-7 comes first if the class names contain the seven well-populated ones.
        """
        seven = set(WELL_POPULATED) <= set(self.class_names)
        figures = {"mIoU-7": round(100 * self.mean_iou_of(), 2)} if seven else {}
        figures |= {
            f"mIoU-{len(self.class_names)}": round(100 * self.mean_iou, 2),
            "pixel accuracy": round(100 * self.pixel_accuracy, 2),
        }
        for width in sorted(self.bands):
            near = self.boundary(width).summary()
            figures |= {f"{name}, {width} px": value for name, value in near.items()}
        return figures


class Scorer:
    """Accumulates confusion matrices photo by photo.

    Args:
        class_names: K names in id order.
        boundary: widths in pixels of the bands around void borders that are scored as well.
        boundary_f1: measure the boundary F1 as well, about 5 ms more for a photo of 500×375.
        boundary_iou: measure the boundary IoU as well.
        boundary_accuracy: measure the mean boundary accuracy as well.

    Raises:
        ValueError: for a width below 1.
    """

    def __init__(
        self,
        class_names: Sequence[str] = VOC_CLASSES,
        boundary: Sequence[int] = (10,),
        boundary_f1: bool = False,
        boundary_iou: bool = False,
        boundary_accuracy: bool = False,
    ):
        self._names, self._widths = tuple(class_names), tuple(boundary)
        nothing = np.full((1, 1), 255)
        self._confusion, self._bands = band_matrices(nothing, nothing, len(self._names), self._widths)
        self._boundary_f1: list[np.ndarray] | None = [] if boundary_f1 else None
        self._overlap = np.zeros((len(self._names), 2), np.int64) if boundary_iou else None
        self._accuracies: list[float] | None = [] if boundary_accuracy else None

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> Scores:
        """Count one photo.

        Args:
            truth: (H, W) ids, 255 = void.
            predicted: (H, W) ids.

        Returns:
            The scores of this photo alone.

        Raises:
            ValueError: if they do not fit each other or the classes.
        """
        confusion, bands = band_matrices(truth, predicted, len(self._names), self._widths)
        row = None
        if self._boundary_f1 is not None:
            row = photo_boundary_f1(truth, predicted, len(self._names))[None]
            self._boundary_f1.append(row)
        overlap, accuracy = None, None
        if self._overlap is not None:
            overlap = boundary_overlap(truth, predicted, len(self._names))
            self._overlap = self._overlap + overlap
        if self._accuracies is not None:
            self._accuracies.append(photo_boundary_accuracy(truth, predicted))
            accuracy = np.array(self._accuracies[-1:])
        self._confusion = self._confusion + confusion
        self._bands = {width: total + bands[width] for width, total in self._bands.items()}
        return Scores(self._names, confusion, bands, row, overlap, accuracy)

    def scores(self) -> Scores:
        """Get the scores of all photos added so far."""
        rows = None
        if self._boundary_f1 is not None:
            rows = np.concatenate([np.empty((0, len(self._names))), *self._boundary_f1])
        accuracies = None if self._accuracies is None else np.array(self._accuracies)
        return Scores(self._names, self._confusion, dict(self._bands), rows, self._overlap, accuracies)


def evaluate(
    predict: Callable[[np.ndarray], np.ndarray],
    dataset: Iterable[Sample],
    *,
    class_names: Sequence[str] | None = None,
    boundary: Sequence[int] = (10,),
    boundary_f1: bool = False,
    boundary_iou: bool = False,
    boundary_accuracy: bool = False,
) -> Scores:
    """Score a function at the labels' own size.

    Args:
        predict: function from a photo (H, W, 3) uint8 R, G, B to ids (H, W).
        dataset: samples; label 255 is void and does not count.
        class_names: K names in id order; by default those of the data set, or VOC's for a list of samples.
        boundary: widths in pixels of the bands around void borders that are scored as well.
        boundary_f1: measure the boundary F1 as well.
        boundary_iou: measure the boundary IoU as well.
        boundary_accuracy: measure the mean boundary accuracy (mBA) as well.

    Returns:
        Scores over the whole set.

    Raises:
        ValueError: if a prediction has another size than its labels, or ids are out of range; the message
            names the photo.

    Source: DeepLab, section 5.1; the release's MyVOCevalseg.
    """
    if class_names is None:
        class_names = dataset.class_names if isinstance(dataset, Dataset) else VOC_CLASSES
    scorer = Scorer(class_names, boundary, boundary_f1, boundary_iou, boundary_accuracy)
    for sample in dataset:
        try:
            scorer.add(sample.read_labels(), predict(sample.read_photo()))
        except ValueError as error:
            raise ValueError(f"{sample.name}: {error}") from None
    return scorer.scores()
