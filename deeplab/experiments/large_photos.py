"""Accuracy on large photos against the network's input size.

Question: To which size should large photos be downscaled for the network?

Command:
    python large_photos.py --data VOC --weights deeplab-largefov-voc.safetensors --megapixels 1 --photos 80 \
        --sizes 0 500 513 600 640 700 --out large-1.json
    python large_photos.py --table large-1.json large-3.json large-12.json --out ../../results/large-photos.md

Writes: the first command, scores and seconds for each size as JSON; the second, results/large-photos.md from
several such files.

Labelled photos are enlarged to a number of megapixels (bicubic; labels by nearest neighbour) and then
downscaled to several sizes for the network. Size 0 is the enlarged photo itself. Photos are taken at equal
distances from the list; each score is over all of them.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

import deeplab
from deeplab.datasets.opening import open_dataset
from deeplab.evaluation.scoring import Scorer
from deeplab.model.segmentation import Model

HEADING = """\
# Network input size for large photos

VOC val photos were enlarged (bicubic; labels by nearest neighbour) and then downscaled to several sizes for
the network. Its probabilities are upsampled to the size of the enlarged photo, at which the CRF runs.
Accuracy is in percent, time in seconds on two cores shared with other work. Measured by
`deeplab/experiments/large_photos.py`.

The original photos have 500 pixels on the longer side. Enlarged photos therefore have less detail than
photos from a camera, but objects fill the same part of them. Rows with the same number of photos use the same
photos.

| megapixels | photos | CRF | longer side | mean IoU of seven classes | pixel accuracy | seconds per photo |
| ---: | ---: | --- | ---: | ---: | ---: | ---: |
"""


def enlarged(photo: np.ndarray, labels: np.ndarray, megapixels: float) -> tuple[np.ndarray, np.ndarray]:
    """Resize a photo and its labels, keeping their shape.

    Args:
        photo: (H, W, 3) uint8.
        labels: (H, W) uint8.
        megapixels: size of the result; 0 to leave both as they are.

    Returns:
        Photo and labels.
    """
    height, width = labels.shape
    factor = (megapixels * 1e6 / (height * width)) ** 0.5 if megapixels else 1.0
    size = round(width * factor), round(height * factor)
    large = Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(large), np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))


def enlarged_photos(data: Path, count: int, megapixels: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Photos of the val split at equal distances, enlarged, with their labels."""
    dataset = open_dataset(data, "val")
    chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    for index in tqdm(chosen, unit="photo", disable=None):
        sample = dataset[int(index)]
        yield enlarged(sample.read_photo(), sample.read_labels(), megapixels)


def measure(
    model: Model, photos: Iterator[tuple[np.ndarray, np.ndarray]], sizes: Sequence[int], crf: bool
) -> list[dict[str, float]]:
    """Score and time the model at several sizes.

    Args:
        model: the network and its card.
        photos: photos with their labels.
        sizes: longer sides in pixels to which photos are reduced for the network; 0 for full size.
        crf: whether the CRF refines the labels.

    Returns:
        For each size, scores in percent and seconds a photo.
    """
    scorers = [Scorer(model.class_names, ()) for _ in sizes]
    seconds = np.zeros(len(sizes))
    count = 0
    for photo, truth in photos:
        count += 1
        for number, size in enumerate(sizes):
            started = time.perf_counter()
            labels = model.segment(photo, crf=crf, size=size).labels
            seconds[number] += time.perf_counter() - started
            scorers[number].add(truth, labels)
    rows = []
    for size, scorer, spent in zip(sizes, scorers, seconds, strict=True):
        scores = scorer.scores()
        rows.append(
            {
                "size": size,
                "photos": count,
                "mIoU-7": round(100 * scores.mean_iou_of(), 2),
                "pixel accuracy": round(100 * scores.pixel_accuracy, 2),
                "seconds": round(spent / count, 2),
            }
        )
    return rows


def table(files: Sequence[Path]) -> str:
    """All measurements as one table in Markdown."""
    lines = []
    for file in files:
        record = json.loads(file.read_text())
        for row in record["rows"]:
            cells = [
                f"{record['megapixels']:g}" if record["megapixels"] else "0.2, as they are",
                row["photos"],
                "yes" if record["crf"] else "no",
                row["size"] or "full size",
                f"{row['mIoU-7']:.2f}",
                f"{row['pixel accuracy']:.2f}",
                f"{row['seconds']:.2f}",
            ]
            lines.append(f"| {' | '.join(map(str, cells))} |\n")
    return HEADING + "".join(lines)


def main() -> None:
    """Measure and write JSON, or make one table of several measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder in VOC's layout")
    parser.add_argument("--weights", type=Path, help="weights file instead of the package's weights")
    parser.add_argument("--megapixels", type=float, default=0, help="0 for the photos as they are")
    parser.add_argument("--photos", type=int, default=80)
    parser.add_argument("--sizes", type=int, nargs="+", default=[0, 500, 513, 600, 640, 700])
    parser.add_argument("--crf", action="store_true")
    parser.add_argument("--table", type=Path, nargs="+", help="JSON files to make one table of")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.table:
        options.out.write_text(table(options.table))
        return
    model = deeplab.load(weights=options.weights)
    photos = enlarged_photos(options.data, options.photos, options.megapixels)
    rows = measure(model, photos, options.sizes, options.crf)
    record = {"megapixels": options.megapixels, "crf": options.crf, "rows": rows}
    options.out.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
