"""The CRF learned by gradient and searched on a grid, on half of the photos, and judged on the other half.

Question: Do gradients find better CRF parameters than a grid search, and does a learned compatibility help?

Command:
    python learned_or_searched.py --data VOC --scores mnv2=FILE.npz --out results/learned-or-searched

Writes: OUT.json, and prints a table for results/learned-or-searched.md.

Only the network's scores are needed, as the network does not change (piecewise training, as in the paper). The
CRF is learned by the cross-entropy of the marginals after five steps and searched by the mean IoU after ten
steps; both are judged after ten.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import densecrf
from deeplab.classes import IGNORE
from deeplab.crf_search.evaluate_params import ParamsEvaluator
from deeplab.crf_search.grid import Grid, best_of
from deeplab.crf_search.score_cache import FileScores
from deeplab.datasets.opening import Dataset, Sample, open_dataset
from deeplab.evaluation.scoring import Scorer
from deeplab.files import write_whole
from deeplab.tables import markdown_table
from densecrf.torch import DenseCRF

DEFAULT = densecrf.Params(normalization="after")
GRID = Grid((2, 3, 4, 5, 7), (30, 50, 80), (2, 3, 5, 8))
"""The paper's grid begins at 5 / 50 / 3, which is its best for scores as sharp as these: this one goes
below."""
SEARCH = "searched on a grid of 60"
Example = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Image (1, 3, H, W), logits (1, K, H, W), labels (1, H, W) int64."""


def example(pair: Sample, source: FileScores) -> Example:
    """One photo as tensors; logits are log probabilities."""
    photo, truth = pair.read_photo(), pair.read_labels()
    logits = np.log(np.maximum(source.probabilities(pair, (truth.shape[0], truth.shape[1])), 1e-8))
    image = torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1), np.float32))
    return image[None], torch.from_numpy(logits)[None], torch.from_numpy(truth.astype(np.int64))[None]


def learn(crf: DenseCRF, samples: Sequence[Example], *, epochs: int, rate: float, name: str) -> float:
    """Adam with a cosine schedule, a photo a step; nothing turns negative. Returns processor seconds."""
    started = time.process_time()
    optimizer = torch.optim.Adam([p for p in crf.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(samples))
    rng = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for index in tqdm(torch.randperm(len(samples), generator=rng).tolist(), desc=name, unit="photo"):
            image, logits, labels = samples[index]
            optimizer.zero_grad()
            F.cross_entropy(crf(image, logits), labels, ignore_index=IGNORE).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                crf.weights.clamp_(min=0)
                if crf.compatibility is not None:
                    crf.compatibility.clamp_(min=0)
    return time.process_time() - started


def judge(
    refine: Callable[[Example], torch.Tensor], samples: Sequence[Example], class_names: Sequence[str]
) -> list[float]:
    """mIoU-7, mIoU-21, pixel accuracy in percent, and mean cross-entropy in nats, of log marginals (1, K, H,
    W)."""
    scorer, losses = Scorer(class_names, (), False), []
    for one in samples:
        found = refine(one)
        losses.append(float(F.cross_entropy(found, one[2], ignore_index=IGNORE)))
        scorer.add(one[2][0].numpy(), found[0].argmax(0).numpy())
    scores = scorer.scores()
    return [
        100 * scores.mean_iou_of(),
        100 * scores.mean_iou,
        100 * scores.pixel_accuracy,
        float(np.mean(losses)),
    ]


def by_module(crf: DenseCRF) -> Callable[[Example], torch.Tensor]:
    """Ten steps of a module, without gradients."""
    crf.iterations = 10

    @torch.no_grad()
    def refine(one: Example) -> torch.Tensor:
        return crf(one[0], one[1]).log_softmax(1)

    return refine


def compare(
    dataset: Dataset, source: FileScores, store: Path, epochs: int
) -> tuple[list[list[str]], dict[str, Any]]:
    """Rows of the table, and what was found."""
    source.fill(dataset.pairs)
    halves = dataset.pairs[::2], dataset.pairs[1::2]
    taught, judged = ([example(pair, source) for pair in half] for half in halves)
    classes = len(dataset.class_names)
    potts = DenseCRF(DEFAULT, iterations=5)
    pairwise = DenseCRF(DEFAULT, iterations=5, compatibility=1 - torch.eye(classes))
    seconds = {"learned, weights": learn(potts, taught, epochs=epochs, rate=0.1, name="weights")}
    name = f"learned, weights and {classes}×{classes} compatibility"
    seconds[name] = learn(pairwise, taught, epochs=epochs, rate=0.05, name="compatibility")
    started = time.process_time()
    trials = ParamsEvaluator(halves[0], source, dataset.class_names, store)
    settings = GRID.settings(DEFAULT)
    best = best_of({params: scores.mean_iou for params, scores in trials.scores(settings).items()})
    seconds[SEARCH] = time.process_time() - started
    ways = {
        "no CRF": lambda one: one[1],
        "default": by_module(DenseCRF(DEFAULT)),
        SEARCH: by_module(DenseCRF(best)),
        "learned, weights": by_module(potts),
        name: by_module(pairwise),
    }
    rows = []
    for way, refine in ways.items():
        figures = judge(refine, judged, dataset.class_names)
        spent = f"{seconds[way]:.0f}" if way in seconds else "–"
        rows.append([way, *(f"{figure:.2f}" for figure in figures[:3]), f"{figures[3]:.3f}", spent])
    found: dict[str, Any] = {
        "searched": [best.appearance_weight, best.appearance_xy_std, best.appearance_rgb_std],
        "learned weights (appearance, smoothness)": [round(value, 3) for value in potts.weights.tolist()],
        "learned beside compatibility": [round(value, 3) for value in pairwise.weights.tolist()],
    }
    assert pairwise.compatibility is not None
    moved = (pairwise.compatibility.detach() - (1 - torch.eye(classes))).numpy()
    order = np.argsort(-np.abs(moved), axis=None)[:8]
    found["compatibilities that moved most"] = [
        f"{dataset.class_names[row]} beside {dataset.class_names[column]}: {moved[row, column]:+.2f}"
        for row, column in zip(*np.unravel_index(order, moved.shape), strict=True)
    ]
    return rows, found


def main() -> None:
    """Learn, search, judge and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="VOC's folder")
    parser.add_argument("--split", default="val")
    parser.add_argument("--scores", nargs="+", required=True, metavar="NAME=FILE")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/learned-or-searched"), help="keeps the search's trials"
    )
    parser.add_argument("--out", type=Path, required=True, help="path without an ending")
    options = parser.parse_args()
    dataset = open_dataset(options.data, options.split)
    head = ["", "mIoU-7", "mIoU-21", "pixel accuracy", "cross-entropy, nats", "processor seconds"]
    told, record = [], {}
    for word in options.scores:
        name, _, file = word.partition("=")
        options.work.mkdir(parents=True, exist_ok=True)
        rows, found = compare(
            dataset, FileScores(Path(file), dataset), options.work / f"{name}.jsonl", options.epochs
        )
        told += [f"## Scores of {name}", "", markdown_table([head, *rows]), ""]
        told += [
            f"- {key}: {', '.join(map(str, value))}"
            for key, value in found.items()
            if isinstance(value, list)
        ]
        told.append("")
        record[name] = {"rows": [dict(zip(head, row, strict=True)) for row in rows], **found}
    write_whole(
        options.out.with_suffix(".json"), (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
    )
    print("\n".join(told))


if __name__ == "__main__":
    main()
