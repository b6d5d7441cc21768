"""The lattice's kernel and the exact Gaussian
===========================================

The time of the permutohedral lattice is linear in the number of points, but its kernel only approximates a
Gaussian. This example shows the kernel, and the effect of the approximation on a CRF.
"""

# %%
# Filtering an image with a single bright point shows the kernel itself. In two dimensions the lattice
# consists of triangles, and the kernel is the result of blurs along the three axes of the lattice. It is a
# little wider in some directions than in others, and depends on the position of the point within its
# triangle.

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import densecrf
from densecrf.exact import gaussian_filter

EXAMPLES = Path(sys.argv[0]).parent
WIDTH = 41  # positions along an axis
STEP = 0.2  # standard deviations between two positions

y, x = np.mgrid[:WIDTH, :WIDTH] * STEP
features = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
lattice = densecrf.Lattice(features)


def kernel_at(row: int, column: int) -> tuple[np.ndarray, np.ndarray]:
    """The exact kernel at one point, and the lattice's scaled to fit it, both (WIDTH, WIDTH).

    Args:
        row: row of the point.
        column: column of the point.
    """
    point = np.zeros((WIDTH, WIDTH), np.float32)
    point[row, column] = 1
    exact = gaussian_filter(features, point.reshape(-1, 1)).reshape(WIDTH, WIDTH)
    approximate = lattice.filter(point.ravel()).reshape(WIDTH, WIDTH)
    return exact, approximate * (exact * approximate).sum() / (approximate * approximate).sum()


middle = WIDTH // 2
exact, approximate = kernel_at(middle, middle)
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
extent = (-middle * STEP, middle * STEP, middle * STEP, -middle * STEP)
for panel, title, picture in zip(
    axes, ("exact", "lattice", "lattice − exact"), (exact, approximate, approximate - exact), strict=True
):
    limit = 1.0 if panel is not axes[2] else 0.2
    shown = panel.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent)
    panel.set(title=title, xlabel="standard deviations")
    figure.colorbar(shown, ax=panel, shrink=0.8)
plt.show()
print(f"largest difference: {np.abs(approximate - exact).max():.2f} (maximum of the kernel: 1)")

# %%
# These are sections through the kernel, for points at different positions within the triangles of the
# lattice.

figure, panel = plt.subplots(figsize=(7, 3.4), layout="constrained")
offsets = (np.arange(WIDTH) - middle) * STEP
panel.plot(offsets, exact[middle], "k", linewidth=3, alpha=0.35, label="exact")
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
# In a CRF, the lattice has five dimensions: position and colour. Only vertices near a pixel are stored, so
# the blur loses values that would pass through other vertices. ``backend="accurate"`` adds these vertices.
# The pictures show the error for a small photo with random scores: the difference in probability from the
# exact CRF. Even at this size, the exact CRF takes some hundred times as long.

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
    differing = (marginals[name].argmax(0) != marginals["exact"].argmax(0)).mean()
    print(f"{name:9s} mean error {error.mean():.4f}; {differing:.2%} of the labels differ")
for panel in axes:
    panel.axis("off")
figure.colorbar(shown, ax=axes[3], shrink=0.8)
plt.show()
