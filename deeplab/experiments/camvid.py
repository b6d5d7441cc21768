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
from deeplab.datasets.opening import Dataset, Sample, open_dataset
from deeplab.evaluation.scoring import Scorer, Scores
from deeplab.files import check_settings, write_whole
from deeplab.tables import markdown_table

GRID = Grid((1, 2, 4, 6, 9), (10, 20, 40, 80, 120), (2, 3, 5))
BAND = 5
"""Width in pixels of the band around borders that is scored as well."""
PATH_KEYS = ("data", "init", "extra_data", "teacher")
"""Recipe keys with paths of the machine, which are not reported."""
PUBLISHED = (
    ("SegNet's table: DeepLab-LargeFOV", "88.20", "62.53", "53.88", "32.77"),
    ("SegNet's table: with the CRF", "89.71", "60.67", "54.74", "40.79"),
    ("dilated convolutions' table: DeepLab-LargeFOV, 640×480", "", "", "61.6", ""),
)


@dataclass
class ScaledScores:
    """A network's probabilities on resized photos, computed once; a ``ScoreSource``."""

    model: deeplab.Model
    scale: float
    """Factor on the photos' sides."""
    folder: Path
    """Folder that keeps the probabilities."""

    def __post_init__(self) -> None:
        self.identity = f"weights {self.model.digest}, scale {self.scale:g}"
        self.defaults = self.model.crf_params
        check_settings(self.folder / "scores.json", {"scores of": self.identity})

    def fill(self, samples: Sequence[Sample]) -> None:
        """Compute the probabilities that are missing."""
        missing = [sample for sample in samples if not self._file(sample).is_file()]
        for sample in tqdm(missing, desc="network", unit="photo", disable=None):
            result = self.model.segment(sample.read_photo(), crf=False, scales=(self.scale,))
            buffer = io.BytesIO()
            np.save(buffer, result.probabilities.astype(np.float16))
            write_whole(self._file(sample), buffer.getvalue())

    def probabilities(self, sample: Sample, size: tuple[int, int]) -> np.ndarray:
        """Probabilities of one photo.

        Args:
            sample: the photo.
            size: height and width of its labels.

        Returns:
            (K, H, W) float32; they sum to 1 over K.
        """
        stored = np.load(self._file(sample)).astype(np.float32)
        assert stored.shape[1:] == size
        return stored / stored.sum(0)

    def _file(self, sample: Sample) -> Path:
        return self.folder / f"{sample.name}.npy"


@dataclass(frozen=True)
class Result:
    """Everything that is reported."""

    model: deeplab.Model
    params: densecrf.Params
    """The searched CRF parameters."""
    tuned_on: int
    """Number of val photos that they were searched on."""
    tested_on: int
    """Number of test photos."""
    scores: dict[str, Scores]
    """Scores by method."""


def search(source: ScaledScores, val: Dataset, count: int, log: Path) -> tuple[densecrf.Params, int]:
    """Search the CRF's parameters on some val photos.

    Args:
        source: probabilities.
        val: the val split.
        count: number of photos to search on.
        log: file that keeps the scores of the parameters.

    Returns:
        The best parameters, and the number of photos.
    """
    step = max(1, len(val) // count)
    chosen = list(val)[::step][:count]
    source.fill(chosen)
    settings = GRID.settings(source.defaults)
    table = ParamsEvaluator(chosen, source, val.class_names, log).scores(settings)
    best = max(settings, key=lambda params: table[params].mean_iou)
    print(f"best of {len(settings)} on {len(chosen)} val photos: {best}, {100 * table[best].mean_iou:.2f}")
    return best, len(chosen)


def evaluate(source: ScaledScores, test: Dataset, searched: densecrf.Params) -> dict[str, Scores]:
    """Scores on test photos by method: without the CRF, with its defaults, and with searched parameters."""
    source.fill(list(test))
    methods = {
        "network": None,
        "network + CRF, default": source.defaults,
        "network + CRF, searched": searched,
    }
    scorers = {method: Scorer(test.class_names, (BAND,), True) for method in methods}
    for sample in tqdm(test, desc="test", unit="photo", disable=None):
        photo = sample.read_photo()
        truth = sample.read_labels()
        probabilities = source.probabilities(sample, (truth.shape[0], truth.shape[1]))
        for method, params in methods.items():
            refined = probabilities
            if params is not None:
                refined = densecrf.refine(photo, probabilities, params=params)
            scorers[method].add(truth, refined.argmax(0))
    return {method: scorer.scores() for method, scorer in scorers.items()}


def row(name: str, scores: Scores) -> list[str]:
    """Name, global accuracy, class average, mean IoU and boundary F1, in percent."""
    values = (scores.pixel_accuracy, scores.mean_recall, scores.mean_iou, scores.boundary_f1)
    return [name, *(f"{100 * value:.2f}" for value in values)]


def csv_table(result: Result) -> str:
    """OUT.csv, with the IoU of every class."""
    names = result.model.class_names
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    columns = ["way", "global", "class", "mean IoU", "boundary F1", f"mean IoU, {BAND} px"]
    writer.writerow([*columns, *(f"IoU {name}" for name in names)])
    for method, scores in result.scores.items():
        near = f"{100 * scores.boundary(BAND).mean_iou:.2f}"
        writer.writerow(
            [*row(method, scores), near, *(f"{100 * value:.2f}" for value in scores.iou.values())]
        )
    return text.getvalue()


def report(result: Result, scale: float) -> str:
    """OUT.md, beside the published scores.

    Args:
        result: what was measured.
        scale: factor on the photos' sides.

    Returns:
        Markdown.
    """
    trained_by = result.model.card.provenance.get("recipe", {})
    recipe = {key: value for key, value in trained_by.items() if key not in PATH_KEYS}
    heading = ["", "global accuracy", "class average", "mean IoU", "boundary F1"]
    ours = [row(f"ours, {method}", scores) for method, scores in result.scores.items()]
    classes = [
        [name, *(f"{100 * scores.iou[name]:.1f}" for scores in result.scores.values())]
        for name in result.model.class_names
    ]
    size = f"{round(480 * scale)}×{round(360 * scale)}"
    return (
        f"# CamVid, {result.tested_on} test photos\n\n"
        f"DeepLab-LargeFOV trained on CamVid's 367 train photos. The network sees photos resized to {size}; "
        "scores are in percent at 480×360 for 11 classes, without void. The CRF parameters were searched on "
        f"{result.tuned_on} val photos: `{json.dumps(vars(result.params))}`. Measured by "
        f"`deeplab/experiments/camvid.py` on {date.today().isoformat()}.\n\n"
        + markdown_table([heading, *ours, *map(list, PUBLISHED)])
        + "\n\nThe networks in SegNet's table were trained on 3,433 photos of several road data sets, "
        "including CamVid.\n\n"
        + markdown_table([["class", *result.scores], *classes])
        + f"\n\nRecipe: `{json.dumps(recipe)}`\n"
    )


def main() -> None:
    """Search on val, score on test, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the photos' sides")
    parser.add_argument("--tune-on", type=int, default=40, help="number of val photos to search the CRF on")
    parser.add_argument("--work", type=Path, default=Path("runs/camvid-scores"))
    parser.add_argument("--out", type=Path, required=True, help="path without an ending")
    options = parser.parse_args()
    model = deeplab.load(weights=options.weights)
    source = ScaledScores(model, options.scale, options.work / f"scale-{options.scale:g}")
    val = open_dataset(options.data, "val")
    test = open_dataset(options.data, "test")
    log = options.work / f"trials-{options.scale:g}.jsonl"
    best, tuned_on = search(source, val, options.tune_on, log)
    result = Result(model, best, tuned_on, len(test), evaluate(source, test, best))
    write_whole(options.out.with_suffix(".csv"), csv_table(result).encode())
    text = report(result, options.scale)
    write_whole(options.out.with_suffix(".md"), text.encode())
    print(text)


if __name__ == "__main__":
    main()
