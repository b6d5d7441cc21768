"""Small made-up photos with probabilities, for tests."""

import numpy as np


def scene(height=36, width=52, labels=4, seed=0):
    """A photo of two textured areas and a disc, and blurred, blocky probabilities of what is where."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    areas = (x > width // 2).astype(int) + 2 * (np.hypot(y - height / 2, x - width / 3) < height / 4)
    areas = np.minimum(areas, labels - 1)
    photo = np.array([[60, 90, 40], [150, 160, 210], [220, 60, 50], [20, 20, 20]])[areas % 4]
    photo = np.clip(photo + rng.normal(scale=4, size=photo.shape), 0, 255).astype(np.uint8)
    coarse = areas[::6, ::6].repeat(6, 0).repeat(6, 1)[:height, :width]
    scores = 2.0 * (coarse == np.arange(labels)[:, None, None]) + rng.normal(
        scale=0.4, size=(labels, height, width)
    )
    powers = np.exp(scores)
    return photo, powers / powers.sum(0), areas
