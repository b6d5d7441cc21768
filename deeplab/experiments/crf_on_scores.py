"""Effect of the fully connected CRF on the scores of real networks.

Question: What do the CRF's parameters, its normalisation and its self-message change, and how near to
boundaries?

Command:
    python crf_on_scores.py --data VOC --scores mnv2=FILE.npz dm05=FILE.npz ours --out results/crf-on-scores

Writes: OUT.csv, and OUT.png with the bands around boundaries; prints a short table. The rows of each set of
scores are kept in the work folder; remove its folder there to compute them again.

Each set of scores is refined with the release's default parameters, and with the best of a grid found on
the other half of the photos; the halves take turns, so that no photo is judged with parameters that it
helped to choose. With the default parameters also: symmetric normalisation and normalisation afterwards,
with and without the pixel's own message, the accurate lattice, and pydensecrf2.
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
"""Widths in pixels of the bands around boundaries."""
PRINTED_WIDTHS = (1, 3, 10, 40)
DEFAULT = densecrf.Params(normalization="after")
GRID = Grid((3, 4, 5, 7), (30, 50), (2, 3, 5))
NO_CRF = "network"
DEFAULT_METHOD = "CRF, default"
SEARCHED = "CRF, searched on the other half"

Refine = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Photo (H, W, 3) and probabilities (K, H, W) to labels (H, W)."""


def refine(
    photo: np.ndarray, probabilities: np.ndarray, *, params: densecrf.Params, backend: str = "lattice"
) -> np.ndarray:
    """Labels by this project's CRF."""
    return densecrf.refine(photo, probabilities, params=params, backend=backend).argmax(0)


def refine_without_self(
    photo: np.ndarray, probabilities: np.ndarray, *, params: densecrf.Params
) -> np.ndarray:
    """Labels by the textbook's sum over j ≠ i, without a pixel's message to itself."""
    size = (photo.shape[0], photo.shape[1])
    smoothness = densecrf.Gaussian(size, xy_std=params.smoothness_xy_std, weight=params.smoothness_weight)
    appearance = densecrf.Bilateral(
        photo,
        xy_std=params.appearance_xy_std,
        channel_std=params.appearance_rgb_std,
        weight=params.appearance_weight,
    )
    crf = densecrf.DenseCRF([smoothness, appearance], normalization=params.normalization, include_self=False)
    return crf.infer(densecrf.unary_from_probabilities(probabilities), iterations=10).argmax(0)


def refine_by_pydensecrf(
    photo: np.ndarray, probabilities: np.ndarray, *, params: densecrf.Params
) -> np.ndarray:
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


def methods() -> dict[str, Refine]:
    """The methods that are compared at the default parameters, by name."""
    symmetric = replace(DEFAULT, normalization="symmetric")
    return {
        DEFAULT_METHOD: partial(refine, params=DEFAULT),
        "CRF, symmetric": partial(refine, params=symmetric),
        "CRF, without self-message": partial(refine_without_self, params=DEFAULT),
        "CRF, accurate lattice": partial(refine, params=DEFAULT, backend="accurate"),
        "pydensecrf2, after": partial(refine_by_pydensecrf, params=DEFAULT),
        "pydensecrf2, symmetric": partial(refine_by_pydensecrf, params=symmetric),
    }


def searched(source: ScoreSource, dataset: Dataset, folder: Path) -> dict[str, densecrf.Params]:
    """For each photo, the best parameters of the grid on the half that the photo is not in.

    Args:
        source: class probabilities.
        dataset: the photos; every second one belongs to the same half.
        folder: folder that keeps the scores of the parameters.

    Returns:
        Parameters by the name of the photo.
    """
    settings = GRID.settings(DEFAULT)
    best: dict[str, densecrf.Params] = {}
    halves = dataset[::2], dataset[1::2]
    for number, (tuned_on, judged) in enumerate((halves, halves[::-1])):
        log = folder / f"half-{number}.jsonl"
        table = ParamsEvaluator(tuned_on, source, dataset.class_names, log).scores(settings)
        winner = max(settings, key=lambda params: table[params].mean_iou_of())
        best |= {sample.name: winner for sample in judged}
        print(f"best on half {number}: {winner}, mIoU-7 {100 * table[winner].mean_iou_of():.2f}", flush=True)
    return best


def compare(
    name: str, source: ScoreSource, dataset: Dataset, folder: Path
) -> dict[str, tuple[Scores, float]]:
    """Refine one set of scores by every method.

    Args:
        name: name of the scores, for the progress bar.
        source: class probabilities.
        dataset: the photos.
        folder: folder that keeps the search.

    Returns:
        Scores and processor seconds by method.
    """
    source.fill(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    best = searched(source, dataset, folder)
    fixed = methods()
    scorers = {method: Scorer(dataset.class_names, WIDTHS, False) for method in (NO_CRF, *fixed, SEARCHED)}
    seconds = dict.fromkeys(scorers, 0.0)
    for sample in tqdm(dataset, desc=name, unit="photo"):
        photo = sample.read_photo()
        truth = sample.read_labels()
        probabilities = source.probabilities(sample, (truth.shape[0], truth.shape[1]))
        scorers[NO_CRF].add(truth, probabilities.argmax(0))
        for method, function in (fixed | {SEARCHED: partial(refine, params=best[sample.name])}).items():
            started = time.process_time()
            labels = function(photo, probabilities)
            seconds[method] += time.process_time() - started
            scorers[method].add(truth, labels)
    return {method: (scorer.scores(), seconds[method]) for method, scorer in scorers.items()}


def rows_of(name: str, table: dict[str, tuple[Scores, float]]) -> list[dict[str, Any]]:
    """One row for each method, in percent.

    Args:
        name: name of the scores.
        table: scores and processor seconds by method.

    Returns:
        Rows of the CSV file.
    """
    rows = []
    for method, (scores, seconds) in table.items():
        shares = {
            "mIoU-7": scores.mean_iou_of(),
            "mIoU-21": scores.mean_iou,
            "pixel accuracy": scores.pixel_accuracy,
        }
        for width in WIDTHS:
            shares[f"mIoU-7, {width} px"] = scores.boundary(width).mean_iou_of()
            shares[f"mIoU-21, {width} px"] = scores.boundary(width).mean_iou
        percent = {key: round(100 * share, 3) for key, share in shares.items()}
        rows.append({"scores of": name, "way": method} | percent | {"processor seconds": round(seconds, 1)})
    return rows


def chart(tables: dict[str, list[dict[str, Any]]]) -> bytes:
    """PNG of mIoU-7 within a band around boundaries by the band's width, and of the CRF's gain below it."""
    figure = new_figure(4.2 * len(tables), 5.6)
    for column, (name, rows) in enumerate(tables.items(), 1):
        curves = {
            row["way"]: [row[f"mIoU-7, {width} px"] for width in WIDTHS]
            for row in rows
            if row["way"] in (NO_CRF, DEFAULT_METHOD, SEARCHED)
        }
        upper = figure.add_subplot(2, len(tables), column)
        lower = figure.add_subplot(2, len(tables), column + len(tables))
        for colour, (method, curve) in zip(COLOURS, curves.items(), strict=True):
            upper.plot(WIDTHS, curve, color=colour, label=method)
            if method != NO_CRF:
                lower.plot(WIDTHS, np.subtract(curve, curves[NO_CRF]), color=colour)
        upper.set_title(name, fontsize=10)
        upper.set_ylabel("mIoU-7 in the band, %")
        upper.legend(fontsize=7, frameon=False)
        lower.set_ylabel("gain of the CRF, points")
        lower.set_xlabel("width of the band, px")
        lower.axhline(0, color="#999999", linewidth=0.8)
    return png_of(figure)


def source_of(word: str, dataset: Dataset, folder: Path) -> ScoreSource:
    """The scores that one --scores names.

    Args:
        word: NAME=FILE.npz, or "ours" or ours=WEIGHTS for a network of this project.
        dataset: the photos.
        folder: folder that keeps computed scores.

    Returns:
        The scores.
    """
    name, _, file = word.partition("=")
    if file.endswith(".npz"):
        return FileScores(Path(file), dataset)
    model = deeplab.load(weights=file or None)
    return CachedScores(model, dataset, "val", folder / f"scores-{name}")


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the rows without most of the bands."""
    columns = ["scores of", "way", "mIoU-7", "mIoU-21", "pixel accuracy"]
    columns += [f"mIoU-7, {width} px" for width in PRINTED_WIDTHS]
    cells = [
        [f"{row[key]:.2f}" if isinstance(row[key], float) else str(row[key]) for key in columns]
        for row in rows
    ]
    print(markdown_table([columns, *cells]))


def main() -> None:
    """Compare, and write the table and the chart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="VOC's folder")
    parser.add_argument("--split", default="val")
    parser.add_argument("--scores", nargs="+", required=True, metavar="NAME=FILE")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/crf-on-scores"), help="folder for results between runs"
    )
    parser.add_argument("--out", type=Path, required=True, help="path without an ending")
    options = parser.parse_args()
    dataset = open_dataset(options.data, options.split)
    tables: dict[str, list[dict[str, Any]]] = {}
    for word in options.scores:
        name, _, _ = word.partition("=")
        file = options.work / name / "rows.json"
        if not file.exists():
            source = source_of(word, dataset, options.work)
            write_whole(file, json.dumps(rows_of(name, compare(name, source, dataset, file.parent))))
        tables[name] = json.loads(file.read_text())
    rows = [row for table in tables.values() for row in table]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(options.out.with_suffix(".csv"), text.getvalue())
    write_whole(options.out.with_suffix(".png"), chart(tables))
    print_table(rows)


if __name__ == "__main__":
    main()
