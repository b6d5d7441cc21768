"""From a few strokes to an outline
================================

``densecrf`` takes scores from anywhere. Here they come from nobody's network: a few strokes on a photo say
where the cat is and where it is not, and the CRF finds the outline.
"""

# %%
# The strokes as a map of labels: 0 is not the cat, 1 is, 255 is not known. :func:`densecrf.unary_from_labels`
# makes energies of it.

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

import densecrf

PHOTO = Path(sys.argv[0]).parent / "photos" / "cat.jpg"
GROUND, CAT, UNKNOWN = 0, 1, 255

photo = np.asarray(Image.open(PHOTO).convert("RGB"))
strokes = Image.new("L", (photo.shape[1], photo.shape[0]), UNKNOWN)
pen = ImageDraw.Draw(strokes)
pen.line([(120, 120), (180, 200), (260, 250), (230, 120), (150, 90)], fill=CAT, width=9)
pen.line([(10, 20), (60, 10), (40, 60), (10, 110)], fill=GROUND, width=9)
for stroke in ([(420, 20), (440, 120)], [(395, 160), (440, 175)], [(400, 225), (440, 285)]):
    pen.line(stroke, fill=GROUND, width=9)
labels = np.asarray(strokes)
print(f"{(labels != UNKNOWN).mean():.1%} of the pixels are known")

# %%
# Nothing is known between the strokes, so the pairwise terms have to carry labels far: wide kernels, and more
# steps than the usual ten. ``callback`` shows how it goes on.

unary = densecrf.unary_from_labels(labels, 2, confidence=0.98, ignore=UNKNOWN)
crf = densecrf.DenseCRF(
    [
        densecrf.Gaussian(labels.shape, xy_std=3, weight=2),
        densecrf.Bilateral(photo, xy_std=60, channel_std=12, weight=8),
    ]
)
steps = {}


def keep(step: int, marginals: np.ndarray) -> None:
    """Remember the probability of the cat after a step."""
    steps[step] = marginals[CAT]


marginals = crf.infer(unary, iterations=30, callback=keep)

# %%
# The strokes, two of the steps, and the end.

figure, axes = plt.subplots(2, 2, figsize=(9, 6.2), layout="constrained")
painted = photo.copy()
painted[labels == CAT], painted[labels == GROUND] = (60, 220, 90), (230, 60, 60)
cut = np.where(marginals[CAT][..., None] > 0.5, photo, 255).astype(np.uint8)
pictures = {"strokes": painted, "after 1 step": steps[1], "after 5 steps": steps[5], "cut out after 30": cut}
for panel, (title, picture) in zip(axes.flat, pictures.items(), strict=True):
    panel.imshow(picture, cmap="magma", vmin=0, vmax=1)
    panel.set_title(title)
    panel.axis("off")
plt.show()
