"""Learn a CRF from cached scores
==============================

Its weights and its label compatibility, by gradient descent on the cross-entropy. The network stays as it is:
only its scores are needed, so a step costs a CRF forward and back. Each file of the folder --scores is a
NumPy .npz with ``image`` (H, W, 3) uint8, ``scores`` (K, H, W) float and ``labels`` (H, W) uint8, 255 for
void. Without it, scenes are made up. Every fourth photo is kept aside, and the lines printed are about those
alone.

.. code-block:: text

    python examples/learn_crf.py --scores FOLDER --out learned
    densecrf refine PHOTO SCORES.npy -o LABELS.png --params learned/params.json    # where it takes weights
    alone

To train a network and its CRF together, let the one feed the other, ``crf(image, network(image))``, and give
the CRF's parameters a learning rate of their own. Source: Zheng et al. 2015 (CRF as RNN).
"""

import argparse
import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import densecrf
from densecrf.torch import DenseCRF

VOID = 255
Sample = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Image (1, 3, H, W), scores (1, K, H, W), labels (1, H, W) int64."""


def made_up(count: int, height: int = 40, width: int = 56) -> list[Sample]:
    """Discs of class 1 and, hard to tell by its scores, class 2, on ground of class 0."""
    samples = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:height, :width]
        labels = np.zeros((height, width), np.int64)
        for label in (1, 2):
            centre, radius = rng.uniform((8, 8), (height - 8, width - 8)), rng.uniform(6, 11)
            labels[np.hypot(y - centre[0], x - centre[1]) < radius] = label
        colours = np.array([[70, 100, 75], [110, 95, 70], [75, 90, 110]])[labels]
        image = np.clip(colours + rng.normal(scale=14, size=colours.shape), 0, 255)
        blocks = (
            rng.normal(size=(3, height // 4 + 1, width // 4 + 1))
            .repeat(4, 1)
            .repeat(4, 2)[:, :height, :width]
        )
        scores = 1.6 * (labels == np.arange(3)[:, None, None]) + blocks
        scores[2] -= 0.8 * (labels == 2)
        samples.append(sample(image, scores, labels))
    return samples


def sample(image: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Sample:
    """Tensors of one photo."""
    return (
        torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32))[None],
        torch.from_numpy(np.ascontiguousarray(scores, np.float32))[None],
        torch.from_numpy(labels.astype(np.int64))[None],
    )


def read(path: Path) -> Sample:
    """One cached photo; ValueError if something is missing."""
    with np.load(path, allow_pickle=False) as file:
        missing = {"image", "scores", "labels"} - set(file.files)
        if missing:
            raise ValueError(
                f"{path}: no {', '.join(sorted(missing))} in it, wanted image, scores and labels"
            )
        return sample(file["image"], file["scores"], file["labels"])


def loss_of(crf: DenseCRF, one: Sample) -> torch.Tensor:
    """Mean cross-entropy of a photo's pixels."""
    image, scores, labels = one
    return F.cross_entropy(crf(image, scores), labels, ignore_index=VOID)


@torch.no_grad()
def judge(crf: DenseCRF, samples: list[Sample]) -> tuple[float, float]:
    """Mean cross-entropy, and mean IoU of the classes that occur."""
    losses, hit, union = [], 0.0, 0.0
    for image, scores, labels in samples:
        found = crf(image, scores)
        losses.append(float(F.cross_entropy(found, labels, ignore_index=VOID)))
        ids, wanted = found.argmax(1)[labels != VOID], labels[labels != VOID]
        confusion = torch.bincount(wanted * found.shape[1] + ids, minlength=found.shape[1] ** 2).reshape(
            -1, found.shape[1]
        )
        hit, union = hit + confusion.diag(), union + confusion.sum(0) + confusion.sum(1) - confusion.diag()
    return float(np.mean(losses)), float((hit / union)[union > 0].mean())


def learn(crf: DenseCRF, samples: list[Sample], *, epochs: int, rate: float) -> None:
    """Adam, one photo a step; weights and compatibility are kept from going below zero."""
    optimizer = torch.optim.Adam([p for p in crf.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(samples))
    rng = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for index in torch.randperm(len(samples), generator=rng).tolist():
            optimizer.zero_grad()
            loss_of(crf, samples[index]).backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                crf.weights.clamp_(min=0)
                if crf.compatibility is not None:
                    crf.compatibility.clamp_(min=0)


@torch.no_grad()
def draw(path: Path, one: Sample, ways: dict[str, DenseCRF]) -> None:
    """Write a photo, its labels, and the labels that each way finds."""
    from matplotlib.figure import Figure

    image, scores, labels = one
    pictures = {"photo": image[0].permute(1, 2, 0) / 255, "labels": labels[0]}
    pictures |= {name: crf(image, scores)[0].argmax(0) for name, crf in ways.items()}
    figure = Figure(figsize=(10, 2.2), layout="constrained")
    for panel, (name, picture) in zip(figure.subplots(1, len(pictures)), pictures.items(), strict=True):
        panel.imshow(picture, cmap="magma", vmin=0, vmax=scores.shape[1] - 1)
        panel.set_title(name)
        panel.axis("off")
    figure.savefig(path, dpi=90)


def main(arguments: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Learn, print, write; returns cross-entropy and mean IoU on the photos kept aside, by what they are
    of."""
    parser = argparse.ArgumentParser(description="Learn a CRF from cached scores.")
    parser.add_argument("--scores", type=Path, help="folder of .npz files; scenes are made up without")
    parser.add_argument("--out", type=Path, help="folder for params.json and compatibility.npy")
    parser.add_argument("--photos", type=int, default=16, help="how many scenes to make up")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument(
        "--widths", action="store_true", help="learn the widths, too: slower, by the lattice in PyTorch"
    )
    parser.add_argument("--picture", type=Path, help="PNG to draw a photo kept aside in; needs matplotlib")
    options = parser.parse_args(arguments)
    samples = (
        [read(p) for p in sorted(options.scores.glob("*.npz"))] if options.scores else made_up(options.photos)
    )
    if len(samples) < 4:
        raise SystemExit(f"got {len(samples)} photos, wanted 4 at least: every fourth is kept aside")
    aside, taught = samples[3::4], [one for number, one in enumerate(samples) if number % 4 != 3]
    labels = samples[0][1].shape[1]
    params = densecrf.Params(appearance_rgb_std=10, normalization="after")
    crf = DenseCRF(params, compatibility=1 - torch.eye(labels), iterations=options.iterations)
    crf.log_widths.requires_grad_(options.widths)
    ways = {
        "scores alone": DenseCRF(iterations=0),
        "CRF as it comes": copy.deepcopy(crf),
        "CRF that learned": crf,
    }
    learn(crf, taught, epochs=options.epochs, rate=options.rate)
    table = {name: judge(one, aside) for name, one in ways.items()}
    for name, (loss, iou) in table.items():
        print(f"{name:18s} cross-entropy {loss:.4f}   mean IoU {100 * iou:.2f}")
    print(crf.params())
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "params.json").write_text(
            json.dumps(dataclasses.asdict(crf.params()), indent=2) + "\n"
        )
        np.save(options.out / "compatibility.npy", crf.compatibility.detach().numpy())
    if options.picture:
        draw(options.picture, aside[0], ways)
    return table


if __name__ == "__main__":
    main()
