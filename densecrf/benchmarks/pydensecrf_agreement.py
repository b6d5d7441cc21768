"""How far the drop-in is from pydensecrf2, and pydensecrf2 from itself after features move by one unit.

Photos: those of PASCAL VOC with scores of a real network, in a folder as for ``score_maps.py``. Volumes:
synthetic, with whole numbers of levels and voxels as widths, for which many points lie on boundaries between
lattice cells. "One unit" is one unit in the last place of every feature in float32.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pydensecrf.densecrf as their_crf
from PIL import Image
from score_maps import probabilities

import densecrf.pydensecrf as our_crf
from densecrf.pydensecrf import create_pairwise_bilateral, create_pairwise_gaussian, unary_from_softmax

PHOTO_SETTINGS = {  # smoothness width and weight, appearance widths and weight, steps
    "1/3 + 67/3/4": (1, 3, 67, 3, 4, 10),
    "3/3 + 64/5/4": (3, 3, 64, 5, 4, 10),
    "3/3 + 50/5/10": (3, 3, 50, 5, 10, 10),
    "3/3 + 80/13/10": (3, 3, 80, 13, 10, 5),
    "3/3 + 121/5/4": (3, 3, 121, 5, 4, 10),
}
VOLUME_SETTINGS = ((1, 4), (2, 10), (3, 5), (5, 20))
"""Width along each axis in voxels, and in levels."""
Problem = tuple[np.ndarray, list[tuple[np.ndarray, float]], int]
"""Energies (K, N), features (d, N) with their weights, and the number of steps."""


def photo_problems(data: Path, photos: int, setting: str) -> Iterator[Problem]:
    """The problems of one setting on the first photos.

    Args:
        data: folder whose ``voc/`` has photos and scores.
        photos: number of photos.
        setting: key of ``PHOTO_SETTINGS``.
    """
    smooth_xy, smooth_weight, xy, rgb, weight, steps = PHOTO_SETTINGS[setting]
    scores = np.load(data / "voc/scores/deeplabv3_mnv2_pascal_quant_val.npz")
    for index in range(0, len(scores["ids"]), len(scores["ids"]) // photos):
        name = f"{scores['ids'][index]}.jpg"
        photo = np.asarray(Image.open(data / "voc/JPEGImages" / name).convert("RGB"))
        shape = photo.shape[:2]
        energies = unary_from_softmax(probabilities(scores, index, *shape))
        features = create_pairwise_bilateral((xy, xy), rgb, photo, chdim=2)
        order = [1, 0, 2, 3, 4]  # DenseCRF2D puts x before y
        grid = create_pairwise_gaussian((smooth_xy, smooth_xy), shape)[order[:2]]
        yield energies, [(grid, smooth_weight), (features[order], weight)], steps


def volume_problem(xyz: float, level: float, seed: int) -> Problem:
    """A bright ball in a volume of 20 × 22 × 18 voxels with a few grey levels.

    Args:
        xyz: width of the kernels along each axis in voxels.
        level: width of the appearance kernel in levels.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    shape = (20, 22, 18)
    z, y, x = np.indices(shape)
    is_ball = (z - 9) ** 2 + (y - 11) ** 2 + (x - 8) ** 2 < 40
    image = np.where(is_ball, 160.0, 60.0) + 4 * rng.integers(0, 3, shape)
    foreground = 1 / (1 + np.exp((110 - image) / 60 + rng.normal(size=shape)))
    widths = (xyz,) * 3
    terms = [
        (create_pairwise_gaussian(widths, shape), 2.0),
        (create_pairwise_bilateral(widths, level, image), 3.0),
    ]
    return unary_from_softmax(np.stack([1 - foreground, foreground])), terms, 5


def marginals(crf: ModuleType, problem: Problem, moved: bool = False) -> np.ndarray:
    """Marginals (K, N).

    Args:
        crf: the drop-in or pydensecrf.
        problem: energies, features and steps.
        moved: whether features are moved by one unit.
    """
    energies, terms, steps = problem
    model = crf.DenseCRF(energies.shape[1], len(energies))
    model.setUnaryEnergy(energies)
    for features, weight in terms:
        used = np.nextafter(features, np.float32(np.inf)) if moved else features
        model.addPairwiseEnergy(np.ascontiguousarray(used), compat=weight)
    return np.array(model.inference(steps))


def row(name: str, problems: Iterator[Problem]) -> str:
    """One row of the table: the largest and mean differences over some problems, and other labels.

    Args:
        name: first cell of the row.
        problems: what to run.
    """
    figures = []
    for problem in problems:
        theirs = marginals(their_crf, problem)
        for other in (marginals(our_crf, problem), marginals(their_crf, problem, moved=True)):
            difference = np.abs(other - theirs)
            relabelled = (other.argmax(0) != theirs.argmax(0)).mean()
            figures.append(
                (difference.max(), difference.mean(), (difference.max(0) > 1e-4).mean(), relabelled)
            )
    cells = []
    for first in (0, 1):
        worst, mean, moved, relabelled = np.array(figures[first::2]).T
        cells += [
            f"{worst.max():.1e}",
            f"{mean.mean():.1e}",
            f"{moved.mean():.1e}",
            f"{relabelled.mean():.1e}",
        ]
    return " | ".join([f"| {name}", *cells]) + " |"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("DEEPLAB_DATA", "../shared/data"))
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    options = parser.parse_args()
    rows = []
    for setting in PHOTO_SETTINGS:
        rows.append(row(f"photos, {setting}", photo_problems(options.data, options.photos, setting)))
        print(rows[-1], flush=True)
    for xyz, level in VOLUME_SETTINGS:
        problems = (volume_problem(xyz, level, seed) for seed in range(3))
        rows.append(row(f"volumes, {xyz} voxels, {level} levels", problems))
        print(rows[-1], flush=True)
    options.out.write_text(HEAD.format(photos=options.photos) + "\n".join(rows) + "\n")


HEAD = """# The drop-in against pydensecrf2

Differences of marginals, over {photos} VOC photos with scores of a network (21 labels), and over 3 synthetic
volumes with two labels. On the right, pydensecrf2 against itself, after every feature was moved by one unit
in the last place of float32. A point on the boundary between two lattice cells is put into either of them, as
rounding decides; this is where differences over 1e-4 come from. "Over 1e-4" is the share of points, "labels"
the share of points with another label. Made by `densecrf/benchmarks/pydensecrf_agreement.py`.

| problem | largest | mean | over 1e-4 | labels | itself: largest | mean | over 1e-4 | labels |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""

if __name__ == "__main__":
    main()
