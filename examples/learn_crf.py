"""Learn a CRF from cached scores
==============================

This example learns the weights and the label compatibility of a CRF by gradient descent on the cross-entropy.
The network is fixed and only its cached scores are used, so a step takes only the time of the CRF's forward
and backward passes.

Each file in the folder --scores is a NumPy .npz with ``image`` (H, W, 3) uint8, ``scores`` (K, H, W) float
and ``labels`` (H, W) uint8, 255 for void. Without a folder, the example generates scenes. Every fourth photo
is held out, and the printed results are for the held-out photos.

.. code-block:: text

    python examples/learn_crf.py --scores FOLDER --out learned
    densecrf refine PHOTO SCORES.npy -o LABELS.png --params learned/params.json    # uses only the weights

To train a network and its CRF together, compute ``crf(image, network(image))`` and give the CRF's parameters
their own learning rate. Source: Zheng et al. 2015 (CRF as RNN).
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


def generate_samples(count: int, height: int = 40, width: int = 56) -> list[Sample]:
    """Scenes with a disc of class 1 and one of class 2, with weak scores, on a background of class 0.

    Args:
        count: number of scenes.
        height: H in pixels.
        width: W in pixels.
    """
    samples = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:height, :width]
        labels = np.zeros((height, width), np.int64)
        for label in (1, 2):
            centre = rng.uniform((8, 8), (height - 8, width - 8))
            radius = rng.uniform(6, 11)
            labels[np.hypot(y - centre[0], x - centre[1]) < radius] = label
        colours = np.array([[70, 100, 75], [110, 95, 70], [75, 90, 110]])[labels]
        image = np.clip(colours + rng.normal(scale=14, size=colours.shape), 0, 255)
        coarse = rng.normal(size=(3, height // 4 + 1, width // 4 + 1))
        noise = coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width]
        scores = 1.6 * (labels == np.arange(3)[:, None, None]) + noise
        scores[2] -= 0.8 * (labels == 2)
        samples.append(to_tensors(image, scores, labels))
    return samples


def to_tensors(image: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Sample:
    """Tensors of one photo.

    Args:
        image: (H, W, 3).
        scores: (K, H, W).
        labels: (H, W) integers.
    """
    return (
        torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32))[None],
        torch.from_numpy(np.ascontiguousarray(scores, np.float32))[None],
        torch.from_numpy(labels.astype(np.int64))[None],
    )


def read_sample(path: Path) -> Sample:
    """One cached photo; ValueError if something is missing."""
    with np.load(path, allow_pickle=False) as file:
        missing = {"image", "scores", "labels"} - set(file.files)
        if missing:
            raise ValueError(f"{path}: lacks {', '.join(sorted(missing))}; wanted image, scores and labels")
        return to_tensors(file["image"], file["scores"], file["labels"])


@torch.no_grad()
def evaluate(crf: DenseCRF, samples: list[Sample]) -> tuple[float, float]:
    """Mean cross-entropy, and mean IoU of the classes that occur.

    Args:
        crf: the CRF.
        samples: photos with scores and labels.
    """
    losses = []
    hit = union = 0.0
    for image, scores, labels in samples:
        logits = crf(image, scores)
        losses.append(float(F.cross_entropy(logits, labels, ignore_index=VOID)))
        classes = logits.shape[1]
        true = labels[labels != VOID]
        predicted = logits.argmax(1)[labels != VOID]
        confusion = torch.bincount(true * classes + predicted, minlength=classes**2).reshape(-1, classes)
        hit = hit + confusion.diag()
        union = union + confusion.sum(0) + confusion.sum(1) - confusion.diag()
    return float(np.mean(losses)), float((hit / union)[union > 0].mean())


def learn(crf: DenseCRF, samples: list[Sample], *, epochs: int, rate: float) -> None:
    """Train with Adam, one photo per step; weights and compatibility never become negative.

    Args:
        crf: the CRF to train.
        samples: photos with scores and labels.
        epochs: number of passes over the photos.
        rate: initial learning rate, which decays to 0 by a cosine schedule.
    """
    optimizer = torch.optim.Adam([p for p in crf.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(samples))
    rng = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for index in torch.randperm(len(samples), generator=rng).tolist():
            image, scores, labels = samples[index]
            optimizer.zero_grad()
            F.cross_entropy(crf(image, scores), labels, ignore_index=VOID).backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                crf.weights.clamp_(min=0)
                if crf.compatibility is not None:
                    crf.compatibility.clamp_(min=0)


@torch.no_grad()
def draw(path: Path, sample: Sample, crfs: dict[str, DenseCRF]) -> None:
    """Draw a photo, its labels, and the labels that each CRF predicts.

    Args:
        path: PNG to write.
        sample: a photo with scores and labels.
        crfs: CRFs by name.
    """
    from matplotlib.figure import Figure

    image, scores, labels = sample
    pictures = {"photo": image[0].permute(1, 2, 0) / 255, "labels": labels[0]}
    pictures |= {name: crf(image, scores)[0].argmax(0) for name, crf in crfs.items()}
    figure = Figure(figsize=(10, 2.2), layout="constrained")
    for panel, (name, picture) in zip(figure.subplots(1, len(pictures)), pictures.items(), strict=True):
        panel.imshow(picture, cmap="magma", vmin=0, vmax=scores.shape[1] - 1)
        panel.set_title(name)
        panel.axis("off")
    figure.savefig(path, dpi=90)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description="Learn a CRF from cached scores.")
    parser.add_argument("--scores", type=Path, help="folder of .npz files (default: generated scenes)")
    parser.add_argument("--out", type=Path, help="folder for params.json and compatibility.npy")
    parser.add_argument("--photos", type=int, default=16, help="number of scenes to generate")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate")
    parser.add_argument("--iterations", type=int, default=5, help="mean-field iterations")
    parser.add_argument(
        "--widths",
        action="store_true",
        help="also learn the widths; slower, as the lattice then runs in PyTorch",
    )
    parser.add_argument("--picture", type=Path, help="PNG to draw a held-out photo in; needs matplotlib")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Learn, print and write; returns cross-entropy and mean IoU on the held-out photos for each CRF."""
    options = parse(arguments)
    if options.scores:
        samples = [read_sample(path) for path in sorted(options.scores.glob("*.npz"))]
    else:
        samples = generate_samples(options.photos)
    if len(samples) < 4:
        raise SystemExit(f"got {len(samples)} photos, wanted at least 4: every fourth is held out")
    held_out = samples[3::4]
    training = [sample for number, sample in enumerate(samples) if number % 4 != 3]

    classes = samples[0][1].shape[1]
    params = densecrf.Params(appearance_rgb_std=10, normalization="after")
    crf = DenseCRF(params, compatibility=1 - torch.eye(classes), iterations=options.iterations)
    crf.log_widths.requires_grad_(options.widths)
    crfs = {"no CRF": DenseCRF(iterations=0), "initial CRF": copy.deepcopy(crf), "learned CRF": crf}
    learn(crf, training, epochs=options.epochs, rate=options.rate)

    table = {name: evaluate(one, held_out) for name, one in crfs.items()}
    for name, (loss, iou) in table.items():
        print(f"{name:12s} cross-entropy {loss:.4f}   mean IoU {100 * iou:.2f}")
    print(crf.params())
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(crf.params()), indent=2)
        (options.out / "params.json").write_text(text + "\n")
        np.save(options.out / "compatibility.npy", crf.compatibility.detach().numpy())
    if options.picture:
        draw(options.picture, held_out[0], crfs)
    return table


if __name__ == "__main__":
    main()
