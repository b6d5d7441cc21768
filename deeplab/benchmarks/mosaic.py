"""Measures seams, memory and time of a large image that is segmented in blocks.

    python deeplab/benchmarks/mosaic.py --out mosaic.json

Writes JSON: labels that differ from the untiled run's, peak memory, and seconds a megapixel. The image is
made of photos in rows, every second one mirrored, and is written as a tiled TIFF to a temporary folder. The
work is done in a child process, whose peak memory is what the system reports (VmHWM). The untiled run needs
about 1.2 GB a megapixel, so seams are counted up to 16 megapixels only. ``--sample`` segments only one block
from the middle of the image, with the network's windows that it needs: memory depends on nothing else.
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
from machine import peak_megabytes, write_record
from PIL import Image, ImageOps

import deeplab
from deeplab.large_images.block_segmenter import BlockSegmenter
from deeplab.large_images.layout import Layout
from deeplab.large_images.segment import MEMORY_LIMIT, segment_mosaic
from deeplab.large_images.tiff import LargeTiff

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
CELL = 384, 512
"""Height and width of a photo in the mosaic."""
TILE = 256
MAX_UNTILED_PIXELS = 16_000_000
MAX_PHOTOS = 40


def tiles(paths: list[Path], rows: int, columns: int) -> Iterator[np.ndarray]:
    """Tiles of the mosaic, row by row.

    Args:
        paths: photos.
        rows: rows of photos.
        columns: columns of photos.
    """
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


def write_mosaic(path: Path, megapixels: float, photos: Path) -> tuple[int, int]:
    """Write the mosaic; returns its height and width, whose ratio is about three to four.

    Args:
        path: the TIFF to write.
        megapixels: minimum size.
        photos: folder of photos.
    """
    paths = sorted(file for file in photos.iterdir() if file.suffix.lower() in (".jpg", ".png"))
    columns = int(np.ceil((megapixels * 1e6 * 4 / 3) ** 0.5 / CELL[1]))
    rows = int(np.ceil(megapixels * 1e6 / (columns * CELL[1]) / CELL[0]))
    size = rows * CELL[0], columns * CELL[1]
    tifffile.imwrite(
        path,
        tiles(paths[:MAX_PHOTOS], rows, columns),
        shape=(*size, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="rgb",
        compression="zlib",
        metadata=None,
    )
    return size


def measure(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Segment the mosaic or a sample of it; called in the child process."""
    model = deeplab.load(precision=options.precision)
    layout = Layout.within(MEMORY_LIMIT, model, model.crf_params if options.crf else None)
    if options.margin is not None:
        layout = Layout(layout.window, layout.block, options.margin)
    counts: dict[str, int] = {}
    started = time.perf_counter()
    if options.sample:
        counts, steps = segment_sample(path, model, layout, options.crf)
    else:
        steps = segment_mosaic(path, path.with_name("out"), model, crf=options.crf, layout=layout).seconds
    seconds = time.perf_counter() - started
    return {
        "layout": asdict(layout),
        "precision": str(model.predictor.dtype).removeprefix("torch."),
        **counts,
        "peak MB": peak_megabytes(),
        "seconds": round(seconds, 1),
        "of them": {step: round(value, 1) for step, value in steps.items()},
    }


def segment_sample(
    path: Path, model: deeplab.Model, layout: Layout, crf: bool
) -> tuple[dict[str, int], dict[str, float]]:
    """Segment one block; returns numbers of windows and blocks, and the seconds of each step.

    Args:
        path: the mosaic.
        model: network and CRF.
        layout: sizes of windows and blocks.
        crf: whether the CRF runs.
    """
    block = sample_block(layout)
    with LargeTiff(path) as image:
        params = model.crf_params if crf else None
        segmenter = BlockSegmenter(image, model, params, layout, path.with_name("sample.parts"))
        windows = [window for window in segmenter.windows() if all(overlap(layout, block, n) for n in window)]
        for window in windows:
            segmenter.compute_scores(window)
        segmenter.compute_labels((block, block))
    counts = {
        "windows": len(windows),
        "of windows": len(segmenter.windows()),
        "of blocks": len(segmenter.blocks()),
    }
    return counts, segmenter.seconds


def sample_block(layout: Layout) -> int:
    """Row and column of a block with neighbours on all sides that needs the fewest windows."""
    return min(range(1, 9), key=lambda k: sum(overlap(layout, k, window) for window in range(20)))


def overlap(layout: Layout, block: int, window: int) -> bool:
    """Whether a block sees pixels of a window, along one axis.

    Args:
        layout: sizes of windows and blocks.
        block: row (or column) of the block.
        window: row (or column) of the window.
    """
    first = block * layout.block - layout.margin
    last = (block + 1) * layout.block + layout.margin + 8
    return window * layout.window < last and first < (window + 1) * layout.window


def seams(path: Path, labels: Path, options: argparse.Namespace) -> dict[str, float]:
    """Percentages of labels that differ from the untiled run's, and that the CRF changes at all.

    Args:
        path: the mosaic.
        labels: TIFF of its labels made in blocks.
        options: precision, and whether the CRF runs.
    """
    model = deeplab.load(precision=options.precision)
    plain = model.segment(tifffile.imread(path), crf=False, tile=1024, size=0)
    untiled = model.refine(plain).labels if options.crf else plain.labels
    differing = float((tifffile.imread(labels) != untiled).mean())
    return {
        "labels that differ from the untiled run, %": round(100 * differing, 4),
        "labels that the CRF changes, %": round(100 * float((untiled != plain.labels).mean()), 2),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--megapixels", type=float, default=12, help="size of the image")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of photos to make the image of")
    parser.add_argument("--sample", action="store_true", help="one block from the middle, for memory")
    parser.add_argument("--margin", type=int, help="margin of the CRF's blocks in pixels")
    parser.add_argument("--no-crf", dest="crf", action="store_false", help="the network alone")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)  # the image that this process segments
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mosaic.tif"
        height, width = write_mosaic(path, options.megapixels, options.photos)
        megapixels = height * width / 1e6
        command = [sys.executable, __file__, *sys.argv[1:], "--child", str(path)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        result: dict[str, Any] = json.loads(done.stdout)
        if not options.sample:
            result["seconds a megapixel"] = round(result["seconds"] / megapixels, 2)
            if height * width <= MAX_UNTILED_PIXELS:
                result |= seams(path, Path(folder) / "out.tif", options)
    record = {
        "date": date.today().isoformat(),
        "picture": f"{width}x{height}",
        "megapixels": round(megapixels, 1),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "deeplab": deeplab.__version__,
        **result,
    }
    write_record(record, options.out)


if __name__ == "__main__":
    main()
