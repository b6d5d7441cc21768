"""A CRF over a video
==================

A disc moves across a textured background, and its noisy scores flicker from frame to frame. The example
compares a separate CRF for each frame with one CRF over the whole video, which also connects neighbouring
frames.

``python examples/video_crf.py --picture video.png``
"""

import argparse
from pathlib import Path

import torch

import densecrf
from densecrf.torch import DenseCRF

FRAME = 3.0
"""Distance between two frames in pixels; the disc moves about as far."""


def clip(
    frames: int, height: int, width: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A video (1, 3, T, H, W) in 0-255, class scores (1, 2, T, H, W), and true labels (1, T, H, W).

    Args:
        frames: number of frames T.
        height: H in pixels.
        width: W in pixels.
        seed: seed of the noise.
    """
    rng = torch.Generator().manual_seed(seed)
    t, y, x = torch.meshgrid(torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij")
    labels = ((y - height / 2) ** 2 + (x - width / 4 - FRAME * t) ** 2 < (height / 4) ** 2).long()
    ground = torch.tensor([60.0, 110.0, 70.0]).reshape(3, 1, 1, 1) + 12 * torch.sin(x / 3.0 + y / 5.0)
    disc = torch.tensor([110.0, 115.0, 66.0]).reshape(3, 1, 1, 1)
    video = torch.where(labels.bool(), disc, ground) + 6 * torch.randn(
        3, frames, height, width, generator=rng
    )
    # The noise consists of blocks that change from frame to frame.
    coarse = torch.randn(2, frames, height // 4 + 1, width // 4 + 1, generator=rng)
    noise = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)[:, :, :height, :width]
    scores = 1.5 * torch.stack([1 - labels, labels]) + 2.0 * noise
    return video.clamp(0, 255)[None], scores[None], labels[None]


def draw(path: Path, video: torch.Tensor, results: dict[str, torch.Tensor]) -> None:
    """Draw three frames and their labels by each method.

    Args:
        path: PNG to write.
        video: (1, 3, T, H, W) in 0-255.
        results: scores (1, 2, T, H, W) by name of the method.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots(1 + len(results), 3)
    for column, frame in enumerate((0, video.shape[2] // 2, video.shape[2] - 1)):
        axes[0, column].imshow(video[0, :, frame].permute(1, 2, 0) / 255)
        axes[0, column].set_title(f"frame {frame + 1}")
        for row, (name, scores) in enumerate(results.items(), 1):
            axes[row, column].imshow(scores[0].argmax(0)[frame], cmap="magma")
            axes[row, column].set_title(name)
    for panel in axes.flat:
        panel.axis("off")
    figure.savefig(path, dpi=90)


def main(arguments: list[str] | None = None) -> tuple[float, float, float]:
    """Print and return the shares of wrong pixels: without CRF, frame by frame, over all frames."""
    parser = argparse.ArgumentParser(description="A CRF over a video.")
    parser.add_argument("--size", type=int, nargs=3, default=(8, 48, 72), metavar=("T", "H", "W"))
    parser.add_argument("--picture", type=Path, help="PNG to draw some of the frames in; needs matplotlib")
    options = parser.parse_args(arguments)
    video, scores, labels = clip(*options.size)
    params = densecrf.Params(appearance_weight=6, appearance_xy_std=8, appearance_rgb_std=15)
    with torch.no_grad():
        joint = DenseCRF(params, spacing=(FRAME, 1, 1))(video, scores)
        frames = DenseCRF(params)(video[0].transpose(0, 1), scores[0].transpose(0, 1))  # frames as a batch
    results = {"no CRF": scores, "frame by frame": frames.transpose(0, 1)[None], "all frames": joint}
    alone, by_frame, over_all = (
        float((result.argmax(1) != labels).float().mean()) for result in results.values()
    )
    print(f"wrong pixels: {alone:.2%} without CRF, {by_frame:.2%} by frame, {over_all:.2%} over all frames")
    if options.picture:
        draw(options.picture, video, results)
    return alone, by_frame, over_all


if __name__ == "__main__":
    main()
