"""Scores on CamVid's test photos without the CRF, with its default parameters, and with searched ones.

Question: How does a LargeFOV trained on CamVid compare with the published scores?

Command:
    python camvid.py --data CAMVID --weights runs/camvid/weights.safetensors --out results/camvid

Writes: OUT.csv and OUT.md, beside the published scores: SegNet's table (trained there on 3,433 mixed road
photos) and that of the dilated-convolution paper. Probabilities are kept in the work folder.

The CRF's parameters are searched on val photos alone, by the mean IoU over a grid. ``--scale 1.333`` enlarges
the photos to 640×480 for the network.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from tqdm import tqdm

import deeplab
import densecrf
from deeplab.crf_search.evaluate_params import ParamsEvaluator
from deeplab.crf_search.grid import Grid
from deeplab.datasets.opening import Sample, open_dataset
from deeplab.evaluation.scoring import Scorer, Scores
from deeplab.files import check_settings, write_whole
from deeplab.tables import markdown_table

GRID = Grid((1, 2, 4, 6, 9), (10, 20, 40, 80, 120), (2, 3, 5))
BAND = 5
PLACES = ("data", "init", "extra_data", "teacher")  # of a recipe: where files lay, which is nobody's business
PUBLISHED = (
    ("SegNet's table: DeepLab-LargeFOV", "88.20", "62.53", "53.88", "32.77"),
    ("SegNet's table: with the CRF", "89.71", "60.67", "54.74", "40.79"),
    ("dilated convolutions' table: DeepLab-LargeFOV, 640×480", "", "", "61.6", ""),
)


@dataclass
class ScaledScores:
    """A network's probabilities of photos looked at larger or smaller, computed once; a ``ScoreSource``."""

    model: deeplab.Model
    scale: float
    folder: Path

    def __post_init__(self) -> None:
        self.identity = f"weights {self.model.digest}, scale {self.scale:g}"
        self.defaults = self.model.crf_params
        check_settings(self.folder / "scores.json", {"scores of": self.identity})

    def fill(self, pairs: Sequence[Sample]) -> None:
        """Compute what is missing."""
        missing = [pair for pair in pairs if not self._file(pair).is_file()]
        for pair in tqdm(missing, desc="network", unit="photo", disable=None):
            found = self.model.segment(pair.read_photo(), crf=False, scales=(self.scale,)).probabilities
            buffer = io.BytesIO()
            np.save(buffer, found.astype(np.float16))
            write_whole(self._file(pair), buffer.getvalue())

    def probabilities(self, pair: Sample, size: tuple[int, int]) -> np.ndarray:
        """(K, H, W) float32, sums 1."""
        found = np.load(self._file(pair)).astype(np.float32)
        assert found.shape[1:] == size
        return found / found.sum(0)

    def _file(self, pair: Sample) -> Path:
        return self.folder / f"{pair.name}.npy"


def row(name: str, scores: Scores) -> list[str]:
    """Global accuracy, class average, mean IoU, boundary F1 and mean IoU near borders, in percent."""
    figures = (scores.pixel_accuracy, scores.mean_recall, scores.mean_iou, scores.boundary_f1)
    return [name, *(f"{100 * figure:.2f}" for figure in figures)]


def main() -> None:
    """Search on val, judge on test, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="at which photos are looked at")
    parser.add_argument("--tune-on", type=int, default=40, help="how many val photos the CRF is searched on")
    parser.add_argument("--work", type=Path, default=Path("runs/camvid-scores"))
    parser.add_argument("--out", type=Path, required=True, help="path without an ending")
    options = parser.parse_args()
    model = deeplab.load(weights=options.weights)
    source = ScaledScores(model, options.scale, options.work / f"scale-{options.scale:g}")
    tuning, test = open_dataset(options.data, "val"), open_dataset(options.data, "test")
    step = max(1, len(tuning) // options.tune_on)
    chosen = list(tuning)[::step][: options.tune_on]
    source.fill(chosen)
    settings = GRID.settings(source.defaults)
    trials = ParamsEvaluator(
        chosen, source, tuning.class_names, options.work / f"trials-{options.scale:g}.jsonl"
    )
    table = trials.scores(settings)
    best = max(settings, key=lambda params: table[params].mean_iou)
    print(f"best of {len(settings)} on {len(chosen)} val photos: {best}, {100 * table[best].mean_iou:.2f}")

    source.fill(list(test))
    ways = {"network": None, "network + CRF, default": source.defaults, "network + CRF, searched": best}
    scorers = {way: Scorer(test.class_names, (BAND,), True) for way in ways}
    for pair in tqdm(test, desc="test", unit="photo", disable=None):
        photo, truth = pair.read_photo(), pair.read_labels()
        probabilities = source.probabilities(pair, (truth.shape[0], truth.shape[1]))
        for way, params in ways.items():
            found = probabilities if params is None else densecrf.refine(photo, probabilities, params=params)
            scorers[way].add(truth, found.argmax(0))
    scores = {way: scorer.scores() for way, scorer in scorers.items()}
    write(options, model, best, len(chosen), len(test), scores)


def write(
    options: argparse.Namespace,
    model: deeplab.Model,
    best: densecrf.Params,
    tuned: int,
    tested: int,
    scores: dict[str, Scores],
) -> None:
    """OUT.csv with every class, OUT.md beside what was published."""
    names = model.class_names
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "way",
            "global",
            "class",
            "mean IoU",
            "boundary F1",
            f"mean IoU, {BAND} px",
            *(f"IoU {name}" for name in names),
        ]
    )
    for way, found in scores.items():
        near = f"{100 * found.boundary(BAND).mean_iou:.2f}"
        writer.writerow([*row(way, found), near, *(f"{100 * value:.2f}" for value in found.iou.values())])
    write_whole(options.out.with_suffix(".csv"), text.getvalue().encode())
    recipe = {
        key: value for key, value in model.card.provenance.get("recipe", {}).items() if key not in PLACES
    }
    heading = ["", "global accuracy", "class average", "mean IoU", "boundary F1"]
    classes = [
        ["class", *scores],
        *([name, *(f"{100 * s.iou[name]:.1f}" for s in scores.values())] for name in names),
    ]
    size = f"{round(480 * options.scale)}×{round(360 * options.scale)}"
    report = (
        f"# CamVid, {tested} test photos\n\n"
        f"DeepLab-LargeFOV trained on CamVid's 367 train photos, looked at as {size} and scored at 480×360, "
        f"11 classes, void left out. Percent. The CRF was searched on {tuned} val photos, none of them tested; found: "
        f"{json.dumps(vars(best))}. {date.today().isoformat()}.\n\n"
        + markdown_table(
            [heading, *(row(f"ours, {way}", found) for way, found in scores.items()), *map(list, PUBLISHED)]
        )
        + "\n\nSegNet's entries were trained on 3,433 photos of several road data sets, CamVid's among them.\n\n"
        + markdown_table(classes)
        + f"\n\nHow it was trained: `{json.dumps(recipe)}`\n"
    )
    write_whole(options.out.with_suffix(".md"), report.encode())
    print(report)


if __name__ == "__main__":
    main()
