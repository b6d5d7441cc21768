"""Segment a photo
===============

The weights that come with the package label a photo, first by the network alone, then with the CRF.
"""

# %%
# The network gives each pixel a probability for each class. It computes scores at every eighth pixel and
# interpolates between them, so the outlines are soft.

import sys
from pathlib import Path

import matplotlib.pyplot as plt

import deeplab

PHOTO = Path(sys.argv[0]).parent / "photos" / "cameraman.jpg"

model = deeplab.load(precision="fp32")
coarse = model.segment(PHOTO, crf=False)
for name, share in coarse.shares().items():
    print(f"{name:12s} {share:6.1%} of the pixels")

# %%
# The CRF takes the photo and the network's probabilities and moves the outlines to the edges in the photo.
# The network need not run again, so other parameters can be tried on the same probabilities.

fine = model.refine(coarse)
changed = (fine.labels != coarse.labels).mean()
print(f"{changed:.1%} of the labels changed; the CRF took {fine.seconds['CRF']:.2f} s")

# %%
# Side by side: photo, network, network and CRF.

figure, axes = plt.subplots(1, 3, figsize=(10, 3.8), layout="constrained")
for panel, title, picture in zip(
    axes, ("photo", "network", "network + CRF"), (coarse.photo, coarse.overlay(), fine.overlay()), strict=True
):
    panel.imshow(picture)
    panel.set_title(title)
    panel.axis("off")
plt.show()

# %%
# The probability of the most probable class shows how certain the labels are. The network is uncertain in a
# broad band around every object, the CRF in a narrow one.

figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for panel, title, result in zip(axes, ("network", "network + CRF"), (coarse, fine), strict=True):
    shown = panel.imshow(result.probabilities.max(axis=0), cmap="magma", vmin=0, vmax=1)
    panel.set_title(title)
    panel.axis("off")
figure.colorbar(shown, ax=axes, label="probability of the label", shrink=0.8)
plt.show()
