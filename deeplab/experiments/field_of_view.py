"""A small version of the paper's Table 2: four heads, the same number of steps, on the same photos.

Question: How do the four heads compare in accuracy and speed at the same, small cost of training?

Command:
    python field_of_view.py --data VOC --init vgg16_imagenet_conv_fp16.npz --out results/field-of-view

Writes: OUT.csv and OUT.md. Trained networks are kept in the work folder, so that a run can be resumed.

conv1 to conv5 have ImageNet weights and are frozen. fc6 to fc8 start from random weights and are trained with
batch normalisation, which is folded into their weights at the end. A head with more parameters needs more
steps, so few steps favour small heads; the table gives the number of steps.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import time
from datetime import date
from pathlib import Path

import torch
from tqdm import tqdm

import deeplab
import densecrf
from deeplab.datasets.opening import Dataset, open_dataset
from deeplab.evaluation.scoring import Scorer, Scores
from deeplab.files import write_whole
from deeplab.network.architecture import VARIANTS
from deeplab.network.layer_table import describe
from deeplab.tables import markdown_table
from deeplab.training.loop import train
from deeplab.training.recipe import Recipe

PAPER = {  # Table 2: mean IoU on val after the CRF, parameters, images per second in training
    "deeplab": ("63.74", "65.1 M", "2.90"),
    "deeplab-4x4": ("67.14", "65.1 M", "2.90"),
    "deeplab-7x7": ("67.64", "134.3 M", "1.44"),
    "deeplab-largefov": ("67.64", "20.5 M", "4.84"),
}
CRF = densecrf.Params(normalization="after")
LONGER = 4
"""Factor on the steps of a second run of LargeFOV, which then takes about as long as a 4×4 head."""
SPEED_SIZE = 321
"""Side in pixels of the photos on which speed is measured."""


def recipe_of(variant: str, steps: int, options: argparse.Namespace) -> Recipe:
    """The recipe of a run; all runs differ in head and steps alone."""
    return Recipe(
        data=str(options.data),
        train_split="train_aug",
        val_split="val",
        variant=variant,
        init=str(options.init),
        frozen=tuple(f"conv{stage}" for stage in range(1, 6)),
        scale_low=0.8,
        scale_high=1.2,
        crop=VARIANTS[variant].legal_crop(options.crop),
        batch=options.batch,
        steps=steps,
        optimizer="adamw",
        rate=3e-4,
        last_layer_rate=2.0,
        bias_rate=1.0,
        weight_decay=0.01,
        policy="poly",
        warmup=5,
        head_norm=True,
        score="mIoU-7",
        validate_every=steps,
        validate_photos=8,
        checkpoint_every=max(1, steps // 4),
        seed=0,
    )


@torch.inference_mode()
def photos_a_second(model: deeplab.Model, runs: int = 5) -> float:
    """Speed of the network alone on photos of a legal size."""
    length = model.network.variant.legal_size(SPEED_SIZE)
    batch = torch.zeros(1, 3, length, length).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        model.predictor.network(batch)
        times.append(time.perf_counter() - started)
    return 1 / statistics.median(times[1:])


def evaluate(model: deeplab.Model, val: Dataset, title: str) -> tuple[Scores, Scores]:
    """Scores of the network, and of network and CRF."""
    plain = Scorer(val.class_names)
    refined = Scorer(val.class_names)
    for sample in tqdm(val, desc=title, unit="photo", disable=None):
        photo = sample.read_photo()
        truth = sample.read_labels()
        result = model.segment(photo, crf=False)
        plain.add(truth, result.labels)
        refined.add(truth, densecrf.refine(photo, result.probabilities, params=CRF).argmax(0))
    return plain.scores(), refined.scores()


def row_of(name: str, steps: int, scores: tuple[Scores, Scores], speed: float) -> dict[str, str]:
    """One row of the table.

    Args:
        name: name of the variant.
        steps: steps of its training.
        scores: scores of the network, and of network and CRF.
        speed: images per second.

    Returns:
        Cells by column.
    """
    layers = describe(name, height=SPEED_SIZE, width=SPEED_SIZE)
    head = VARIANTS[name].head
    paper_iou, paper_parameters, paper_speed = PAPER[name]
    network, refined = scores
    multiplications = sum(layer.multiplications for layer in layers)
    return {
        "variant": name,
        "steps": str(steps),
        "kernel": f"{head.kernel}×{head.kernel}",
        "atrous rate": str(head.atrous_rate),
        "parameters": f"{sum(layer.parameters for layer in layers) / 1e6:.1f} M",
        "paper's": paper_parameters,
        "multiplications at 321×321": f"{multiplications / 1e9:.0f} · 10⁹",
        "mIoU-7": f"{100 * network.mean_iou_of():.1f}",
        "mIoU-7, CRF": f"{100 * refined.mean_iou_of():.1f}",
        "mIoU-21, CRF": f"{100 * refined.mean_iou:.1f}",
        "paper's mIoU-21, CRF": paper_iou,
        "images per second": f"{speed:.2f}",
        "paper's, training on a GPU": paper_speed,
    }


def report(rows: list[dict[str, str]], options: argparse.Namespace, photos: int) -> str:
    """OUT.md.

    Args:
        rows: rows of the table.
        options: steps, batch and crop of the runs.
        photos: number of val photos.

    Returns:
        Markdown.
    """
    return (
        "# Field of view at a small training budget\n\n"
        f"The four heads of the paper's Table 2, trained for only {options.steps} steps of {options.batch} "
        f"crops of {options.crop}×{options.crop} from VOC `train_aug` (1,623 photos). The paper uses 6,000 "
        "steps of 20 crops of 321×321 from 10,582 photos. Here, fc6 to fc8 start from random weights and the "
        "ImageNet convolutions are frozen; in the paper, fc6 and fc7 start from subsampled ImageNet weights "
        "and all layers are trained.\n\n"
        f"Scores are for {photos} val photos, on which nothing was tuned, with the CRF parameters of the "
        "authors' release. Images per second are for the network alone, on two CPU cores. Measured by "
        f"`deeplab/experiments/field_of_view.py` on {date.today().isoformat()}.\n\n"
        + markdown_table([list(rows[0]), *(list(row.values()) for row in rows)])
        + "\n"
    )


def main() -> None:
    """Train, evaluate and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="VOC's folder")
    parser.add_argument("--init", required=True, help="ImageNet weights of VGG-16's convolutions")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=225)
    parser.add_argument("--work", type=Path, default=Path("runs/field-of-view"))
    parser.add_argument("--out", type=Path, required=True, help="path without an ending")
    options = parser.parse_args()
    val = open_dataset(options.data, "val")
    rows: list[dict[str, str]] = []
    speeds: dict[str, float] = {}
    runs = [(name, options.steps) for name in PAPER] + [("deeplab-largefov", LONGER * options.steps)]
    for name, steps in runs:
        folder = options.work / (name if steps == options.steps else f"{name}-{steps}")
        model = deeplab.load(weights=train(recipe_of(name, steps, options), folder))
        scores = evaluate(model, val, name)
        if name not in speeds:
            speeds[name] = photos_a_second(model)
        rows.append(row_of(name, steps, scores, speeds[name]))
        print(rows[-1], flush=True)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(options.out.with_suffix(".csv"), text.getvalue().encode())
    write_whole(options.out.with_suffix(".md"), report(rows, options, len(val)).encode())


if __name__ == "__main__":
    main()
