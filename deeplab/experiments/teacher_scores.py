"""Run a quantised DeepLab v3 (.tflite) on photos and keep its scores as
``deeplab.datasets.score_file.ScoreFile`` reads them.

    pip install ai-edge-litert
    python teacher_scores.py --network deeplabv3_mnv2_pascal_quant.tflite --photos VOC/JPEGImages \
        --list VOC/ImageSets/Segmentation/train_aug.txt --out teacher-voc.npz

The photo's longer side is resized to 513 pixels and the rest of the square filled with 128. The scores are
soft targets (``teacher`` of a recipe), or something for ``deeplab search --scores`` to work on.
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

CANVAS, GREY, SCORES = 513, 128, 33


def canvas_of(photo: Image.Image) -> tuple[np.ndarray, tuple[int, int]]:
    """The square (513, 513, 3) uint8, and (width, height) of the part that the photo fills."""
    ratio = CANVAS / max(photo.size)
    width, height = (max(1, min(CANVAS, round(length * ratio))) for length in photo.size)
    canvas = np.full((CANVAS, CANVAS, 3), GREY, np.uint8)
    canvas[:height, :width] = np.asarray(
        photo.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    )
    return canvas, (width, height)


def main() -> None:
    """Score every photo and write one file."""
    from ai_edge_litert.interpreter import Interpreter

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True, help="folder of .jpg files")
    parser.add_argument("--list", type=Path, help="names without endings, one a line; all photos without")
    parser.add_argument("--out", type=Path, required=True, help=".npz file to write")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    names = (
        options.list.read_text().split()
        if options.list
        else sorted(p.stem for p in options.photos.glob("*.jpg"))
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of memory: the network's own output is labels, so its scores must be kept
        network = Interpreter(
            str(options.network), num_threads=options.threads, experimental_preserve_all_tensors=True
        )
    network.allocate_tensors()
    photo_in = network.get_input_details()[0]
    maps = [part for part in network.get_tensor_details() if tuple(part["shape"][:3]) == (1, SCORES, SCORES)]
    scores_out = next(part for part in maps if part["name"].startswith("logits/semantic/"))
    if tuple(photo_in["shape"]) != (1, CANVAS, CANVAS, 3) or photo_in["dtype"] != np.uint8:
        sys.exit(
            f"{options.network}: takes {photo_in['shape']} {photo_in['dtype'].__name__}, wanted 1×513×513×3 uint8"
        )
    scores, sizes = [], []
    for name in tqdm(names, unit="photo"):
        with Image.open(options.photos / f"{name}.jpg") as photo:
            canvas, filled = canvas_of(photo)
            sizes.append((*photo.size, *filled))
        network.set_tensor(photo_in["index"], canvas[None])
        network.invoke()
        scores.append(network.get_tensor(scores_out["index"])[0])
    scale, zero_point = scores_out["quantization"]
    np.savez_compressed(
        options.out,
        ids=np.array(names),
        logits_u8=np.stack(scores),
        scale=scale,
        zero_point=zero_point,
        width_height_canvasw_canvash=np.array(sizes),
    )
    print(f"{options.out}: {len(names)} photos, scores {scores[0].shape} {scores[0].dtype}")


if __name__ == "__main__":
    main()
