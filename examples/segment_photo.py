"""Segment a photo
===============

The included network labels a photo, first alone and then with the CRF.
"""

# %%
# The network predicts a probability of each class at each pixel. It computes scores at every eighth pixel and
# interpolates between them, so the boundaries are soft.

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
# The CRF aligns the boundaries with the edges in the photo. ``refine`` reuses the probabilities of the
# network, so other CRF parameters can be tried without running the network again.

fine = model.refine(coarse)
changed = (fine.labels != coarse.labels).mean()
print(f"{changed:.1%} of the labels changed; the CRF took {fine.seconds['CRF']:.2f} s")

# %%
# Compare the photo, the labels of the network, and the labels after the CRF.

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
# wide band around every object; after the CRF, the band is narrow.

figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for panel, title, result in zip(axes, ("network", "network + CRF"), (coarse, fine), strict=True):
    shown = panel.imshow(result.probabilities.max(axis=0), cmap="magma", vmin=0, vmax=1)
    panel.set_title(title)
    panel.axis("off")
figure.colorbar(shown, ax=axes, label="probability of the label", shrink=0.8)
plt.show()
