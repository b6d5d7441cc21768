"""The check of one sample: its photo and its labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from deeplab.datasets.label_check import LabelCheck, check_labels
from deeplab.datasets.problems import Problem
from deeplab.datasets.samples import Sample
from deeplab.photos import PHOTO_ENDINGS, PhotoError, photo_orientation


@dataclass(frozen=True, eq=False)
class SampleCheck:
    """What was found in one sample."""

    sample: Sample
    digest: str
    """SHA-256 of the photo's bytes; empty if it cannot be read."""
    size: tuple[int, int] | None
    """Height and width of the photo; None if the photo or its labels cannot be used."""
    labels: LabelCheck
    """What was found in its labels."""
    problems: tuple[Problem, ...]
    """Problems of photo and labels that do not depend on the classes of the data set."""


def check_sample(sample: Sample) -> SampleCheck:
    """Open a sample and check it; errors become problems of the result."""
    problems: list[Problem] = []
    shape, digest = _read_photo(sample, problems)
    labels = check_labels(sample)
    problems += labels.problems
    if labels.shape is None:
        return SampleCheck(sample, digest, None, labels, tuple(problems))
    if shape and shape != labels.shape:
        problems.append(size_mismatch(sample, shape, labels.shape))
    elif shape and (angle := _hidden_rotation(sample, shape)):
        what = f"EXIF data turn the photo ({angle}), which its size does not show"
        fix = "check that it was labelled as shown; save it upright to be sure"
        problems.append(Problem("warning", "rotated photo", str(sample.photo), what, fix))
    return SampleCheck(sample, digest, shape, labels, tuple(problems))


def size_mismatch(sample: Sample, photo: tuple[int, int], labels: tuple[int, int]) -> Problem:
    """The problem of labels whose size is not the photo's.

    Args:
        sample: the sample.
        photo: height and width of the photo.
        labels: height and width of the labels.
    """
    is_mask = sample.labels.suffix.lower() in PHOTO_ENDINGS
    which = "a photo" if is_mask else f"the photo {sample.photo.name}"
    what = f"labels of {labels[0]}×{labels[1]} pixels (H×W) for {which} of {photo[0]}×{photo[1]}"
    fix = "make them of one size"
    if photo == labels[::-1]:
        fix = "EXIF data rotates the photo when it is shown: label it as shown, or save it upright"
        fix = fix if is_mask else f"height and width are swapped; correct them, or, where {fix}"
    return Problem("error", "size mismatch", str(sample.labels), what, fix)


def _hidden_rotation(sample: Sample, shape: tuple[int, int]) -> str:
    """How EXIF data turn a photo, if labels that were drawn on it as stored have the same size; else ""."""
    orientation = photo_orientation(sample.photo)
    if orientation in (2, 4):
        return "mirrored"
    if orientation == 3:
        return "by 180°"
    return "by 90°" if orientation > 4 and shape[0] == shape[1] else ""


def _read_photo(sample: Sample, problems: list[Problem]) -> tuple[tuple[int, int] | None, str]:
    """The photo's height and width, and the digest of its bytes; a problem is added if it is damaged."""
    try:
        height, width = sample.read_photo().shape[:2]
        return (height, width), hashlib.sha256(sample.photo.read_bytes()).hexdigest()
    except PhotoError as error:
        what = str(error).removeprefix(f"{sample.photo}: ")
        fix = "copy it again from its source, or remove the sample"
        problems.append(Problem("error", "damaged photo", str(sample.photo), what, fix))
        return None, ""
