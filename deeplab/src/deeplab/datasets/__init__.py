"""Data sets: photos with label masks in several layouts, and the check of a data set."""

from typing import TYPE_CHECKING

from deeplab.lazy import public_names

if TYPE_CHECKING:
    from deeplab.datasets.check import Report as Report
    from deeplab.datasets.check import check as check
    from deeplab.datasets.class_files import read_classes as read_classes
    from deeplab.datasets.opening import find_layout as find_layout
    from deeplab.datasets.opening import open_dataset as open_dataset
    from deeplab.datasets.problems import LabelError as LabelError
    from deeplab.datasets.problems import Problem as Problem
    from deeplab.datasets.samples import Dataset as Dataset
    from deeplab.datasets.samples import Layout as Layout
    from deeplab.datasets.samples import Sample as Sample
    from deeplab.datasets.score_file import ScoreFile as ScoreFile

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "check": ["Report", "check"],
        "class_files": ["read_classes"],
        "opening": ["find_layout", "open_dataset"],
        "problems": ["LabelError", "Problem"],
        "samples": ["Dataset", "Layout", "Sample"],
        "score_file": ["ScoreFile"],
    },
)
