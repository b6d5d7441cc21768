"""Used by gpu.py: a photograph with faint noise, and scores as a network of stride 8 gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import densecrf

PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "astronaut.jpg"
PRESENT = 6
"""Number of labels that are the best somewhere."""
SETTINGS = {
    "A": densecrf.Params(
        appearance_weight=4, appearance_xy_std=50, appearance_rgb_std=3, normalization="symmetric"
    ),
    "B": densecrf.Params(
        appearance_weight=4, appearance_xy_std=121, appearance_rgb_std=5, normalization="symmetric"
    ),
}


def scenes(
    count: int, height: int, width: int, labels: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Different photos and their logits.

    Args:
        count: number of photos.
        height: in pixels.
        width: in pixels.
        labels: number of labels.
        device: where the tensors are.

    Returns:
        (B, 3, H, W) uint8 and (B, K, H, W) float32.
    """
    rng = np.random.default_rng(0)
    photos, logits = [], []
    for number in range(count):
        with Image.open(PHOTO) as file:
            image = file.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        plain = np.roll(np.asarray(image, np.float64), 31 * number, axis=1)
        photo = np.clip(np.rint(plain + rng.normal(scale=1.5, size=plain.shape)), 0, 255).astype(np.uint8)
        photos.append(torch.from_numpy(photo).permute(2, 0, 1))
        logits.append(_logits(photo, labels, rng))
    return torch.stack(photos).contiguous().to(device), torch.stack(logits).contiguous().to(device)


def _logits(photo: np.ndarray, labels: int, rng: np.random.Generator) -> torch.Tensor:
    """(K, H, W) logits that follow the grey levels of a photo, with a tenth of random labels."""
    height, width = photo.shape[:2]
    rows, columns = height // 8 + 2, width // 8 + 2
    grey = np.asarray(Image.fromarray(photo).convert("L").resize((columns, rows), Image.Resampling.BOX))
    present = min(PRESENT, labels)
    coarse = np.digitize(grey, np.quantile(grey, np.linspace(0, 1, present + 1)[1:-1]))
    flipped = rng.uniform(size=coarse.shape) < 0.1
    coarse[flipped] = rng.integers(present, size=np.count_nonzero(flipped))
    noise = rng.normal(scale=0.5, size=(labels, rows, columns))
    scores = 6.0 * (coarse == np.arange(labels)[:, None, None]) + noise
    fine = F.interpolate(torch.from_numpy(scores)[None].float(), scale_factor=8, mode="bilinear")
    return fine[0, :, :height, :width].log_softmax(0)


def appearance_features(photo: torch.Tensor, params: densecrf.Params) -> torch.Tensor:
    """(N, 5) features of the appearance kernel for a photo (3, H, W)."""
    height, width = photo.shape[1:]
    y, x = torch.meshgrid(
        torch.arange(height, device=photo.device), torch.arange(width, device=photo.device), indexing="ij"
    )
    positions = torch.stack([x.flatten(), y.flatten()], dim=1) / params.appearance_xy_std
    return torch.cat(
        [
            positions,
            photo.float().flatten(1).t() / torch.tensor(params.appearance_rgb_std, device=photo.device),
        ],
        dim=1,
    )


def grid_axes(height: int, width: int, params: densecrf.Params, device: torch.device) -> list[torch.Tensor]:
    """Features of the smoothness kernel along the axes of a photo."""
    return [torch.arange(n, device=device) / params.smoothness_xy_std for n in (height, width)]
