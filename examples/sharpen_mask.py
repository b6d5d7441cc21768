"""Sharpen the outline of a mask
=============================

Masks from a network of low resolution are right except for their outline. :func:`densecrf.sharpen` moves the
outline to the edges of the photo, for hard masks and for soft ones.
"""

# %%
# SAM, for example, computes masks at a quarter of its input's size, and many networks are coarser. Here the
# mask is that of the included network, at every eighth pixel.

import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import deeplab
import densecrf

PHOTOS = Path(sys.argv[0]).parent / "photos"
STRIDE = 8


def low_resolution(plane: np.ndarray) -> np.ndarray:
    """A map of probabilities (H, W) as from a network of stride 8, upsampled.

    Args:
        plane: (H, W), 0–1.
    """
    height, width = plane.shape
    image = Image.fromarray(plane.astype(np.float32))
    small = image.resize((width // STRIDE, height // STRIDE), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


model = deeplab.load(precision="fp32")
segmentation = model.segment(PHOTOS / "cameraman.jpg", crf=False)
photo = segmentation.photo
person = segmentation.probabilities[model.class_names.index("person")]
mask = low_resolution(person) > 0.5

started = time.perf_counter()
sharp = densecrf.sharpen(photo, mask)
seconds = time.perf_counter() - started
print(f"{(sharp != mask).mean():.1%} of the pixels changed, in {seconds:.3f} s")

# %%
# By default the outline can move by 1.8 % of the photo's diagonal, which is 13 pixels here. Only pixels in
# this band are computed.


def cut_out(photo: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The object on white.

    Args:
        photo: (H, W, 3) uint8.
        alpha: (H, W), bool or 0–1.
    """
    share = alpha[..., None].astype(np.float32)
    return (share * photo + (1 - share) * 255).astype(np.uint8)


def show(pictures: dict[str, np.ndarray]) -> None:
    """Show pictures side by side.

    Args:
        pictures: RGB or grey pictures by title.
    """
    _, axes = plt.subplots(1, len(pictures), figsize=(10, 3.2), layout="constrained")
    for panel, (title, picture) in zip(axes, pictures.items(), strict=True):
        panel.imshow(picture, cmap="magma", vmin=0, vmax=1)
        panel.set_title(title)
        panel.axis("off")
    plt.show()


show({"photo": photo, "mask": cut_out(photo, mask), "sharpened": cut_out(photo, sharp)})

# %%
# A closer look at the camera and the tripod.

window = np.s_[60:260, 180:420]
show(
    {
        "photo": photo[window],
        "mask": cut_out(photo, mask)[window],
        "sharpened": cut_out(photo, sharp)[window],
    }
)

# %%
# Saliency maps are soft: each pixel has a probability of being foreground. The result is soft as well.
# Within the band the probabilities become decided, far from the outline they stay as they are. A larger
# ``radius`` sharpens a wider blur.

segmentation = model.segment(PHOTOS / "astronaut.jpg", crf=False)
photo = segmentation.photo
saliency = low_resolution(1 - segmentation.probabilities[0])
soft = densecrf.sharpen(photo, saliency, radius=16)
show({"photo": photo, "saliency": saliency, "sharpened": soft})
