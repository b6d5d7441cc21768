"""Pseudo-labels from class activation maps
========================================

Weakly supervised segmentation trains on labels of whole images ("there is a person"). Class activation maps
(CAMs) tell roughly where the network saw it. This example makes training labels of them, with a class,
background, or "ignore" at every pixel, and a confidence.
"""

# %%
# A CAM is coarse, highest at the most telling parts of an object, and its maximum is scaled to 1. To need no
# other network than the included one, the map is made from its probabilities: averaged over cells of 16×16
# pixels and upsampled.

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import deeplab
import densecrf

PHOTO = Path(sys.argv[0]).parent / "photos" / "cameraman.jpg"
BACKGROUND, PERSON, IGNORE = 0, 1, 255
CELL = 16  # pixels

model = deeplab.load(precision="fp32")
segmentation = model.segment(PHOTO, crf=False)
photo = segmentation.photo
height, width = photo.shape[:2]
plane = Image.fromarray(segmentation.probabilities[model.class_names.index("person")])
cells = plane.resize((width // CELL, height // CELL), Image.Resampling.BOX)
cam = np.asarray(cells.resize((width, height), Image.Resampling.BICUBIC)).clip(0)
cam = cam / cam.max()

# %%
# The recipe of IRN (Ahn et al. 2019) and of many works after it: two label maps, one with a high threshold
# against the background, one with a low threshold. Each is refined by a CRF that trusts its labels with a
# probability of 0.7. Pixels that both call person are a person, those that both call background are
# background, and the rest is ignored. With several classes, ``maps`` has a CAM for each class in the image.

HIGH, LOW = 0.5, 0.1


def refined(maps: np.ndarray, threshold: float) -> np.ndarray:
    """Marginals (K + 1, H, W) of background and K classes.

    Args:
        maps: (K, H, W) activation maps, 0–1.
        threshold: activation under which a pixel is background.
    """
    background = np.full((1, height, width), threshold, np.float32)
    labels = np.concatenate([background, maps]).argmax(0)
    kernels = [
        densecrf.Gaussian((height, width), xy_std=3, weight=3),
        densecrf.Bilateral(photo, xy_std=50, channel_std=5, weight=10),
    ]
    unary = densecrf.unary_from_labels(labels, len(maps) + 1, confidence=0.7)
    return densecrf.DenseCRF(kernels).infer(unary, iterations=10)


certain_person = refined(cam[None], HIGH)
certain_background = refined(cam[None], LOW)
pseudo_labels = certain_person.argmax(0)
pseudo_labels[pseudo_labels == BACKGROUND] = IGNORE
pseudo_labels[certain_background.argmax(0) == BACKGROUND] = BACKGROUND
for name, value in (("person", PERSON), ("background", BACKGROUND), ("ignored", IGNORE)):
    print(f"{name:10s} {(pseudo_labels == value).mean():6.1%}")

# %%
# The mean of both marginals is a confidence that a loss can be weighted with: 0.5 where the two disagree.

confidence = ((certain_person + certain_background) / 2).max(0)
print(f"mean confidence where labelled {confidence[pseudo_labels != IGNORE].mean():.3f}")

# %%
# Photo, map, pseudo-labels (red: person, blue: background, white: ignored) and confidence.

painted = np.full_like(photo, 255)
for value, colour in ((PERSON, (230, 60, 60)), (BACKGROUND, (60, 90, 230))):
    chosen = pseudo_labels == value
    painted[chosen] = (0.5 * photo[chosen] + 0.5 * np.array(colour)).astype(np.uint8)
figure, axes = plt.subplots(2, 2, figsize=(9, 6.2), layout="constrained")
pictures = {"photo": photo, "activation map": cam, "pseudo-labels": painted, "confidence": confidence}
for panel, (title, picture) in zip(axes.flat, pictures.items(), strict=True):
    panel.imshow(picture, cmap="magma", vmin=0, vmax=1)
    panel.set_title(title)
    panel.axis("off")
plt.show()
