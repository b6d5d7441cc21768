"""Atrous convolution (the hole algorithm)
=======================================

Atrous convolution computes the results of a strided filter at every pixel.

A filter after a stride of 4 has a coarse output, like fc6 of VGG-16 after pool4 and pool5. Without the
stride, and with its taps 4 pixels apart, the same filter has an output at every pixel, with the same number
of multiplications for each. This is not an approximation: running the strided filter at all sixteen shifts of
the photo, and interleaving the outputs, gives the same result. Source: DeepLab (arXiv 1412.7062), section 3.1
and figure 1.

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
    """Derivative of a Gaussian along x, (1, 1, size, size); the absolute values of its weights sum to one."""
    position = torch.arange(size) - size // 2
    bell = torch.exp(-(position**2) / 2.0)
    weights = bell[:, None] * (position * bell)[None, :]
    return (weights / weights.abs().sum())[None, None].double()


def shown(response: torch.Tensor) -> np.ndarray:
    """A response (1, 1, H, W) as a grey image: 128 for zero, darker for negative, lighter for positive."""
    grey = (128 + 2.2 * response[0, 0]).clamp(0, 255).round().to(torch.uint8).numpy()
    return np.repeat(grey[:, :, None], 3, axis=2)


def main() -> None:
    """Filter the photo by the three methods, print the largest difference and write the picture."""
    parser = argparse.ArgumentParser(description="Atrous convolution (the hole algorithm).")
    parser.add_argument("--out", type=Path, default=Path("hole-algorithm.png"))
    options = parser.parse_args()

    photo = read_photo(PHOTO)
    photo = photo[20:276, 100:420]
    grey = torch.from_numpy(photo.mean(axis=2) - 128)[None, None]
    weights = edge_filter()

    coarse = F.conv2d(grey[..., ::STRIDE, ::STRIDE], weights, padding=2)  # after a stride
    dense = F.conv2d(grey, weights, padding=2 * STRIDE, dilation=STRIDE)  # atrous
    interleaved = torch.empty_like(dense)
    for down in range(STRIDE):
        for right in range(STRIDE):
            phase = (..., slice(down, None, STRIDE), slice(right, None, STRIDE))
            interleaved[phase] = F.conv2d(grey[phase], weights, padding=2)

    print(f"outputs: {coarse.numel():,} after the stride, {dense.numel():,} by atrous convolution")
    print(f"largest difference: {(dense - interleaved).abs().max():.3g}")
    upsampled = F.interpolate(coarse, dense.shape[-2:], mode="nearest")
    sheet = side_by_side(
        {
            "photo": photo,
            f"after a stride of {STRIDE}": shown(upsampled),
            "atrous convolution": shown(dense),
            "all shifts, interleaved": shown(interleaved),
        }
    )
    options.out.write_bytes(png(sheet))
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
