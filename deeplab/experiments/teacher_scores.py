"""Class scores of a quantised DeepLab v3 (.tflite) for each photo of a list.

Question: What does an independent network say about each photo, for soft targets and for the CRF's search?

Command:
    pip install ai-edge-litert
    python teacher_scores.py --network deeplabv3_mnv2_pascal_quant.tflite --photos VOC/JPEGImages \
        --list VOC/ImageSets/Segmentation/train_aug.txt --out teacher-voc.npz

Writes: OUT in the format of ``deeplab.datasets.score_file.ScoreFile``: soft targets (``teacher`` in a
recipe), or the input of ``deeplab search --scores``, crf_on_scores.py and learned_or_searched.py.

The photo's longer side is resized to 513 pixels, and the rest of the square is filled with grey 128.
"""

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

CANVAS = 513
GREY = 128
SCORES = 33
"""Height and width of the network's score map."""


def canvas_of(photo: Image.Image) -> tuple[np.ndarray, tuple[int, int]]:
    """The square (513, 513, 3) uint8, and (width, height) of the part that the photo fills."""
    ratio = CANVAS / max(photo.size)
    width, height = (max(1, min(CANVAS, round(length * ratio))) for length in photo.size)
    canvas = np.full((CANVAS, CANVAS, 3), GREY, np.uint8)
    canvas[:height, :width] = np.asarray(
        photo.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    )
    return canvas, (width, height)


class QuantisedNetwork:
    """A .tflite network whose class scores are read beside its labels.

    Args:
        path: the file.
        threads: number of threads.
    """

    def __init__(self, path: Path, threads: int):
        from ai_edge_litert.interpreter import Interpreter

        with warnings.catch_warnings():
            # It warns of memory; but the network's output is labels, so the scores before it must be kept.
            warnings.simplefilter("ignore")
            self._network = Interpreter(
                str(path), num_threads=threads, experimental_preserve_all_tensors=True
            )
        self._network.allocate_tensors()
        self._input: dict[str, Any] = self._network.get_input_details()[0]
        if tuple(self._input["shape"]) != (1, CANVAS, CANVAS, 3) or self._input["dtype"] != np.uint8:
            sys.exit(
                f"{path}: takes {self._input['shape']} {self._input['dtype'].__name__}, "
                "wanted 1×513×513×3 uint8"
            )
        self._output: dict[str, Any] = next(
            tensor
            for tensor in self._network.get_tensor_details()
            if tuple(tensor["shape"][:3]) == (1, SCORES, SCORES)
            and tensor["name"].startswith("logits/semantic/")
        )
        self.scale, self.zero_point = self._output["quantization"]

    def scores(self, canvas: np.ndarray) -> np.ndarray:
        """Quantised scores (33, 33, K) uint8 of a square (513, 513, 3) uint8."""
        self._network.set_tensor(self._input["index"], canvas[None])
        self._network.invoke()
        scores: np.ndarray = self._network.get_tensor(self._output["index"])[0]
        return scores


def main() -> None:
    """Score every photo and write one file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True, help="folder of .jpg files")
    parser.add_argument("--list", type=Path, help="names without endings, one a line; without it, all photos")
    parser.add_argument("--out", type=Path, required=True, help=".npz file to write")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    all_photos = sorted(path.stem for path in options.photos.glob("*.jpg"))
    names = options.list.read_text().split() if options.list else all_photos
    network = QuantisedNetwork(options.network, options.threads)
    scores = []
    sizes = []
    for name in tqdm(names, unit="photo"):
        with Image.open(options.photos / f"{name}.jpg") as photo:
            canvas, filled = canvas_of(photo)
            sizes.append((*photo.size, *filled))
        scores.append(network.scores(canvas))
    np.savez_compressed(
        options.out,
        ids=np.array(names),
        logits_u8=np.stack(scores),
        scale=network.scale,
        zero_point=network.zero_point,
        width_height_canvasw_canvash=np.array(sizes),
    )
    print(f"{options.out}: {len(names)} photos, scores {scores[0].shape} {scores[0].dtype}")


if __name__ == "__main__":
    main()
