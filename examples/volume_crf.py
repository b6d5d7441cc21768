"""A CRF over a volume
===================

A CRF refines the noisy scores of a ball in a scan whose slices are further apart than its pixels.

``python examples/volume_crf.py --picture volume.png``
"""

import argparse
from pathlib import Path

import torch

import densecrf
from densecrf.torch import DenseCRF

SPACING = (2.5, 1.0, 1.0)
"""Distances between slices, rows and columns in millimetres."""


def scan(size: tuple[int, int, int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A volume (1, 1, D, H, W) in levels, class scores (1, 2, D, H, W), and true labels (1, D, H, W).

    Args:
        size: (D, H, W).
        seed: seed of the noise.
    """
    rng = torch.Generator().manual_seed(seed)
    positions = torch.meshgrid(
        *(torch.arange(n) * step - n * step / 2 for n, step in zip(size, SPACING, strict=True)), indexing="ij"
    )
    labels = (sum(axis**2 for axis in positions).sqrt() < 0.3 * size[1]).long()
    volume = 80.0 + 45 * labels + 10 * torch.randn(size, generator=rng)
    scores = torch.stack([1 - labels, labels]) + torch.randn(2, *size, generator=rng)
    return volume[None, None], scores[None], labels[None]


def draw(path: Path, volumes: dict[str, torch.Tensor]) -> None:
    """Draw two sections of each volume, one within a slice and one across all slices.

    Args:
        path: PNG to write.
        volumes: (D, H, W) by name.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axes = figure.subplots(2, len(volumes))
    for column, (name, volume) in enumerate(volumes.items()):
        depth, height, _ = volume.shape
        axes[0, column].imshow(volume[depth // 2], cmap="magma")
        axes[0, column].set_title(f"{name}, one slice")
        axes[1, column].imshow(volume[:, height // 2], cmap="magma", aspect=SPACING[0] / SPACING[2])
        axes[1, column].set_title(f"{name}, across the slices")
    for panel in axes.flat:
        panel.axis("off")
    figure.savefig(path, dpi=90)


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Print and return the shares of wrong voxels before and after the CRF."""
    parser = argparse.ArgumentParser(description="A CRF over a volume.")
    parser.add_argument("--size", type=int, nargs=3, default=(16, 48, 56), metavar=("D", "H", "W"))
    parser.add_argument("--picture", type=Path, help="PNG to draw two sections in; needs matplotlib")
    options = parser.parse_args(arguments)
    volume, scores, labels = scan(tuple(options.size))
    params = densecrf.Params(
        appearance_weight=6,
        appearance_xy_std=8,
        appearance_rgb_std=25,
        smoothness_weight=2,
        smoothness_xy_std=2,
    )
    crf = DenseCRF(params, spacing=SPACING)  # widths are in millimetres
    with torch.no_grad():
        refined = crf(volume, scores)
    before, after = (float((result.argmax(1) != labels).float().mean()) for result in (scores, refined))
    print(f"wrong voxels: {before:.2%} without CRF, {after:.2%} with CRF")
    if options.picture:
        draw(
            options.picture,
            {"scan": volume[0, 0], "scores": scores[0].argmax(0), "with CRF": refined[0].argmax(0)},
        )
    return before, after


if __name__ == "__main__":
    main()
