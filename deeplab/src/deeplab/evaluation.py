"""Score any function from photo to labels over a set of pairs. Knows neither torch nor the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from deeplab.classes import VOC_CLASSES, WELL_POPULATED
from deeplab.datasets import Pair
from deeplab.metrics import boundary_band, class_iou, confusion_matrix, mean_iou, pixel_accuracy


@dataclass(frozen=True)
class Scores:
    """One confusion matrix over the whole set, and one for each boundary band."""

    class_names: tuple[str, ...]
    confusion: np.ndarray
    bands: dict[int, np.ndarray]

    @property
    def mean_iou(self) -> float:
        """Mean IoU of all classes that occur, 0–1."""
        return mean_iou(self.confusion)

    @property
    def iou(self) -> dict[str, float]:
        """IoU of each class, 0–1; NaN where a class is neither in the labels nor predicted."""
        return dict(zip(self.class_names, class_iou(self.confusion).tolist(), strict=True))

    @property
    def pixel_accuracy(self) -> float:
        """Share of right pixels, 0–1."""
        return pixel_accuracy(self.confusion)

    def boundary(self, width: int) -> Scores:
        """The same scores within ``width`` pixels of the void border; the width must have been asked for."""
        if width not in self.bands:
            raise ValueError(f"got a band of {width} px, wanted one of those scored: {sorted(self.bands)}")
        return Scores(self.class_names, self.bands[width], {})

    def mean_iou_of(self, names: Iterable[str] = WELL_POPULATED) -> float:
        """Mean IoU of the named classes, 0–1; by default the seven well-populated ones (mIoU-7)."""
        return mean_iou(self.confusion, [self.class_names.index(name) for name in names])

    def summary(self) -> dict[str, float]:
        """The headline figures in percent: mIoU-7, mIoU over all classes, pixel accuracy, each also near boundaries."""
        figures = {
            "mIoU-7": round(100 * self.mean_iou_of(), 2),
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
    """

    def __init__(self, class_names: Sequence[str] = VOC_CLASSES, boundary: Sequence[int] = (10,)):
        self._names = tuple(class_names)
        self._confusion = np.zeros((len(self._names),) * 2, np.int64)
        self._bands = {width: np.zeros_like(self._confusion) for width in boundary}

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Count one photo: two (H, W) id maps of one size, 255 in ``truth`` is void; ValueError if they do not fit."""
        count = len(self._names)
        self._confusion += confusion_matrix(truth, predicted, count)
        for width, total in self._bands.items():
            near = boundary_band(truth, width)
            total += confusion_matrix(truth[near], predicted[near], count)

    def scores(self) -> Scores:
        """The scores of what was added so far."""
        return Scores(self._names, self._confusion.copy(), {width: band.copy() for width, band in self._bands.items()})


def evaluate(
    predict: Callable[[np.ndarray], np.ndarray],
    dataset: Iterable[Pair],
    *,
    class_names: Sequence[str] = VOC_CLASSES,
    boundary: Sequence[int] = (10,),
) -> Scores:
    """Score ``predict`` at the labels' own size.

    Args:
        predict: photo (H, W, 3) uint8 R, G, B to ids (H, W).
        dataset: pairs of photo and labels; label 255 is void and takes no part.
        class_names: K names, id order.
        boundary: widths in pixels of the bands around void borders that are scored besides.

    Returns:
        Scores over the whole set.

    Raises:
        ValueError: if a prediction has another size than its labels, or ids are out of range; names the photo.

    Source: DeepLab, section 5.1; the release's MyVOCevalseg.
    """
    scorer = Scorer(class_names, boundary)
    for pair in dataset:
        try:
            scorer.add(pair.read_labels(), predict(pair.read_photo()))
        except ValueError as error:
            raise ValueError(f"{pair.name}: {error}") from None
    return scorer.scores()
