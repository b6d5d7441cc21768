"""Photos of several data sets in one small folder in PASCAL VOC's layout.

Question: How can several data sets be taken to another machine, and their rare classes be shown more often?

Command:
    python training_pack.py --source voc:train_all --source rare=rare/JPEGImages,rare/PseudoClassV7 \
        --source animals=animals/JPEGImages,animals/Masks --val voc:val --out pack --repeat-factor 0.1

Writes: OUT, with photos as WebP of at most ``--side`` pixels on their longer side, and five lists.
``train`` names a photo more than once if its classes are rare: r = max(1, sqrt(t / f)) times, where f is
the share of photos that show the class and t is ``--repeat-factor``. ``train_once`` names every photo
once. ``val`` has all val photos; ``val_choose``, every second one, is for choosing a checkpoint, and
``val_report``, the others, only for reporting its score. gpu_training.py trains on this folder.

A source is FOLDER:SPLIT of a data set that ``deeplab check-data`` knows, or NAME=PHOTOS,MASKS: two
folders with files of the same stems and VOC's ids.

Source: "LVIS" (arXiv 1908.03195), appendix B.2, for the repeat factor.
"""

import argparse
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from deeplab.classes import VOC_CLASSES
from deeplab.datasets.opening import Sample, open_dataset
from deeplab.drawing import palette_png
from deeplab.files import write_whole

MIN_SHARE = 0.01
"""Share of a photo's pixels that a class must have to count as shown."""
FULL_SIZE = 10**6


def samples_of(source: str) -> list[Sample]:
    """The samples that one --source names."""
    if "=" in source:
        photos, masks = (Path(part) for part in source.split("=", 1)[1].split(","))
        by_stem = {path.stem: path for path in sorted(photos.iterdir())}
        return [Sample(path.stem, by_stem[path.stem], path) for path in sorted(masks.glob("*.png"))]
    folder, _, split = source.rpartition(":")
    return list(open_dataset(folder, split))


def pack(samples: Sequence[Sample], out: Path, side: int, quality: int) -> Iterator[tuple[str, np.ndarray]]:
    """Write photos and masks.

    Args:
        samples: photos with labels.
        out: folder in VOC's layout.
        side: largest side of a photo in pixels.
        quality: quality of WebP, 0 to 100.

    Yields:
        Name and label map of each sample.
    """
    for sample in tqdm(samples, unit="photo"):
        photo = Image.fromarray(sample.read_photo())
        labels = sample.read_labels()
        if max(photo.size) > side:
            scale = side / max(photo.size)
            size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
            photo = photo.resize(size, Image.Resampling.LANCZOS)
            labels = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
        buffer = io.BytesIO()
        photo.save(buffer, "WEBP", quality=quality, method=4)
        write_whole(out / "JPEGImages" / f"{sample.name}.webp", buffer.getvalue())
        write_whole(out / "SegmentationClass" / f"{sample.name}.png", palette_png(labels))
        yield sample.name, labels


def shown_classes(labels: np.ndarray) -> list[int]:
    """Ids of the classes, background left out, that a label map shows."""
    pixels = np.bincount(labels.ravel(), minlength=256)[1 : len(VOC_CLASSES)]
    return [int(number) for number in 1 + np.flatnonzero(pixels > MIN_SHARE * labels.size)]


def repeated(classes: Mapping[str, Sequence[int]], repeat_factor: float, seed: int) -> list[str]:
    """The list ``train``, in which photos of rare classes are named more than once.

    Args:
        classes: ids of the classes that each photo shows, by its name.
        repeat_factor: share of photos below which a class counts as rare.
        seed: seed of the draws for fractions.

    Returns:
        Names of photos.
    """
    photos_with = Counter(number for numbers in classes.values() for number in numbers)
    factors = {
        number: max(1.0, math.sqrt(repeat_factor * len(classes) / count))
        for number, count in photos_with.items()
    }
    rng = np.random.default_rng(seed)
    lines: list[str] = []
    shown = Counter[int]()
    for name, numbers in classes.items():
        mean_times = max((factors[number] for number in numbers), default=1.0)
        times = int(mean_times) + int(rng.random() < mean_times % 1)
        lines += [name] * times
        shown.update(dict.fromkeys(numbers, times))
    print(f"{len(lines)} lines for {len(classes)} photos")
    changes = [
        f"{VOC_CLASSES[number]} {photos_with[number]} → {shown[number]}" for number in sorted(photos_with)
    ]
    print(", ".join(changes))
    return lines


def main() -> None:
    """Pack the photos, write the lists, and print how often each class is shown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", action="append", default=[], required=True)
    parser.add_argument("--val", required=True)
    parser.add_argument("--skip", type=Path, help="file with names of photos to leave out, one a line")
    parser.add_argument("--side", type=int, default=500)
    parser.add_argument("--quality", type=int, default=65, help="quality of WebP, 0 to 100")
    parser.add_argument("--repeat-factor", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    skipped = set(options.skip.read_text().split()) if options.skip else set()
    samples = [
        sample for source in options.source for sample in samples_of(source) if sample.name not in skipped
    ]
    counts = Counter(sample.name for sample in samples)
    if doubled := [name for name, count in counts.items() if count > 1]:
        parser.error(
            f"got {len(doubled)} names twice, first {doubled[0]}; leave one of the two out with --skip"
        )
    classes = {
        name: shown_classes(labels)
        for name, labels in pack(samples, options.out, options.side, options.quality)
    }
    val = [name for name, _ in pack(samples_of(options.val), options.out, FULL_SIZE, quality=90)]
    lists = {
        "train": repeated(classes, options.repeat_factor, options.seed),
        "train_once": list(classes),
        "val": val,
        "val_choose": val[::2],
        "val_report": val[1::2],
    }
    for split, names in lists.items():
        text = "".join(f"{name}\n" for name in names)
        write_whole(options.out / "ImageSets" / "Segmentation" / f"{split}.txt", text.encode())


if __name__ == "__main__":
    main()
