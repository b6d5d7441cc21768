"""At which size the network should look at large photos: labelled photos enlarged, looked at in several
sizes.

    python large_photos.py --data VOC --weights deeplab-largefov-voc.safetensors --megapixels 1 --photos 80 \
        --sizes 0 500 513 600 640 700 --out large-1.json
    python large_photos.py --table large-1.json large-3.json large-12.json --out ../../results/large-photos.md

Photos are enlarged by bicubic interpolation, their labels by the nearest neighbour, to so many megapixels.
Size 0 is the enlarged photo as it is. Photos are taken at equal distances over the list. Scores are added up
over all photos.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

import deeplab
from deeplab.datasets.opening import open_dataset
from deeplab.evaluation.scoring import Scorer
from deeplab.model.segmentation import Model


def enlarged(photo: np.ndarray, labels: np.ndarray, megapixels: float) -> tuple[np.ndarray, np.ndarray]:
    """Photo (H, W, 3) uint8 and labels (H, W), of the same shape and so many megapixels; 0 leaves them as
    they are."""
    height, width = labels.shape
    factor = (megapixels * 1e6 / (height * width)) ** 0.5 if megapixels else 1.0
    size = round(width * factor), round(height * factor)
    large = Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(large), np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))


def measure(
    model: Model,
    pairs: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]],
    sizes: Sequence[int],
    crf: bool,
) -> list[dict[str, float]]:
    """Figures for each size, in percent and seconds a photo; the same photos for all sizes."""
    scorers, seconds = [Scorer(model.class_names, ()) for _ in sizes], np.zeros(len(sizes))
    photos = 0
    for photo, truth in pairs():
        photos += 1
        for place, size in enumerate(sizes):
            started = time.perf_counter()
            labels = model.segment(photo, crf=crf, size=size).labels
            seconds[place] += time.perf_counter() - started
            scorers[place].add(truth, labels)
    rows = []
    for size, scorer, spent in zip(sizes, scorers, seconds, strict=True):
        scores = scorer.scores()
        rows.append(
            {
                "size": size,
                "photos": photos,
                "mIoU-7": round(100 * scores.mean_iou_of(), 2),
                "pixel accuracy": round(100 * scores.pixel_accuracy, 2),
                "seconds": round(spent / photos, 2),
            }
        )
    return rows


def table(files: Sequence[Path]) -> str:
    """All measurements as one table in Markdown."""
    lines = [
        "# Large photos: at which size the network looks at them",
        "",
        "VOC val photos, enlarged (bicubic; labels by nearest neighbour). The network looks at them reduced to so many",
        "pixels on the longer side; its probabilities are enlarged again to the photo's size, at which the CRF runs.",
        "Percent; seconds on two cores that were shared with other work. Made by",
        "`deeplab/experiments/large_photos.py`.",
        "",
        "The photos had 500 pixels on the longer side before they were enlarged: photos of cameras have more detail,",
        "but objects fill it in the same way. Rows of equally many photos are of the same photos.",
        "",
        "| megapixels | photos | CRF | longer side | mean IoU of seven classes | pixel accuracy | s a photo |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for file in files:
        found = json.loads(file.read_text())
        for row in found["rows"]:
            cells = [
                f"{found['megapixels']:g}" if found["megapixels"] else "0.2, as they are",
                row["photos"],
                "yes" if found["crf"] else "no",
                row["size"] or "full size",
                f"{row['mIoU-7']:.2f}",
                f"{row['pixel accuracy']:.2f}",
                f"{row['seconds']:.2f}",
            ]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write JSON, or make one table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder in VOC's layout")
    parser.add_argument("--weights", type=Path, help="by default those that come with the package")
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
    model, dataset = deeplab.load(weights=options.weights), list(open_dataset(options.data, "val"))
    chosen = [
        dataset[place] for place in np.linspace(0, len(dataset) - 1, options.photos).round().astype(int)
    ]

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for pair in tqdm(chosen, unit="photo", disable=None):
            yield enlarged(pair.read_photo(), pair.read_labels(), options.megapixels)

    rows = measure(model, pairs, options.sizes, options.crf)
    found = {"megapixels": options.megapixels, "crf": options.crf, "rows": rows}
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
