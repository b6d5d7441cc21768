"""Interactive segmentation from scribbles
=======================================

``densecrf`` can segment a photo without a network. In this example, a few scribbles mark the cat and the
background, and the CRF finds the outline.
"""

# %%
# The scribbles become a label map: 0 for the background, 1 for the cat, 255 for unlabelled pixels.
# :func:`densecrf.unary_from_labels` computes their energies.

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

import densecrf

PHOTO = Path(sys.argv[0]).parent / "photos" / "cat.jpg"
BACKGROUND, CAT, UNLABELLED = 0, 1, 255

photo = np.asarray(Image.open(PHOTO).convert("RGB"))
scribbles = Image.new("L", (photo.shape[1], photo.shape[0]), UNLABELLED)
pen = ImageDraw.Draw(scribbles)
pen.line([(120, 120), (180, 200), (260, 250), (230, 120), (150, 90)], fill=CAT, width=9)
pen.line([(10, 20), (60, 10), (40, 60), (10, 110)], fill=BACKGROUND, width=9)
for stroke in ([(420, 20), (440, 120)], [(395, 160), (440, 175)], [(400, 225), (440, 285)]):
    pen.line(stroke, fill=BACKGROUND, width=9)
labels = np.asarray(scribbles)
print(f"{(labels != UNLABELLED).mean():.1%} of the pixels are labelled")

# %%
# The labels have to propagate far from the scribbles, so the kernels are wide and there are more iterations
# than the usual ten. ``callback`` receives the marginals after each iteration.

unary = densecrf.unary_from_labels(labels, 2, confidence=0.98, ignore=UNLABELLED)
crf = densecrf.DenseCRF(
    [
        densecrf.Gaussian(labels.shape, xy_std=3, weight=2),
        densecrf.Bilateral(photo, xy_std=60, channel_std=12, weight=8),
    ]
)
steps = {}


def save_step(step: int, marginals: np.ndarray) -> None:
    """Save the probability of the cat after an iteration.

    Args:
        step: number of the iteration.
        marginals: (2, H, W).
    """
    steps[step] = marginals[CAT]


marginals = crf.infer(unary, iterations=30, callback=save_step)

# %%
# These are the scribbles, the probabilities after two of the iterations, and the final result.

figure, axes = plt.subplots(2, 2, figsize=(9, 6.2), layout="constrained")
painted = photo.copy()
painted[labels == CAT] = (60, 220, 90)
painted[labels == BACKGROUND] = (230, 60, 60)
cut = np.where(marginals[CAT][..., None] > 0.5, photo, 255).astype(np.uint8)
pictures = {
    "scribbles": painted,
    "after 1 iteration": steps[1],
    "after 5 iterations": steps[5],
    "cut out after 30 iterations": cut,
}
for panel, (title, picture) in zip(axes.flat, pictures.items(), strict=True):
    panel.imshow(picture, cmap="magma", vmin=0, vmax=1)
    panel.set_title(title)
    panel.axis("off")
plt.show()
