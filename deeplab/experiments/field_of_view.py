"""A small version of the paper's Table 2: four heads, the same number of steps, on the same photos.

Question: How do the four heads compare in accuracy and speed at the same, small cost of training?

Command:
    python field_of_view.py --data VOC --init vgg16_imagenet_conv_fp16.npz --out results/field-of-view

Writes: OUT.csv and OUT.md. Trained networks stay in the work folder, where a run that was stopped resumes.

conv1 to conv5 are ImageNet's and stay as they are. fc6 to fc8 start from random weights and learn with batch
normalisation, which is folded away at the end. A head with more parameters has more to learn, so that so few
steps favour small heads; the table says how many steps there were.
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
from deeplab.datasets.opening import open_dataset
from deeplab.evaluation.scoring import Scorer
from deeplab.files import write_whole
from deeplab.network.architecture import VARIANTS
from deeplab.network.layer_table import describe
from deeplab.tables import markdown_table
from deeplab.training.loop import train
from deeplab.training.recipe import Recipe

PAPER = {  # Table 2: mean IoU on val after the CRF, parameters, images a second in training
    "deeplab": ("63.74", "65.1 M", "2.90"),
    "deeplab-4x4": ("67.14", "65.1 M", "2.90"),
    "deeplab-7x7": ("67.64", "134.3 M", "1.44"),
    "deeplab-largefov": ("67.64", "20.5 M", "4.84"),
}
CRF = densecrf.Params(normalization="after")
LONGER = 4  # times the steps, in a second row of LargeFOV: about as long as a 4×4 head takes


def recipe_of(variant: str, steps: int, options: argparse.Namespace) -> Recipe:
    """The same for all but the head."""
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
def photos_a_second(model: deeplab.Model, size: int, runs: int = 5) -> float:
    """Of the network alone, on photos of a legal size."""
    length = model.network.variant.legal_size(size)
    batch = torch.zeros(1, 3, length, length).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        model.predictor.network(batch)
        times.append(time.perf_counter() - started)
    return 1 / statistics.median(times[1:])


def main() -> None:
    """Train, judge, write."""
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
    rows, speeds = [], dict[str, float]()
    budgets = [(name, options.steps) for name in PAPER] + [("deeplab-largefov", LONGER * options.steps)]
    for name, steps in budgets:
        folder = options.work / (name if steps == options.steps else f"{name}-{steps}")
        weights = folder / "weights.safetensors"
        if not weights.is_file():
            train(recipe_of(name, steps, options), folder)
        model = deeplab.load(weights=weights)
        plain, refined = (Scorer(val.class_names) for _ in range(2))
        for pair in tqdm(val, desc=name, unit="photo", disable=None):
            photo, truth = pair.read_photo(), pair.read_labels()
            found = model.segment(photo, crf=False)
            plain.add(truth, found.labels)
            refined.add(truth, densecrf.refine(photo, found.probabilities, params=CRF).argmax(0))
        if name not in speeds:
            speeds[name] = photos_a_second(model, 321)
        layers = describe(name, height=321, width=321)
        head, iou, parameters, speed = VARIANTS[name].head, *PAPER[name]
        figures = [s.scores() for s in (plain, refined)]
        rows.append(
            {
                "variant": name,
                "steps": str(steps),
                "kernel": f"{head.kernel}×{head.kernel}",
                "atrous rate": str(head.atrous_rate),
                "parameters": f"{sum(layer.parameters for layer in layers) / 1e6:.1f} M",
                "paper's": parameters,
                "multiplications at 321×321": f"{sum(layer.multiplications for layer in layers) / 1e9:.0f} · 10⁹",
                "mIoU-7": f"{100 * figures[0].mean_iou_of():.1f}",
                "mIoU-7, CRF": f"{100 * figures[1].mean_iou_of():.1f}",
                "mIoU-21, CRF": f"{100 * figures[1].mean_iou:.1f}",
                "paper's mIoU-21, CRF": iou,
                "images a second": f"{speeds[name]:.2f}",
                "paper's, training on a GPU": speed,
            }
        )
        print(rows[-1], flush=True)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(options.out.with_suffix(".csv"), text.getvalue().encode())
    write_whole(options.out.with_suffix(".md"), report(rows, options, len(val)).encode())


def report(rows: list[dict[str, str]], options: argparse.Namespace, photos: int) -> str:
    """OUT.md."""
    return (
        "# Field of view, in small\n\n"
        f"The four heads of the paper's Table 2, each trained for {options.steps} steps of {options.batch} crops of "
        f"{options.crop}×{options.crop} from VOC `train_aug` (1,623 pairs; the paper: 6,000 steps of 20 crops of "
        "321×321 from 10,582), fc6 to fc8 from random numbers on ImageNet's convolutions, which stay as they are (the "
        "paper starts from ImageNet's fc6 and fc7, cut to size, and trains all). Scored on "
        f"{photos} val photos; nothing was tuned on them. CRF: the release's defaults. Images a second: the network "
        f"alone, on two cores of a CPU. {date.today().isoformat()}, `deeplab/experiments/field_of_view.py`.\n\n"
        + markdown_table([list(rows[0]), *(list(row.values()) for row in rows)])
        + "\n"
    )


if __name__ == "__main__":
    main()
