"""Draw a small training data set: bright discs and boxes on dark backgrounds, with masks.

python examples/draw_shapes.py shapes
deeplab check-data shapes
deeplab train deeplab/recipes/smoke.toml --data shapes --out runs/smoke
deeplab segment shapes/images/val --weights runs/smoke/weights.safetensors --out runs/smoke/val --compare
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("background", "disc", "box")
COLOURS = ((230, 90, 60), (70, 150, 235))


def draw(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    """Draw a photo of one to three shapes, and its mask.

    Args:
        rng: Random generator.
        size: Height and width in pixels.

    Returns:
        The photo and its class ids.
    """
    height, width = size
    ground = rng.integers(20, 90, size=3)
    photo = Image.fromarray(np.full((height, width, 3), ground, np.uint8))
    ids = Image.new("L", (width, height))
    for _ in range(rng.integers(1, 4)):
        kind = int(rng.integers(2))
        side = int(rng.integers(min(size) // 4, min(size) // 2))
        left, top = int(rng.integers(width - side)), int(rng.integers(height - side))
        colour = tuple(int(level) for level in np.clip(COLOURS[kind] + rng.normal(0, 15, 3), 0, 255))
        for picture, fill in ((photo, colour), (ids, kind + 1)):
            pen = ImageDraw.Draw(picture)
            shape = pen.ellipse if kind == 0 else pen.rectangle
            shape((left, top, left + side, top + side), fill=fill)
    noise = rng.normal(0, 8, (height, width, 3))
    levels = np.asarray(photo.filter(ImageFilter.GaussianBlur(1))) + noise
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)), ids


def main() -> None:
    """Write images/train, images/val, masks/train, masks/val and classes.txt."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--photos",
        type=int,
        default=24,
        help="number of training photos; a quarter of this number is added for validation",
    )
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    for split, count in (("train", options.photos), ("val", max(1, options.photos // 4))):
        for kind in ("images", "masks"):
            (options.folder / kind / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            photo, ids = draw(rng, (96, 128))
            photo.save(options.folder / "images" / split / f"{split}_{number:03d}.jpg", quality=92)
            ids.save(options.folder / "masks" / split / f"{split}_{number:03d}.png")
    (options.folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    print(f"{options.folder}: {options.photos} training photos, classes {', '.join(CLASSES)}")


if __name__ == "__main__":
    main()
