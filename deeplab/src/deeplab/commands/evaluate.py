"""``deeplab evaluate``: score a network on labelled photos."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from deeplab.commands.engine import OK, Engine, model_of


@dataclass(frozen=True)
class Evaluate:
    """Score the network, without and with the CRF, on a split of a folder in VOC's layout."""

    data: Path
    """Folder in the layout of PASCAL VOC."""
    split: str = "val"
    """Name of the list in ImageSets/Segmentation."""
    engine: OmitArgPrefixes[Engine] = field(default_factory=lambda: Engine())
    crf: bool = True
    """Score with the CRF, too."""
    scales: tuple[float, ...] = (1.0,)
    """Factors on height and width at which the network looks; their probabilities are averaged."""
    mirror: bool = False
    """Look at a mirrored copy, too."""
    boundary: tuple[int, ...] = (10,)
    """Widths in pixels of the bands around void borders that are scored besides."""
    out: Path | None = None
    """Write the figures to this JSON file, and as a table to the same name ending in .md."""


def evaluate(options: Evaluate) -> int:
    """Score without and with the CRF, print the table, and write it if asked."""
    from rich.console import Console
    from tqdm import tqdm

    from deeplab.datasets import voc
    from deeplab.scoreboard import markdown, score, table
    from deeplab.weights import write_whole

    pairs = voc(options.data, options.split)
    model, looks = model_of(options.engine), {"scales": options.scales, "mirror": options.mirror}
    bar = tqdm(pairs, unit="photo", disable=None)
    board = score(model, bar, crf=options.crf, boundary=options.boundary, **looks)
    board |= {"split": options.split, "photos": len(pairs)}
    Console().print(table(board))
    if options.out is not None:
        write_whole(options.out, (json.dumps(board, indent=2, ensure_ascii=False) + "\n").encode())
        write_whole(options.out.with_suffix(".md"), markdown(board).encode())
        print(f"written: {options.out} and {options.out.with_suffix('.md')}")
    return OK
