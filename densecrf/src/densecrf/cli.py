"""The command line: ``densecrf refine`` refines class scores, ``densecrf doctor`` checks the installation."""

from __future__ import annotations

import argparse
import os
import platform
import struct
import sys
import tokenize
import warnings
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

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
ARRAY_ERRORS = (
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy and zipfile raise for damaged files, and for pickled objects."""
ARRAY_NAMES = ("probabilities", "scores", "logits")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the words of the command line; by default those of this process.

    Returns:
        The exit code: 0 for success, 1 for failure, 130 for an interrupt. Wrong usage exits with 2.
    """
    options = _parser().parse_args(arguments)
    try:
        return doctor() if options.command == "doctor" else run_refine(options)
    except KeyboardInterrupt:
        print("densecrf: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ImportError:
        message = "reading images needs Pillow, which is not installed: pip install pillow"
    except (ValueError, TypeError, OSError, MemoryError) as error:
        message = " ".join(str(error).split()) or "out of memory"
    print(f"densecrf: error: {message}", file=sys.stderr)
    return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
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
    refine.add_argument("--threads", type=int, help="maximum number of threads (default: all processors)")
    refine.add_argument(
        "--confidence", type=float, default=0.9, help="probability of the labels of a PNG (default: 0.9)"
    )
    refine.add_argument(
        "--ignore", type=int, default=255, help="id of pixels without a label in a PNG (default: 255)"
    )
    commands.add_parser("doctor", help="version, instruction set, threads, and a short self-test")
    return parser


def run_refine(options: argparse.Namespace) -> int:
    """Refine the scores of one photo and write labels or marginals.

    The result is written to a temporary file and renamed, so that it is complete or not there at all.
    """
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
    labels = marginals.argmax(axis=0)
    if options.out.suffix.lower() == ".png" and len(marginals) > 256:
        raise ValueError(f"got {len(marginals)} labels, a PNG holds at most 256; wanted --out NAME.npy")
    temporary = options.out.with_name(f".densecrf.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            if options.out.suffix.lower() == ".npy":
                np.save(file, marginals)
            else:
                from PIL import Image

                Image.fromarray(labels.astype(np.uint8)).save(file, "PNG")
        temporary.replace(options.out)
    finally:
        temporary.unlink(missing_ok=True)
    height, width = labels.shape
    changed = 100 * float((labels != probabilities.argmax(axis=0)).mean()) if labels.size else 0.0
    print(f"{options.out}: {width}×{height}, {len(marginals)} labels, {changed:.2f} % of pixels changed")
    return EXIT_OK


def read_scores(path: Path, size: tuple[int, int], confidence: float, ignore: int) -> np.ndarray:
    """Read class probabilities from an array of probabilities or logits, or from an image of class ids.

    Args:
        path: .npy; .npz with one array, or one named "probabilities", "scores" or "logits"; or an image of
            class ids.
        size: (H, W) of the photo in pixels.
        confidence: probability of the labels of an image of class ids.
        ignore: class id of pixels without a label.

    Returns:
        (K, H, W) probabilities.

    Raises:
        ValueError: if it is not such a file, or of another size.
    """
    height, width = size
    if path.suffix.lower() in (".npy", ".npz"):
        scores = _read_array(path)
        if scores.dtype.kind not in "fiub":
            raise ValueError(f"{path}: got an array of {scores.dtype}, wanted numbers")
        if scores.ndim != 3 or not scores.size:
            raise ValueError(f"{path}: got an array {scores.shape}, wanted (K, H, W) or (H, W, K)")
        if scores.shape[1:] != size and scores.shape[:2] == size:
            scores = np.moveaxis(scores, 2, 0)
        if scores.shape[1:] != size:
            raise ValueError(
                f"{path}: got scores {scores.shape}, wanted (K, {height}, {width}), the size of the photo"
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
        raise ValueError(f"{path}: got labels {ids.shape}, wanted {size}, the size of the photo")
    labelled = ids[ids != ignore]
    count = max(2, int(labelled.max()) + 1) if labelled.size else 2
    return np.exp(-densecrf.unary_from_labels(ids, count, confidence=confidence, ignore=ignore))


def doctor() -> int:
    """Print versions and hardware, and compare the lattice with the exact filter on a small image."""
    print(f"densecrf {densecrf.__version__}, NumPy {np.__version__}, Python {platform.python_version()}")
    print(f"instruction set: {_native.simd_level()}")
    print(f"threads: {thread_count(None)} of {os.cpu_count()} processors")
    rng = np.random.default_rng(0)
    # 32×48 pixels in blocks, each of one colour and one label.
    blocks = np.arange(24).reshape(4, 6).repeat(8, 0).repeat(8, 1)
    photo = rng.integers(0, 256, size=(24, 3), dtype=np.uint8)[blocks]
    scores = 2.0 * (blocks % 3 == np.arange(3)[:, None, None]) + rng.normal(size=(3, 32, 48))
    probabilities = np.exp(-densecrf.unary_from_logits(scores))
    params = densecrf.Params(appearance_xy_std=20, appearance_rgb_std=20)
    approximate = densecrf.refine(photo, probabilities, params=params)
    exact = densecrf.refine(photo, probabilities, params=params, backend="exact")
    error = float(np.abs(approximate - exact).mean())
    passed = error < 0.02
    print(f"self-test: mean difference from the exact CRF {error:.4f}: {'fine' if passed else 'too large'}")
    return EXIT_OK if passed else EXIT_FAILED


def entry() -> None:
    """Run the console script."""
    sys.exit(main())


def _read_array(path: Path) -> np.ndarray:
    """The array of a .npy file, or the one array of a .npz file that holds scores."""
    try:
        # The file is opened here because NumPy leaves the files of damaged archives open.
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns of some damaged headers before it refuses them
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            names = list(loaded)
            chosen = names if len(names) == 1 else [name for name in ARRAY_NAMES if name in names]
            if len(chosen) == 1:
                array: np.ndarray = loaded[chosen[0]]
                return array
    except ARRAY_ERRORS as error:
        raise ValueError(
            f"{path}: not an array that can be read ({error}); wanted a complete .npy or .npz file"
        ) from None
    raise ValueError(f"{path}: got arrays {names}, wanted one, or one named {', '.join(ARRAY_NAMES)}")


def _open_image(path: Path) -> Image.Image:
    """A decoded image, turned as its Exif orientation says unless it is a palette of class ids."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image) if image.mode != "P" else image.copy()
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: too large: {error}") from None
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"{path}: not an image that can be read ({type(error).__name__})") from None
