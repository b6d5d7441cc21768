"""A small data set for the search: photos in VOC's layout, and class scores that miss their edges."""

import numpy as np
from PIL import Image

from deeplab.crf_search.evaluate_params import ParamsEvaluator
from deeplab.crf_search.grid import Grid
from deeplab.crf_search.score_cache import FileScores
from deeplab.datasets.opening import voc
from densecrf import Params

HEIGHT, WIDTH = 30, 44
AFTER = Params(normalization="after")
SMALL = Grid((2.0, 6.0), (4.0, 12.0), (5.0, 20.0))


def make(folder):
    """Make photos with a noisy block of cat and scores.npz; a, b, c are val, c, d, e test, d, e rest."""
    rng = np.random.default_rng(0)
    for name in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (folder / name).mkdir(parents=True)
    names, logits = ["a", "b", "c", "d", "e"], np.full((5, 33, 33, 21), 60, np.uint8)
    rows, columns = np.arange(33) * 16 * HEIGHT // 350, np.arange(33) * 16 * WIDTH // 513
    for index, name in enumerate(names):
        top, left = int(rng.integers(4, 12)), int(rng.integers(4, 16))
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[top : top + 14, left : left + 22] = 8
        colours = np.where(labels[:, :, None] == 8, (190, 120, 60), (70, 110, 140))
        photo = np.clip(colours + rng.normal(0, 9, colours.shape), 0, 255).astype(np.uint8)
        is_cat = np.roll(labels[rows.clip(0, HEIGHT - 1)][:, columns] == 8, 3, axis=1)
        labels[:, :2] = 255
        Image.fromarray(photo).save(folder / f"JPEGImages/{name}.jpg", quality=95)
        Image.fromarray(labels).save(folder / f"SegmentationClass/{name}.png")
        logits[index, :, :, 0] = np.where(is_cat, 90, 105) + rng.integers(-12, 12, is_cat.shape)
        logits[index, :, :, 8] = np.where(is_cat, 105, 90) + rng.integers(-12, 12, is_cat.shape)
    for split, part in (("val", names[:3]), ("test", names[2:]), ("rest", names[3:])):
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(part) + "\n")
    np.savez(
        folder / "scores.npz",
        ids=np.array(names),
        logits_u8=logits,
        scale=np.float32(0.15),
        zero_point=np.int32(30),
        width_height_canvasw_canvash=np.tile([WIDTH, HEIGHT, 513, 350], (5, 1)).astype(np.int32),
    )
    return folder


def evaluator_of(folder, store, workers=2, split="val"):
    dataset = voc(folder, split)
    source = FileScores(folder / "scores.npz", dataset)
    return ParamsEvaluator(dataset.samples, source, dataset.class_names, store, workers=workers)


def first_of(folder):
    """Photo (H, W, 3) and probabilities (K, H, W) of the first of val."""
    dataset = voc(folder, "val")
    probabilities = FileScores(folder / "scores.npz", dataset).probabilities(dataset[0], (HEIGHT, WIDTH))
    return dataset[0].read_photo(), probabilities
