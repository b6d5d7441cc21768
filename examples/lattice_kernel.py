"""The lattice's kernel and the exact Gaussian
===========================================

The permutohedral lattice filters in time linear in the number of points, and pays for it with a kernel that
is not quite a Gaussian. Here is what it is, and what that does to a CRF.
"""

# %%
# A single bright point on a plane, filtered: the answer is the kernel itself. In two dimensions the lattice
# is made of triangles; three blurs along its directions make a bell. It is a little wider in some directions
# than in others, and it depends on where in its triangle the point lies.

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import densecrf
from densecrf.exact import gaussian_filter

EXAMPLES = Path(sys.argv[0]).parent
WIDTH = 41  # places along an axis
STEP = 0.2  # standard deviations between two of them

y, x = np.mgrid[:WIDTH, :WIDTH] * STEP
features = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
lattice = densecrf.Lattice(features)


def kernel_at(row: int, column: int) -> tuple[np.ndarray, np.ndarray]:
    """What becomes of one point, (WIDTH, WIDTH): exactly, and by the lattice scaled to fit it best."""
    point = np.zeros((WIDTH, WIDTH), np.float32)
    point[row, column] = 1
    true = gaussian_filter(features, point.reshape(-1, 1)).reshape(WIDTH, WIDTH)
    found = lattice.filter(point.ravel()).reshape(WIDTH, WIDTH)
    return true, found * (true * found).sum() / (found * found).sum()


middle = WIDTH // 2
true, found = kernel_at(middle, middle)
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
extent = (-middle * STEP, middle * STEP, middle * STEP, -middle * STEP)
for panel, title, picture in zip(
    axes, ("exact", "lattice", "lattice − exact"), (true, found, found - true), strict=True
):
    most = 1.0 if panel is not axes[2] else 0.2
    shown = panel.imshow(picture, cmap="RdBu_r", vmin=-most, vmax=most, extent=extent)
    panel.set(title=title, xlabel="standard deviations")
    figure.colorbar(shown, ax=panel, shrink=0.8)
plt.show()
print(f"largest difference {np.abs(found - true).max():.2f} of a kernel that is 1 in its middle")

# %%
# Cut through the middle, for points in different places of the lattice's triangles.

figure, panel = plt.subplots(figsize=(7, 3.4), layout="constrained")
offsets = (np.arange(WIDTH) - middle) * STEP
panel.plot(offsets, true[middle], "k", linewidth=3, alpha=0.35, label="exact")
for shift in range(6):
    _, shifted = kernel_at(middle, middle + shift)
    panel.plot(
        offsets - shift * STEP,
        shifted[middle],
        linewidth=1,
        label=f"lattice, {shift * STEP:.1f} to the right",
    )
panel.set(xlabel="standard deviations", ylabel="kernel", xlim=(-4.5, 3.5))
panel.legend(loc="upper left", fontsize="small")
plt.show()

# %%
# In a CRF the features are five: a place and a colour. There the points touch few of the lattice's vertices,
# and what the blur would pass through vertices that no point touches is lost. ``backend="accurate"`` adds
# these vertices. A small photo with scores that are nobody's, patches of noise, shows the error: the
# difference in probability from the exact CRF, which takes some hundred times as long already at this size.

photo = Image.open(EXAMPLES / "photos" / "astronaut.jpg").convert("RGB").crop((150, 0, 310, 120))
image = np.asarray(photo.resize((52, 39), Image.Resampling.BICUBIC))
height, width = image.shape[:2]
rng = np.random.default_rng(0)
patches = rng.normal(size=(4, height // 6 + 1, width // 6 + 1)).repeat(6, 1).repeat(6, 2)[:, :height, :width]
probabilities = np.exp(-densecrf.unary_from_logits(2 * patches + 0.5 * rng.normal(size=patches.shape)))
params = densecrf.Params()

marginals = {
    name: densecrf.refine(image, probabilities, params=params, backend=name)
    for name in ("exact", "lattice", "accurate")
}
figure, axes = plt.subplots(1, 4, figsize=(10.5, 2.5), layout="constrained")
axes[0].imshow(image)
axes[0].set_title("image")
axes[1].imshow(marginals["exact"].argmax(axis=0), cmap="tab10", vmin=0, vmax=9)
axes[1].set_title("labels, exact")
for panel, name in zip(axes[2:], ("lattice", "accurate"), strict=True):
    error = np.abs(marginals[name] - marginals["exact"]).max(axis=0)
    shown = panel.imshow(error, cmap="magma", vmin=0, vmax=0.3)
    panel.set_title(f"error of {name}")
    unlike = (marginals[name].argmax(0) != marginals["exact"].argmax(0)).mean()
    print(f"{name:9s} mean error {error.mean():.4f}, {unlike:.2%} of the labels differ")
for panel in axes:
    panel.axis("off")
figure.colorbar(shown, ax=axes[3], shrink=0.8)
plt.show()
