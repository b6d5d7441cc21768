"""Put the photos of several data sets into one small folder in PASCAL VOC's layout, to train on another
machine.

    python training_pack.py --source voc:train_all --source rare=rare/JPEGImages,rare/PseudoClassV7 \
        --source animals=animals/JPEGImages,animals/Masks --val voc:val --out pack --repeat-factor 0.1

A source is FOLDER:SPLIT of a data set that ``deeplab check-data`` knows, or NAME=PHOTOS,MASKS, two folders
with files of the same stems and VOC's ids. Photos are resized to ``--side`` pixels on their longer side and
saved as WebP. The list ``train`` names a photo more than once if its classes are rare: r = max(1, sqrt(t /
f)) times, f the share of photos that show the class and t ``--repeat-factor``. Of the val photos every second
one goes into the list ``val_choose``, to choose a checkpoint by; the others, ``val_report``, only judge.

Source: "LVIS" (arXiv 1908.03195), appendix B.2, for the repeat factor.
"""

import argparse
import io
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from deeplab.classes import VOC_CLASSES
from deeplab.datasets.opening import Sample, open_dataset
from deeplab.drawing import palette_png
from deeplab.files import write_whole

LEAST_SHARE = 0.01  # of a photo's pixels, that a class must have to count as shown


def pairs_of(source: str) -> list[Sample]:
    """The pairs that one --source names."""
    if "=" in source:
        photos, masks = (Path(part) for part in source.split("=", 1)[1].split(","))
        there = {path.stem: path for path in sorted(photos.iterdir())}
        return [Sample(path.stem, there[path.stem], path) for path in sorted(masks.glob("*.png"))]
    folder, _, split = source.rpartition(":")
    return list(open_dataset(folder, split))


def packed(pairs: list[Sample], out: Path, side: int, quality: int) -> Iterator[tuple[str, np.ndarray]]:
    """Write photos and masks; give names and label maps."""
    for pair in tqdm(pairs, unit="photo"):
        photo, labels = Image.fromarray(pair.read_photo()), pair.read_labels()
        if max(photo.size) > side:
            scale = side / max(photo.size)
            size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
            photo = photo.resize(size, Image.Resampling.LANCZOS)
            labels = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
        buffer = io.BytesIO()
        photo.save(buffer, "WEBP", quality=quality, method=4)
        write_whole(out / "JPEGImages" / f"{pair.name}.webp", buffer.getvalue())
        write_whole(out / "SegmentationClass" / f"{pair.name}.png", palette_png(labels))
        yield pair.name, labels


def shown(labels: np.ndarray) -> np.ndarray:
    """Ids of the classes other than background that a label map shows."""
    pixels = np.bincount(labels.ravel(), minlength=256)[1 : len(VOC_CLASSES)]
    return 1 + np.flatnonzero(pixels > LEAST_SHARE * labels.size)


def main() -> None:
    """Pack, write the lists, print how often each class is seen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", action="append", default=[], required=True)
    parser.add_argument("--val", required=True)
    parser.add_argument("--skip", type=Path, help="file with names of photos to leave out, one a line")
    parser.add_argument("--side", type=int, default=500)
    parser.add_argument("--quality", type=int, default=65, help="of WebP, 0 to 100")
    parser.add_argument("--repeat-factor", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    skip = set(options.skip.read_text().split()) if options.skip else set()
    pairs = [pair for source in options.source for pair in pairs_of(source) if pair.name not in skip]
    if doubled := [name for name, times in Counter(pair.name for pair in pairs).items() if times > 1]:
        parser.error(
            f"got {len(doubled)} names twice, first {doubled[0]}; leave one of the two out with --skip"
        )
    classes = {
        name: shown(labels) for name, labels in packed(pairs, options.out, options.side, options.quality)
    }
    share = Counter(int(number) for numbers in classes.values() for number in numbers)
    factor = {c: max(1.0, math.sqrt(options.repeat_factor * len(pairs) / share[c])) for c in share}
    rng, lines, seen = np.random.default_rng(options.seed), [], Counter[str]()
    for name, numbers in classes.items():
        wanted = max((factor[int(number)] for number in numbers), default=1.0)
        times = int(wanted) + int(rng.random() < wanted % 1)
        lines += [name] * times
        seen.update({VOC_CLASSES[int(number)]: times for number in numbers})
    val = [name for name, _ in packed(pairs_of(options.val), options.out, 10**6, 90)]
    lists = {
        "train": lines,
        "train_once": list(classes),
        "val": val,
        "val_choose": val[::2],
        "val_report": val[1::2],
    }
    for split, names in lists.items():
        text = "".join(f"{name}\n" for name in names)
        write_whole(options.out / "ImageSets" / "Segmentation" / f"{split}.txt", text.encode())
    print(f"{len(lines)} lines for {len(pairs)} photos")
    print(", ".join(f"{VOC_CLASSES[c]} {share[c]} → {seen[VOC_CLASSES[c]]}" for c in sorted(share)))


if __name__ == "__main__":
    main()
