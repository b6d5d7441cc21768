"""Effect of the fully connected CRF on the scores of real networks.

Question: What do the CRF's parameters, its normalisation and its self-message change, and how near to
boundaries?

Command:
    python crf_on_scores.py --data VOC --scores mnv2=FILE.npz dm05=FILE.npz ours --out results/crf-on-scores

Writes: OUT.csv, and OUT.png with the bands around boundaries; prints a short table. The rows of each set of
scores are kept in the work folder; remove its folder there to compute them again.

Each set of scores is refined with the release's default parameters, and with the best of a grid found on the
other half of the photos; the halves take turns, so that no photo is judged with parameters that it helped to
choose. With the default parameters also: symmetric normalisation and normalisation afterwards, with and without
the pixel's own message, the accurate lattice, and pydensecrf2.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import deeplab
import densecrf
from deeplab.crf_search.evaluate_params import ParamsEvaluator
from deeplab.crf_search.grid import Grid
from deeplab.crf_search.score_cache import CachedScores, FileScores, ScoreSource
from deeplab.datasets.opening import Dataset, open_dataset
from deeplab.evaluation.charts import COLOURS, new_figure, png_of
from deeplab.evaluation.scoring import Scorer, Scores
from deeplab.files import write_whole
from deeplab.tables import markdown_table

WIDTHS = tuple(range(1, 41))
DEFAULT = densecrf.Params(normalization="after")
GRID = Grid((3, 4, 5, 7), (30, 50), (2, 3, 5))
NO_CRF, DEFAULT_WAY, SEARCHED = "network", "CRF, default", "CRF, searched on the other half"

Refine = Callable[[np.ndarray, np.ndarray], np.ndarray]


def own(
    photo: np.ndarray, probabilities: np.ndarray, *, params: densecrf.Params, backend: str = "lattice"
) -> np.ndarray:
    """Labels by this project's CRF."""
    return densecrf.refine(photo, probabilities, params=params, backend=backend).argmax(0)


def without_self(photo: np.ndarray, probabilities: np.ndarray, *, params: densecrf.Params) -> np.ndarray:
    """Labels by the textbook's sum over j ≠ i."""
    size = (photo.shape[0], photo.shape[1])
    crf = densecrf.DenseCRF(
        [
            densecrf.Gaussian(size, xy_std=params.smoothness_xy_std, weight=params.smoothness_weight),
            densecrf.Bilateral(
                photo,
                xy_std=params.appearance_xy_std,
                channel_std=params.appearance_rgb_std,
                weight=params.appearance_weight,
            ),
        ],
        normalization=params.normalization,
        include_self=False,
    )
    return crf.infer(densecrf.unary_from_probabilities(probabilities), iterations=10).argmax(0)


def rival(photo: np.ndarray, probabilities: np.ndarray, *, params: densecrf.Params) -> np.ndarray:
    """Labels by pydensecrf2."""
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import unary_from_softmax

    kind = {"symmetric": dcrf.NORMALIZE_SYMMETRIC, "after": dcrf.NORMALIZE_AFTER}[params.normalization]
    classes, height, width = probabilities.shape
    crf = dcrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probabilities)))
    crf.addPairwiseGaussian(params.smoothness_xy_std, params.smoothness_weight, normalization=kind)
    crf.addPairwiseBilateral(
        params.appearance_xy_std,
        params.appearance_rgb_std,
        np.array(photo),
        params.appearance_weight,
        normalization=kind,
    )
    return np.array(crf.inference(10)).argmax(0).reshape(height, width)


def ways() -> dict[str, Refine]:
    """All that is compared at the default parameters."""
    symmetric = replace(DEFAULT, normalization="symmetric")
    return {
        DEFAULT_WAY: partial(own, params=DEFAULT),
        "CRF, symmetric": partial(own, params=symmetric),
        "CRF, without self-message": partial(without_self, params=DEFAULT),
        "CRF, accurate lattice": partial(own, params=DEFAULT, backend="accurate"),
        "pydensecrf2, after": partial(rival, params=DEFAULT),
        "pydensecrf2, symmetric": partial(rival, params=symmetric),
    }


def searched(source: ScoreSource, dataset: Dataset, folder: Path) -> dict[str, densecrf.Params]:
    """For each photo the setting of the grid with the best mean IoU on the half that it is not in."""
    settings = GRID.settings(DEFAULT)
    best: dict[str, densecrf.Params] = {}
    halves = dataset.pairs[::2], dataset.pairs[1::2]
    for number, (tuned, judged) in enumerate((halves, halves[::-1])):
        trials = ParamsEvaluator(tuned, source, dataset.class_names, folder / f"half-{number}.jsonl")
        table = trials.scores(settings)
        winner = max(settings, key=lambda params: table[params].mean_iou_of())
        best |= {pair.name: winner for pair in judged}
        print(f"best on half {number}: {winner}, mIoU-7 {100 * table[winner].mean_iou_of():.2f}", flush=True)
    return best


def compare(
    name: str, source: ScoreSource, dataset: Dataset, folder: Path
) -> dict[str, tuple[Scores, float]]:
    """Scores and processor seconds by way."""
    source.fill(dataset.pairs)
    folder.mkdir(parents=True, exist_ok=True)
    best = searched(source, dataset, folder)
    chosen = ways()
    scorers = {way: Scorer(dataset.class_names, WIDTHS, False) for way in (NO_CRF, *chosen, SEARCHED)}
    seconds = dict.fromkeys(scorers, 0.0)
    for pair in tqdm(dataset.pairs, desc=name, unit="photo"):
        photo, truth = pair.read_photo(), pair.read_labels()
        probabilities = source.probabilities(pair, (truth.shape[0], truth.shape[1]))
        scorers[NO_CRF].add(truth, probabilities.argmax(0))
        for way, refine in (chosen | {SEARCHED: partial(own, params=best[pair.name])}).items():
            started = time.process_time()
            labels = refine(photo, probabilities)
            seconds[way] += time.process_time() - started
            scorers[way].add(truth, labels)
    return {way: (scorer.scores(), seconds[way]) for way, scorer in scorers.items()}


def rows_of(name: str, table: dict[str, tuple[Scores, float]]) -> list[dict[str, Any]]:
    """One row a way."""
    rows = []
    for way, (scores, seconds) in table.items():
        row: dict[str, Any] = {"scores of": name, "way": way}
        row |= {
            "mIoU-7": scores.mean_iou_of(),
            "mIoU-21": scores.mean_iou,
            "pixel accuracy": scores.pixel_accuracy,
        }
        for width in WIDTHS:
            row[f"mIoU-7, {width} px"] = scores.boundary(width).mean_iou_of()
            row[f"mIoU-21, {width} px"] = scores.boundary(width).mean_iou
        row = {
            key: round(100 * value, 3) if isinstance(value, float) else value for key, value in row.items()
        }
        rows.append(row | {"processor seconds": round(seconds, 1)})
    return rows


def chart(tables: dict[str, list[dict[str, Any]]]) -> bytes:
    """mIoU-7 within a band around boundaries against the band's width, and the CRF's gain below."""
    figure = new_figure(4.2 * len(tables), 5.6)
    for place, (name, rows) in enumerate(tables.items()):
        curves = {
            row["way"]: [row[f"mIoU-7, {width} px"] for width in WIDTHS]
            for row in rows
            if row["way"] in (NO_CRF, DEFAULT_WAY, SEARCHED)
        }
        upper, lower = (figure.add_subplot(2, len(tables), place + 1 + row * len(tables)) for row in (0, 1))
        for colour, (way, curve) in zip(COLOURS, curves.items(), strict=True):
            upper.plot(WIDTHS, curve, color=colour, label=way)
            if way != NO_CRF:
                lower.plot(WIDTHS, np.subtract(curve, curves[NO_CRF]), color=colour)
        upper.set_title(name, fontsize=10)
        upper.set_ylabel("mIoU-7 in the band, %")
        upper.legend(fontsize=7, frameon=False)
        lower.set_ylabel("gain of the CRF, points")
        lower.set_xlabel("width of the band, px")
        lower.axhline(0, color="#999999", linewidth=0.8)
    return png_of(figure)


def source_of(word: str, dataset: Dataset, folder: Path) -> ScoreSource:
    """Scores by NAME=FILE.npz, or "ours" (or ours=WEIGHTS) for a network of this project."""
    name, _, file = word.partition("=")
    if file.endswith(".npz"):
        return FileScores(Path(file), dataset)
    model = deeplab.load(weights=file or None)
    return CachedScores(model, dataset, "val", folder / f"scores-{name}")


def main() -> None:
    """Compare, and write the table and the chart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="VOC's folder")
    parser.add_argument("--split", default="val")
    parser.add_argument("--scores", nargs="+", required=True, metavar="NAME=FILE")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/crf-on-scores"), help="folder for what is kept between runs"
    )
    parser.add_argument("--out", type=Path, required=True, help="path without an ending")
    options = parser.parse_args()
    dataset = open_dataset(options.data, options.split)
    tables: dict[str, list[dict[str, Any]]] = {}
    for word in options.scores:
        name, _, _ = word.partition("=")
        kept = options.work / name / "rows.json"
        if not kept.exists():
            source = source_of(word, dataset, options.work)
            write_whole(kept, json.dumps(rows_of(name, compare(name, source, dataset, kept.parent))).encode())
        tables[name] = json.loads(kept.read_text())
    rows = [row for table in tables.values() for row in table]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(options.out.with_suffix(".csv"), text.getvalue().encode())
    write_whole(options.out.with_suffix(".png"), chart(tables))
    shown = (
        "scores of",
        "way",
        "mIoU-7",
        "mIoU-21",
        "pixel accuracy",
        *(f"mIoU-7, {w} px" for w in (1, 3, 10, 40)),
    )
    lines = [
        [f"{row[key]:.2f}" if isinstance(row[key], float) else str(row[key]) for key in shown] for row in rows
    ]
    print(markdown_table([list(shown), *lines]))


if __name__ == "__main__":
    main()
