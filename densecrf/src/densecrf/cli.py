"""The command line: ``densecrf refine`` sharpens somebody's scores, ``densecrf doctor`` says what runs
here."""

from __future__ import annotations

import argparse
import os
import platform
import struct
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import densecrf
from densecrf import _native
from densecrf.params import read_params
from densecrf.threads import thread_count

if TYPE_CHECKING:
    from PIL import Image

OK, FAILED, INTERRUPTED = 0, 1, 130
# What NumPy and zipfile raise for files that are damaged, or pickles in disguise.
DAMAGED = (
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 failed, 130 interrupted; wrong usage exits with 2."""
    parser = argparse.ArgumentParser(
        prog="densecrf", description="Fully connected CRFs for class scores and images."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    refine = commands.add_parser("refine", help="make class scores consistent with the edges of their photo")
    refine.add_argument("photo", type=Path, help="the photo the scores belong to")
    refine.add_argument(
        "scores",
        type=Path,
        help="(K, H, W) or (H, W, K) probabilities or logits as .npy or .npz, or a PNG of class ids",
    )
    refine.add_argument(
        "-o", "--out", type=Path, required=True, help="label map to write: .png, or .npy for marginals"
    )
    refine.add_argument("--params", type=Path, help="JSON file with fields of densecrf.Params")
    refine.add_argument("--iterations", type=int, default=10, help="mean-field steps (default: 10)")
    refine.add_argument("--threads", type=int, help="how many to use (default: all)")
    refine.add_argument(
        "--confidence", type=float, default=0.9, help="trust in a PNG of class ids (default: 0.9)"
    )
    refine.add_argument(
        "--ignore", type=int, default=255, help="id of pixels without a label in a PNG (default: 255)"
    )
    commands.add_parser("doctor", help="version, instruction set, threads, and a short self-test")
    options = parser.parse_args(arguments)
    try:
        return doctor() if options.command == "doctor" else run_refine(options)
    except KeyboardInterrupt:
        print("densecrf: interrupted", file=sys.stderr)
        return INTERRUPTED
    except ImportError:
        message = "reading images needs Pillow, which is not installed: pip install pillow"
    except (ValueError, OSError, MemoryError) as error:
        message = " ".join(str(error).split()) or "out of memory"
    print(f"densecrf: error: {message}", file=sys.stderr)
    return FAILED


def run_refine(options: argparse.Namespace) -> int:
    """Refine one photo's scores and write labels or marginals, whole or not at all."""
    if options.out.suffix.lower() not in (".png", ".npy"):
        raise ValueError(
            f"got --out {options.out}, wanted a name ending in .png (labels) or .npy (marginals)"
        )
    photo = np.asarray(_open_image(options.photo).convert("RGB"))
    probabilities = read_scores(options.scores, photo.shape[:2], options.confidence, options.ignore)
    params = densecrf.Params() if options.params is None else read_params(options.params)
    marginals = densecrf.refine(
        photo, probabilities, params=params, iterations=options.iterations, threads=options.threads
    )
    labels, before = marginals.argmax(axis=0), probabilities.argmax(axis=0)
    if options.out.suffix.lower() == ".png" and len(marginals) > 256:
        raise ValueError(f"got {len(marginals)} labels, a PNG holds at most 256; wanted --out NAME.npy")
    aside = options.out.with_name(f".densecrf.{os.getpid()}.part")
    try:
        with open(aside, "wb") as file:
            if options.out.suffix.lower() == ".npy":
                np.save(file, marginals)
            else:
                from PIL import Image

                Image.fromarray(labels.astype(np.uint8)).save(file, "PNG")
        aside.replace(options.out)
    finally:
        aside.unlink(missing_ok=True)
    share = 100 * float((labels != before).mean()) if labels.size else 0.0
    print(
        f"{options.out}: {labels.shape[1]}×{labels.shape[0]}, {len(marginals)} labels, {share:.2f} % of pixels changed"
    )
    return OK


def read_scores(path: Path, size: tuple[int, int], confidence: float, ignore: int) -> np.ndarray:
    """Probabilities (K, H, W) from an array of probabilities or logits, or from an image of class ids.

    Args:
        path: .npy; .npz with one array, or one named "probabilities", "scores" or "logits"; or an image of
            ids.
        size: (H, W) of the photo.
        confidence: trust in a label map.
        ignore: id of pixels without a label.

    Raises:
        ValueError: if it is no such file, or of another size.
    """
    if path.suffix.lower() in (".npy", ".npz"):
        scores = _read_array(path)
        if scores.dtype.kind not in "fiub":
            raise ValueError(f"{path}: got an array of {scores.dtype}, wanted numbers")
        if scores.ndim != 3:
            raise ValueError(f"{path}: got an array {scores.shape}, wanted (K, H, W) or (H, W, K)")
        if scores.shape[1:] != size and scores.shape[:2] == size:
            scores = np.moveaxis(scores, 2, 0)
        if scores.shape[1:] != size:
            raise ValueError(
                f"{path}: got scores {scores.shape}, wanted (K, {size[0]}, {size[1]}) as the photo is"
            )
        is_distribution = scores.min() >= 0 and np.abs(scores.sum(axis=0) - 1).max() < 1e-2
        return scores if is_distribution else np.exp(-densecrf.unary_from_logits(scores))
    image = _open_image(path)
    if image.mode not in ("P", "L"):
        raise ValueError(
            f"{path}: got a {image.mode} image, wanted class ids as a palette or grey PNG, or .npy scores"
        )
    ids = np.asarray(image)
    if ids.shape != size:
        raise ValueError(f"{path}: got labels {ids.shape}, wanted {size} as the photo is")
    known = ids[ids != ignore]
    count = max(2, int(known.max()) + 1) if known.size else 2
    return np.exp(-densecrf.unary_from_labels(ids, count, confidence=confidence, ignore=ignore))


def doctor() -> int:
    """Print what runs here, and check the lattice against the exact filter on a small image."""
    print(f"densecrf {densecrf.__version__}, NumPy {np.__version__}, Python {platform.python_version()}")
    print(f"instruction set: {_native.simd_level()}")
    print(f"threads: {thread_count(None)} of {os.cpu_count()} processors")
    rng = np.random.default_rng(0)
    blocks = (
        np.arange(24).reshape(4, 6).repeat(8, 0).repeat(8, 1)
    )  # 32×48, each block of one colour and one label
    photo = rng.integers(0, 256, size=(24, 3), dtype=np.uint8)[blocks]
    scores = 2.0 * (blocks % 3 == np.arange(3)[:, None, None]) + rng.normal(size=(3, 32, 48))
    probabilities = np.exp(-densecrf.unary_from_logits(scores))
    params = densecrf.Params(appearance_xy_std=20, appearance_rgb_std=20)
    ours = densecrf.refine(photo, probabilities, params=params)
    exact = densecrf.refine(photo, probabilities, params=params, backend="exact")
    error = float(np.abs(ours - exact).mean())
    fine = error < 0.02
    print(f"self-test: mean difference from the exact CRF {error:.4f}: {'fine' if fine else 'too large'}")
    return OK if fine else FAILED


def entry() -> None:
    """The console script."""
    sys.exit(main())


def _read_array(path: Path) -> np.ndarray:
    try:
        with open(path, "rb") as file:  # NumPy leaves the files of damaged archives open
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            names = list(loaded)
            chosen = (
                names if len(names) == 1 else [n for n in ("probabilities", "scores", "logits") if n in names]
            )
            if len(chosen) == 1:
                array: np.ndarray = loaded[chosen[0]]
                return array
    except DAMAGED as error:
        raise ValueError(
            f"{path}: not an array that can be read ({error}); wanted .npy or .npz, whole"
        ) from None
    raise ValueError(f"{path}: got arrays {names}, wanted one, or one named probabilities, scores or logits")


def _open_image(path: Path) -> Image.Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image) if image.mode != "P" else image.copy()
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"{path}: not an image that can be read ({type(error).__name__})") from None
