"""A photo, the network, and the CRF
=================================

The weights that come with the package label a photo; first by the network alone, then with the CRF behind it.
"""

# %%
# The network looks at the photo and gives each pixel a probability for each class. Its scores come at every
# eighth pixel and are interpolated in between, so the outlines are soft and cut corners.

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
# The CRF sees the raw photo and the network's probabilities. It moves the outlines to where the photo has
# edges. The network need not run again for it; other parameters can be tried on the same scores.

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
# How sure the two are: the probability of the winning class. The network doubts a broad band around every
# object, the CRF a narrow one.

figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for panel, title, result in zip(axes, ("network", "network + CRF"), (coarse, fine), strict=True):
    shown = panel.imshow(result.probabilities.max(axis=0), cmap="magma", vmin=0, vmax=1)
    panel.set_title(title)
    panel.axis("off")
figure.colorbar(shown, ax=axes, label="probability of the label", shrink=0.8)
plt.show()
