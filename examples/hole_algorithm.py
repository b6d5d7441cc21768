"""The hole algorithm in one picture
=================================

A filter's answers at every fourth pixel, and at every pixel with the same filter.

A filter behind a stride of 4 gives a coarse map, as fc6 does in VGG-16 behind pools 4 and 5. Take the stride
away and put holes between the filter's taps: it now answers at every pixel, with as many multiplications for
each answer. The same answers come from the strided filter run at all sixteen shifts of the photo and woven
together: there is no approximation. Source: DeepLab (arXiv 1412.7062), section 3.1 and figure 1.

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
    """(1, 1, size, size): the slope of a Gaussian along x; absolute weights sum to one."""
    place = torch.arange(size) - size // 2
    bell = torch.exp(-(place**2) / 2.0)
    weights = bell[:, None] * (place * bell)[None, :]
    return (weights / weights.abs().sum())[None, None].double()


def shown(response: torch.Tensor) -> np.ndarray:
    """A response as grey levels: 128 for none, darker and lighter for edges of either sign."""
    grey = (128 + 2.2 * response[0, 0]).clamp(0, 255).round().to(torch.uint8).numpy()
    return np.repeat(grey[:, :, None], 3, axis=2)


def main() -> None:
    """Filter the photo in the three ways, print the largest difference, write the picture."""
    parser = argparse.ArgumentParser(description="The hole algorithm in one picture.")
    parser.add_argument("--out", type=Path, default=Path("hole-algorithm.png"))
    options = parser.parse_args()

    photo = read_photo(PHOTO)
    photo = photo[20:276, 100:420]
    grey = torch.from_numpy(photo.mean(axis=2) - 128)[None, None]
    weights = edge_filter()

    coarse = F.conv2d(grey[..., ::STRIDE, ::STRIDE], weights, padding=2)  # behind a stride
    dense = F.conv2d(grey, weights, padding=2 * STRIDE, dilation=STRIDE)  # no stride, holes between the taps
    woven = torch.empty_like(dense)
    for down in range(STRIDE):
        for right in range(STRIDE):
            phase = (..., slice(down, None, STRIDE), slice(right, None, STRIDE))
            woven[phase] = F.conv2d(grey[phase], weights, padding=2)

    print(f"answers: {coarse.numel():,} behind the stride, {dense.numel():,} with holes")
    print(f"largest difference: {(dense - woven).abs().max():.3g}")
    upsampled = F.interpolate(coarse, dense.shape[-2:], mode="nearest")
    sheet = side_by_side(
        {
            "photo": photo,
            f"behind a stride of {STRIDE}": shown(upsampled),
            "hole algorithm": shown(dense),
            "all shifts, woven together": shown(woven),
        }
    )
    options.out.write_bytes(png(sheet))
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
