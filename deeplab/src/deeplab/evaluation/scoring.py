"""Score any function from photo to labels over a set of pairs. Knows neither torch nor the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from deeplab.classes import VOC_CLASSES, WELL_POPULATED
from deeplab.datasets.opening import Dataset, Sample
from deeplab.evaluation.boundary_f1 import contour_f1, mean_contour_f1
from deeplab.evaluation.metrics import (
    Absent,
    band_matrices,
    class_iou,
    class_recall,
    frequency_weighted_iou,
    mean_iou,
    mean_recall,
    pixel_accuracy,
)


@dataclass(frozen=True)
class Scores:
    """One confusion matrix over the whole set, and one for each boundary band."""

    class_names: tuple[str, ...]
    confusion: np.ndarray
    """(K, K) int64: pixels by true class (rows) and predicted class (columns)."""
    bands: dict[int, np.ndarray]
    """The same within so many pixels of the void border."""
    contours: np.ndarray | None = None
    """(photos, K) F1 of each photo's contours (``contours.contour_f1``), if they were asked for."""

    @property
    def mean_iou(self) -> float:
        """Mean IoU of all classes that occur, 0–1."""
        return mean_iou(self.confusion)

    def mean_iou_with(self, absent: Absent) -> float:
        """Mean IoU over all classes, 0–1, by a named rule for those without any pixel: see
        ``metrics.Absent``."""
        return mean_iou(self.confusion, absent=absent)

    @property
    def iou(self) -> dict[str, float]:
        """IoU of each class, 0–1; NaN where a class is neither in the labels nor predicted."""
        return dict(zip(self.class_names, class_iou(self.confusion).tolist(), strict=True))

    @property
    def classes_scored(self) -> int:
        """How many classes ``mean_iou`` is over: those in the labels or predicted."""
        return int(np.isfinite(class_iou(self.confusion)).sum())

    @property
    def pixel_accuracy(self) -> float:
        """Share of right pixels, 0–1."""
        return pixel_accuracy(self.confusion)

    @property
    def recall(self) -> dict[str, float]:
        """Share of each class's labelled pixels that are found, 0–1; NaN for a class that the labels do not
        have."""
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
        """Boundary F1, 0–1, averaged over classes and then photos; it must have been asked for."""
        if self.contours is None:
            raise ValueError("the boundary F1 was not measured; ask for it with boundary_f1=True")
        return mean_contour_f1(self.contours)

    def boundary(self, width: int) -> Scores:
        """The same scores within ``width`` pixels of the void border; the width must have been asked for."""
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
        """The headline figures in percent: mIoU over all K classes ("mIoU-K"), pixel accuracy, each also near
        borders.

        mIoU-7 comes first where the class names contain the seven well-populated ones.
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
    """Adds up confusion matrices, photo by photo.

    Args:
        class_names: K names, id order.
        boundary: widths in pixels of the bands around void borders that are scored besides.
        boundary_f1: measure the boundary F1, too: some 20 ms more a photo.

    Raises:
        ValueError: for a width below 1.
    """

    def __init__(
        self,
        class_names: Sequence[str] = VOC_CLASSES,
        boundary: Sequence[int] = (10,),
        boundary_f1: bool = False,
    ):
        self._names, self._widths = tuple(class_names), tuple(boundary)
        nothing = np.full((1, 1), 255)
        self._confusion, self._bands = band_matrices(nothing, nothing, len(self._names), self._widths)
        self._contours: list[np.ndarray] | None = [] if boundary_f1 else None

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
        contours = None
        if self._contours is not None:
            contours = contour_f1(truth, predicted, len(self._names))[None]
            self._contours.append(contours)
        self._confusion = self._confusion + confusion
        self._bands = {width: total + bands[width] for width, total in self._bands.items()}
        return Scores(self._names, confusion, bands, contours)

    def scores(self) -> Scores:
        """The scores of what was added so far."""
        contours = None
        if self._contours is not None:
            contours = np.concatenate([np.empty((0, len(self._names))), *self._contours])
        return Scores(self._names, self._confusion, dict(self._bands), contours)


def evaluate(
    predict: Callable[[np.ndarray], np.ndarray],
    dataset: Iterable[Sample],
    *,
    class_names: Sequence[str] | None = None,
    boundary: Sequence[int] = (10,),
    boundary_f1: bool = False,
) -> Scores:
    """Score ``predict`` at the labels' own size.

    Args:
        predict: photo (H, W, 3) uint8 R, G, B to ids (H, W).
        dataset: pairs of photo and labels; label 255 is void and takes no part.
        class_names: K names, id order; by default those of the data set, or VOC's for bare pairs.
        boundary: widths in pixels of the bands around void borders that are scored besides.
        boundary_f1: measure the boundary F1, too.

    Returns:
        Scores over the whole set.

    Raises:
        ValueError: if a prediction has another size than its labels, or ids are out of range; names the
            photo.

    Source: DeepLab, section 5.1; the release's MyVOCevalseg.
    """
    if class_names is None:
        class_names = dataset.class_names if isinstance(dataset, Dataset) else VOC_CLASSES
    scorer = Scorer(class_names, boundary, boundary_f1)
    for pair in dataset:
        try:
            scorer.add(pair.read_labels(), predict(pair.read_photo()))
        except ValueError as error:
            raise ValueError(f"{pair.name}: {error}") from None
    return scorer.scores()
