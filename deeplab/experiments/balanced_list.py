"""Write a list for training that names photos of rare or often confused classes more than once.

    python balanced_list.py --data VOC --split train_aug --out VOC/ImageSets/Segmentation/balanced.txt \
        --times cat=1 dog=1 person=1.2 horse=1.5 chair=1.6 cow=2 sheep=2 sofa=2 diningtable=2 --others 2.5

A photo is named as often as the class that asks for most among those on at least 1 % of its pixels; 2.5 is
twice or three times, by a draw. What is written is a split like any other: ``train_split = "balanced"`` of a
recipe.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from deeplab.datasets.opening import open_dataset
from deeplab.files import write_whole

LEAST_SHARE = 0.01


def main() -> None:
    """Read every mask, write the list, print how often each class is now seen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder that deeplab train takes")
    parser.add_argument("--split", default="train_aug")
    parser.add_argument("--times", nargs="*", default=[], metavar="CLASS=TIMES")
    parser.add_argument(
        "--others", type=float, default=1.0, help="for all classes that --times does not name"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    dataset = open_dataset(options.data, options.split)
    names = dataset.class_names
    asked = dict(word.split("=", 1) for word in options.times)
    if unknown := set(asked) - set(names):
        parser.error(f"got --times for {', '.join(sorted(unknown))}, wanted some of: {', '.join(names[1:])}")
    times = [float(asked.get(name, options.others)) for name in names]
    rng, lines, seen = np.random.default_rng(options.seed), [], Counter[str]()
    for pair in dataset:
        labels = pair.read_labels()
        pixels = np.bincount(labels.ravel(), minlength=256)[1 : len(names)]
        classes = 1 + np.flatnonzero(pixels > LEAST_SHARE * labels.size)
        wanted = max((times[number] for number in classes), default=1.0)
        count = int(wanted) + int(rng.random() < wanted % 1)
        lines += [pair.name] * count
        seen.update({names[number]: count for number in classes})
    write_whole(options.out, "".join(f"{line}\n" for line in lines).encode())
    print(
        f"{len(lines)} lines for {len(dataset)} photos: "
        + ", ".join(f"{n} {seen[n]}" for n in names if seen[n])
    )


if __name__ == "__main__":
    main()
