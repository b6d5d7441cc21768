"""Measure large pictures: seams against the untiled run, peak memory, seconds a megapixel; writes JSON.

The picture is made of photos in rows, every second one mirrored, and written as a tiled TIFF in a folder of
its own. The work is done in a child process, whose peak memory is what the system says of it (VmHWM). The
untiled run needs about 1.2 GB a megapixel, so that seams are counted up to 16 megapixels only. ``--sample``
works on one block of the CRF and the network's windows that it needs, from the middle of the picture: all
that memory depends on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageOps

import deeplab
from deeplab.large_images.blocks import Blocks, Layout
from deeplab.large_images.segment import MEMORY, segment_mosaic
from deeplab.large_images.tiff import LargeTiff

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
CELL = 384, 512  # of the mosaic, height and width
TILE = 256
MOST_UNTILED = 16_000_000  # pixels


def tiles(paths: list[Path], rows: int, columns: int) -> Iterator[np.ndarray]:
    """The mosaic's tiles, row by row; cells are whole tiles high and wide in pairs."""
    cells = []
    for path in paths:
        with Image.open(path) as file:
            photo = file.convert("RGB").resize(CELL[::-1], Image.Resampling.BICUBIC)
        cells += [np.asarray(photo), np.asarray(ImageOps.mirror(photo))]
    for top in range(0, rows * CELL[0], TILE):
        lines = np.arange(top, min(top + TILE, rows * CELL[0]))
        for left in range(0, columns * CELL[1], TILE):
            tile = np.zeros((TILE, TILE, 3), np.uint8)
            for number, line in enumerate(lines):
                row, column = line // CELL[0], left // CELL[1]
                cell = cells[(7 * row + column) % len(cells)]
                tile[number] = cell[line % CELL[0], left % CELL[1] : left % CELL[1] + TILE]
            yield tile


def draw(path: Path, megapixels: float, photos: Path) -> tuple[int, int]:
    """Write the mosaic; returns (H, W), at least as many megapixels, four to three."""
    paths = sorted(file for file in photos.iterdir() if file.suffix.lower() in (".jpg", ".png"))[:40]
    columns = int(np.ceil((megapixels * 1e6 * 4 / 3) ** 0.5 / CELL[1]))
    rows = int(np.ceil(megapixels * 1e6 / (columns * CELL[1]) / CELL[0]))
    size = rows * CELL[0], columns * CELL[1]
    tifffile.imwrite(
        path,
        tiles(paths, rows, columns),
        shape=(*size, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="rgb",
        compression="zlib",
        metadata=None,
    )
    return size


def work(path: Path, options: argparse.Namespace) -> None:
    """What the child does; prints JSON."""
    model = deeplab.load(precision=options.precision)
    params = model.crf_params if options.crf else None
    layout = Layout.within(MEMORY, model, params)
    if options.margin is not None:
        layout = Layout(layout.window, layout.block, options.margin)
    started = time.perf_counter()
    if options.sample:
        with LargeTiff(path) as mosaic:
            blocks = Blocks(mosaic, model, params, layout, path.with_name("sample.parts"))
            block = lonely(layout)
            places = [place for place in blocks.windows() if needed(layout, block, place)]
            for place in places:
                blocks.look(place)
            blocks.refine((block, block))
        done = {
            "windows": len(places),
            "of windows": len(blocks.windows()),
            "of blocks": len(blocks.blocks()),
        }
        seconds = blocks.seconds
    else:
        seconds, done = (
            segment_mosaic(path, path.with_name("out"), model, crf=options.crf, layout=layout).seconds,
            {},
        )
    spent = time.perf_counter() - started
    peak = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    found = {
        "layout": asdict(layout),
        "precision": str(model.predictor.dtype).removeprefix("torch."),
        **done,
        "peak MB": int(peak.split()[1]) * 1024 // 10**6,
        "seconds": round(spent, 1),
        "of them": {step: round(value, 1) for step, value in seconds.items()},
    }
    print(json.dumps(found))


def lonely(layout: Layout) -> int:
    """Row (and column) of a block with neighbours on all sides that needs as few windows as any, if possible
    one."""
    return min(range(1, 9), key=lambda k: sum(_meet(layout, k, window) for window in range(20)))


def needed(layout: Layout, block: int, window: tuple[int, int]) -> bool:
    """Whether the block in that row and column needs a window."""
    return all(_meet(layout, block, number) for number in window)


def _meet(layout: Layout, block: int, window: int) -> bool:
    first, last = block * layout.block - layout.margin, (block + 1) * layout.block + layout.margin + 8
    return window * layout.window < last and first < (window + 1) * layout.window


def seams(path: Path, labels: Path, options: argparse.Namespace) -> dict[str, float]:
    """Percent of labels that differ from the untiled run's, and of those that the CRF changes at all."""
    model = deeplab.load(precision=options.precision)
    photo, found = tifffile.imread(path), tifffile.imread(labels)
    plain = model.segment(photo, crf=False, tile=1024)
    before = plain.labels
    whole = model.refine(plain).labels if options.crf else before
    return {
        "labels that differ from the untiled run, %": round(100 * float((found != whole).mean()), 4),
        "labels that the CRF changes, %": round(100 * float((whole != before).mean()), 2),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument(
        "--photos", type=Path, default=PHOTOS, help="folder of photos that the picture is made of"
    )
    parser.add_argument("--sample", action="store_true", help="one block from the middle, for memory")
    parser.add_argument(
        "--margin", type=int, help="of the CRF's blocks, in pixels; by default as the program chooses"
    )
    parser.add_argument("--no-crf", dest="crf", action="store_false")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work(options.child, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mosaic.tif"
        height, width = draw(path, options.megapixels, options.photos)
        command = [sys.executable, __file__, *sys.argv[1:], "--child", str(path)]
        found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        if not options.sample:
            found["seconds a megapixel"] = round(found["seconds"] / (height * width / 1e6), 2)
            if height * width <= MOST_UNTILED:
                found |= seams(path, Path(folder) / "out.tif", options)
    record = {
        "date": date.today().isoformat(),
        "picture": f"{width}x{height}",
        "megapixels": round(height * width / 1e6, 1),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "deeplab": deeplab.__version__,
        **found,
    }
    print(json.dumps(record, indent=2))
    if options.out:
        options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
