"""Mean IoU, boundary accuracy and calibration of predicted labels, as tables, charts and a report."""

from typing import TYPE_CHECKING

from deeplab.lazy import public_names

if TYPE_CHECKING:
    from deeplab.evaluation.benchmark import Report as Report
    from deeplab.evaluation.benchmark import score as score
    from deeplab.evaluation.benchmark import score_folder as score_folder
    from deeplab.evaluation.calibration import Calibration as Calibration
    from deeplab.evaluation.metrics import boundary_band as boundary_band
    from deeplab.evaluation.metrics import confusion_matrix as confusion_matrix
    from deeplab.evaluation.metrics import mean_iou as mean_iou
    from deeplab.evaluation.metrics import pixel_accuracy as pixel_accuracy
    from deeplab.evaluation.report import write_report as write_report
    from deeplab.evaluation.scoring import Scores as Scores
    from deeplab.evaluation.scoring import evaluate as evaluate

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "benchmark": ["Report", "score", "score_folder"],
        "calibration": ["Calibration"],
        "metrics": ["boundary_band", "confusion_matrix", "mean_iou", "pixel_accuracy"],
        "report": ["write_report"],
        "scoring": ["Scores", "evaluate"],
    },
)
