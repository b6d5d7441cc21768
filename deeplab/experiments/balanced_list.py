"""Training list that names photos of rare or often confused classes more than once.

Question: How can a training list show rare classes more often?

Command:
    python balanced_list.py --data VOC --split train_aug --out VOC/ImageSets/Segmentation/balanced.txt \
        --times cat=1 dog=1 person=1.2 horse=1.5 chair=1.6 cow=2 sheep=2 sofa=2 diningtable=2 --others 2.5

Writes: OUT, a split like any other, named in a recipe as ``train_split = "balanced"``. The recipe
voc-shared-longer.toml uses it.

Each class has a number of times that its photos are named. A photo is named as often as the largest number of
the classes on at least 1 % of its pixels; 2.5 means two or three times, at random.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from deeplab.datasets.opening import open_dataset
from deeplab.files import write_whole

MIN_SHARE = 0.01


def main() -> None:
    """Read every mask, write the list, and print how often each class is shown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder that deeplab train takes")
    parser.add_argument("--split", default="train_aug")
    parser.add_argument("--times", nargs="*", default=[], metavar="CLASS=TIMES")
    parser.add_argument("--others", type=float, default=1.0, help="times of all classes not in --times")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    dataset = open_dataset(options.data, options.split)
    names = dataset.class_names
    times_by_name = dict(word.split("=", 1) for word in options.times)
    if unknown := set(times_by_name) - set(names):
        parser.error(f"got --times for {', '.join(sorted(unknown))}, wanted some of: {', '.join(names[1:])}")
    times = [float(times_by_name.get(name, options.others)) for name in names]
    rng = np.random.default_rng(options.seed)
    lines: list[str] = []
    shown = Counter[str]()
    for sample in dataset:
        labels = sample.read_labels()
        pixels = np.bincount(labels.ravel(), minlength=256)[1 : len(names)]
        classes = 1 + np.flatnonzero(pixels > MIN_SHARE * labels.size)
        mean_count = max((times[number] for number in classes), default=1.0)
        count = int(mean_count) + int(rng.random() < mean_count % 1)
        lines += [sample.name] * count
        shown.update({names[number]: count for number in classes})
    write_whole(options.out, "".join(f"{line}\n" for line in lines).encode())
    counts = ", ".join(f"{name} {shown[name]}" for name in names if shown[name])
    print(f"{len(lines)} lines for {len(dataset)} photos: {counts}")


if __name__ == "__main__":
    main()
