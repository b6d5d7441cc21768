"""One photo refined from files to a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from densecrf.images import read_image
from densecrf.label_files import write_result
from densecrf.params import Params
from densecrf.refinement import refine
from densecrf.score_files import VOID, read_scores


@dataclass(frozen=True)
class JobOptions:
    """What a command line says about refinement."""

    params: Params = field(default_factory=Params)
    kind: str = "auto"
    """One of ``score_files.FILE_KINDS``."""
    upsample: bool | str = False
    """See ``refine``."""
    confidence: float = 0.9
    """Probability of the labels of class ids and masks."""
    ignore: int = VOID
    """Class id of pixels without a label."""
    iterations: int = 10
    threads: int | None = None
    backend: str = "lattice"


def refine_file(photo: Path, scores: Path, out: Path, options: JobOptions) -> str:
    """Refine the scores of one photo and write labels or marginals.

    Args:
        photo: see ``images.read_image``.
        scores: see ``score_files.read_scores``.
        out: see ``label_files.write_result``.
        options: parameters, and what the scores are.

    Returns:
        A line that says what was read and how much has changed.

    Raises:
        ImportError: without Pillow, for images.
        OSError: if a file cannot be read or written.
        ValueError: for files that are no images or scores, or do not fit.
        MemoryError: if the image is too large for the memory that is free.
    """
    image = read_image(photo)
    found = read_scores(
        scores,
        (image.shape[0], image.shape[1]),
        kind=options.kind,
        confidence=options.confidence,
        ignore=options.ignore,
        upsample=bool(options.upsample),
    )
    marginals = refine(
        image,
        found.values,
        kind=found.kind,
        upsample=options.upsample,
        params=options.params,
        iterations=options.iterations,
        threads=options.threads,
        backend=options.backend,
    )
    labels = write_result(out, marginals, found.palette)
    height, width = labels.shape
    count = 2 if marginals.ndim == 2 else len(marginals)
    line = f"{out}: {width}×{height}, {count} labels, scores taken as {found.taken_as}"
    before = found.labels()
    if before.shape != labels.shape:
        return line
    return f"{line}, {100 * float((labels != before).mean()):.2f} % of pixels changed"
