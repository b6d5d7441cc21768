"""Atrous convolution (the hole algorithm)
=======================================

The results of one filter at every fourth pixel, and at every pixel.

A filter behind a stride of 4 gives a coarse map, as fc6 of VGG-16 does behind pools 4 and 5. Without the
stride, and with its taps 4 pixels apart, the same filter gives a result at every pixel, with as many
multiplications for each. Running the strided filter at all sixteen shifts of the photo and interleaving the
maps gives the same results, so there is no approximation. Source: DeepLab (arXiv 1412.7062), section 3.1 and
figure 1.

``python examples/hole_algorithm.py --out hole.png``
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from deeplab.drawing import png, side_by_side
from deeplab.photos import read_photo

STRIDE = 4
PHOTO = Path(sys.argv[0]).parent / "photos" / "cameraman.jpg"


def edge_filter(size: int = 5) -> torch.Tensor:
    """Derivative of a Gaussian along x, (1, 1, size, size); its absolute weights sum to one."""
    position = torch.arange(size) - size // 2
    bell = torch.exp(-(position**2) / 2.0)
    weights = bell[:, None] * (position * bell)[None, :]
    return (weights / weights.abs().sum())[None, None].double()


def shown(response: torch.Tensor) -> np.ndarray:
    """A response (1, 1, H, W) in grey levels: 128 for zero, darker or lighter for edges of either sign."""
    grey = (128 + 2.2 * response[0, 0]).clamp(0, 255).round().to(torch.uint8).numpy()
    return np.repeat(grey[:, :, None], 3, axis=2)


def main() -> None:
    """Filter the photo with the three methods, print the largest difference and write the picture."""
    parser = argparse.ArgumentParser(description="Atrous convolution (the hole algorithm).")
    parser.add_argument("--out", type=Path, default=Path("hole-algorithm.png"))
    options = parser.parse_args()

    photo = read_photo(PHOTO)
    photo = photo[20:276, 100:420]
    grey = torch.from_numpy(photo.mean(axis=2) - 128)[None, None]
    weights = edge_filter()

    coarse = F.conv2d(grey[..., ::STRIDE, ::STRIDE], weights, padding=2)  # behind a stride
    dense = F.conv2d(grey, weights, padding=2 * STRIDE, dilation=STRIDE)  # taps apart
    interleaved = torch.empty_like(dense)
    for down in range(STRIDE):
        for right in range(STRIDE):
            phase = (..., slice(down, None, STRIDE), slice(right, None, STRIDE))
            interleaved[phase] = F.conv2d(grey[phase], weights, padding=2)

    print(f"results: {coarse.numel():,} behind the stride, {dense.numel():,} by atrous convolution")
    print(f"largest difference: {(dense - interleaved).abs().max():.3g}")
    upsampled = F.interpolate(coarse, dense.shape[-2:], mode="nearest")
    sheet = side_by_side(
        {
            "photo": photo,
            f"behind a stride of {STRIDE}": shown(upsampled),
            "atrous convolution": shown(dense),
            "all shifts, interleaved": shown(interleaved),
        }
    )
    options.out.write_bytes(png(sheet))
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
