"""The CRF learned by gradient and searched on a grid, on half of the photos, and judged on the other half.

Question: Do gradients find better CRF parameters than a grid search, and does a learned compatibility help?

Command:
    python learned_or_searched.py --data VOC --scores mnv2=FILE.npz --out results/learned-or-searched

Writes: OUT.json, and prints a table for results/learned-or-searched.md.

Only the network's scores are needed, as the network does not change (piecewise training, as in the
paper). The CRF is learned by the cross-entropy of the marginals after five steps and searched by the mean
IoU after ten steps; both are judged after ten.
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
"""The paper's grid begins at 5 / 50 / 3, its best point for scores as sharp as these; this one goes below."""
SEARCHED = "searched on a grid of 60"
LEARNED = "learned, weights"
COLUMNS = ["", "mIoU-7", "mIoU-21", "pixel accuracy", "cross-entropy, nats", "processor seconds"]
Example = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Image (1, 3, H, W), logits (1, K, H, W), labels (1, H, W) int64."""
Refine = Callable[[Example], torch.Tensor]
"""An example to log marginals (1, K, H, W)."""


def example(sample: Sample, source: FileScores) -> Example:
    """One photo as tensors; the logits are log probabilities."""
    photo = sample.read_photo()
    truth = sample.read_labels()
    logits = np.log(np.maximum(source.probabilities(sample, (truth.shape[0], truth.shape[1])), 1e-8))
    image = torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1), np.float32))
    return image[None], torch.from_numpy(logits)[None], torch.from_numpy(truth.astype(np.int64))[None]


def learn(crf: DenseCRF, examples: Sequence[Example], *, epochs: int, rate: float, title: str) -> float:
    """Learn a CRF by Adam with a cosine schedule, one photo a step; no parameter becomes negative.

    Args:
        crf: the module to learn.
        examples: photos to learn from.
        epochs: passes over them.
        rate: first learning rate.
        title: title of the progress bar.

    Returns:
        Processor seconds.
    """
    started = time.process_time()
    optimizer = torch.optim.Adam([p for p in crf.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(examples))
    rng = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        order = torch.randperm(len(examples), generator=rng).tolist()
        for index in tqdm(order, desc=title, unit="photo"):
            image, logits, labels = examples[index]
            optimizer.zero_grad()
            loss = F.cross_entropy(crf(image, logits), labels, ignore_index=IGNORE)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                crf.weights.clamp_(min=0)
                if crf.compatibility is not None:
                    crf.compatibility.clamp_(min=0)
    return time.process_time() - started


def judge(refine: Refine, examples: Sequence[Example], class_names: Sequence[str]) -> list[float]:
    """Score one method.

    Args:
        refine: the method.
        examples: photos to judge on.
        class_names: K class names.

    Returns:
        mIoU-7, mIoU-21 and pixel accuracy in percent, and mean cross-entropy in nats.
    """
    scorer = Scorer(class_names, (), False)
    losses = []
    for one in examples:
        log_marginals = refine(one)
        labels = one[2]
        losses.append(float(F.cross_entropy(log_marginals, labels, ignore_index=IGNORE)))
        scorer.add(labels[0].numpy(), log_marginals[0].argmax(0).numpy())
    scores = scorer.scores()
    shares = (scores.mean_iou_of(), scores.mean_iou, scores.pixel_accuracy)
    return [*(100 * share for share in shares), float(np.mean(losses))]


def refine_by(crf: DenseCRF) -> Refine:
    """Ten steps of a module, without gradients."""
    crf.iterations = 10

    @torch.no_grad()
    def refine(one: Example) -> torch.Tensor:
        return crf(one[0], one[1]).log_softmax(1)

    return refine


def compare(
    dataset: Dataset, source: FileScores, log: Path, epochs: int
) -> tuple[list[list[str]], dict[str, Any]]:
    """Learn and search on one half of the photos, and judge on the other half.

    Args:
        dataset: the photos; every second one belongs to the same half.
        source: class probabilities.
        log: file that keeps the scores of the search.
        epochs: passes over the photos when learning.

    Returns:
        Rows of the table, and the parameters that were found.
    """
    source.fill(dataset)
    train, test = dataset[::2], dataset[1::2]
    train_examples = [example(sample, source) for sample in train]
    classes = len(dataset.class_names)
    learned_compatibility = f"learned, weights and {classes}×{classes} compatibility"
    potts = DenseCRF(DEFAULT, iterations=5)
    pairwise = DenseCRF(DEFAULT, iterations=5, compatibility=1 - torch.eye(classes))
    seconds = {
        LEARNED: learn(potts, train_examples, epochs=epochs, rate=0.1, title="weights"),
        learned_compatibility: learn(
            pairwise, train_examples, epochs=epochs, rate=0.05, title="compatibility"
        ),
    }
    started = time.process_time()
    table = ParamsEvaluator(train, source, dataset.class_names, log).scores(GRID.settings(DEFAULT))
    best = best_of({params: scores.mean_iou for params, scores in table.items()})
    seconds[SEARCHED] = time.process_time() - started
    methods: dict[str, Refine] = {
        "no CRF": lambda one: one[1],
        "default": refine_by(DenseCRF(DEFAULT)),
        SEARCHED: refine_by(DenseCRF(best)),
        LEARNED: refine_by(potts),
        learned_compatibility: refine_by(pairwise),
    }
    test_examples = [example(sample, source) for sample in test]
    rows = []
    for method, refine in methods.items():
        *percent, loss = judge(refine, test_examples, dataset.class_names)
        spent = f"{seconds[method]:.0f}" if method in seconds else "–"
        rows.append([method, *(f"{value:.2f}" for value in percent), f"{loss:.3f}", spent])
    return rows, parameters_found(best, potts, pairwise, dataset.class_names)


def parameters_found(
    best: densecrf.Params, potts: DenseCRF, pairwise: DenseCRF, class_names: Sequence[str]
) -> dict[str, Any]:
    """The parameters that were searched and learned, and the compatibilities that changed most.

    Args:
        best: the searched parameters.
        potts: the learned CRF with Potts's compatibility.
        pairwise: the CRF with a learned compatibility.
        class_names: K class names.

    Returns:
        Lists by title.
    """
    assert pairwise.compatibility is not None
    change = (pairwise.compatibility.detach() - (1 - torch.eye(len(class_names)))).numpy()
    largest = np.argsort(-np.abs(change), axis=None)[:8]
    return {
        "searched": [best.appearance_weight, best.appearance_xy_std, best.appearance_rgb_std],
        "learned weights (appearance, smoothness)": [round(value, 3) for value in potts.weights.tolist()],
        "learned beside compatibility": [round(value, 3) for value in pairwise.weights.tolist()],
        "compatibilities that moved most": [
            f"{class_names[row]} beside {class_names[column]}: {change[row, column]:+.2f}"
            for row, column in zip(*np.unravel_index(largest, change.shape), strict=True)
        ],
    }


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
        "--work", type=Path, default=Path("runs/learned-or-searched"), help="folder that keeps the search"
    )
    parser.add_argument("--out", type=Path, required=True, help="path without an ending")
    options = parser.parse_args()
    dataset = open_dataset(options.data, options.split)
    options.work.mkdir(parents=True, exist_ok=True)
    record = {}
    for word in options.scores:
        name, _, file = word.partition("=")
        log = options.work / f"{name}.jsonl"
        rows, found = compare(dataset, FileScores(Path(file), dataset), log, options.epochs)
        record[name] = {"rows": [dict(zip(COLUMNS, row, strict=True)) for row in rows], **found}
        print(f"## Scores of {name}\n\n{markdown_table([COLUMNS, *rows])}\n")
        for title, values in found.items():
            print(f"- {title}: {', '.join(map(str, values))}")
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    write_whole(options.out.with_suffix(".json"), text)


if __name__ == "__main__":
    main()
