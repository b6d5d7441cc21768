"""The command line: ``densecrf refine`` refines class scores, ``densecrf doctor`` checks the installation."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TextIO

import densecrf
from densecrf import label_files
from densecrf.doctor import check_installation
from densecrf.folders import refine_folder
from densecrf.jobs import JobOptions, refine_file
from densecrf.pairwise import BACKENDS
from densecrf.params import NORMALIZATIONS, Params, read_params
from densecrf.score_files import FILE_KINDS
from densecrf.scores import ALIGNMENTS
from densecrf.sharpen_command import add_parser, run_sharpen

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the words of the command line; by default those of this process.

    Returns:
        The exit code: 0 for success, 1 for failure, 130 for an interrupt. Wrong usage exits with 2.
    """
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _warning_printer()
            if options.command == "doctor":
                return EXIT_OK if check_installation(densecrf.__version__) else EXIT_FAILED
            if options.command == "sharpen":
                print(run_sharpen(options))
                return EXIT_OK
            return run_refine(options)
    except KeyboardInterrupt:
        print("densecrf: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ImportError:
        message = "reading images needs Pillow, which is not installed: pip install pillow"
    except (ValueError, TypeError, OSError, MemoryError) as error:
        message = " ".join(str(error).split()) or "out of memory"
    print(f"densecrf: error: {message}", file=sys.stderr)
    return EXIT_FAILED


def run_refine(options: argparse.Namespace) -> int:
    """Refine the scores of one photo, or of the photos of a folder."""
    job = JobOptions(
        params=_params(options),
        kind=options.kind,
        upsample=False if options.upsample is None else options.upsample,
        confidence=options.confidence,
        ignore=options.ignore,
        iterations=options.iterations,
        threads=options.threads,
        backend=options.backend,
    )
    if options.photo.is_dir() or options.scores.is_dir():
        counts = refine_folder(
            options.photo,
            options.scores,
            options.out,
            job,
            suffix=f".{options.format}",
            overwrite=options.overwrite,
        )
        print(f"{options.out}: {counts}")
        return EXIT_FAILED if counts.failed else EXIT_OK
    label_files.check_name(options.out)
    print(refine_file(options.photo, options.scores, options.out, job))
    return EXIT_OK


def entry() -> None:
    """Run the console script."""
    code = main()
    if code == EXIT_INTERRUPTED:  # without waiting for the threads of photos that have begun
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="densecrf", description="Fully connected CRFs for class scores and images."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    refine = commands.add_parser("refine", help="make class scores consistent with the edges of their photo")
    refine.add_argument(
        "photo",
        type=Path,
        help="the photo (also .npy, and TIFF of any number of bands), or a folder of photos",
    )
    refine.add_argument(
        "scores",
        type=Path,
        help="(K, H, W) or (H, W, K) scores as .npy or .npz, or a PNG of class ids, mask or saliency map; "
        "or a folder of such files with the photos' names",
    )
    refine.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        help="label map to write: .png, or .npy for marginals; for folders a folder",
    )
    _add_score_options(refine)
    _add_params(refine)
    refine.add_argument("--iterations", type=int, default=10, help="mean-field steps (default: 10)")
    refine.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0], help="default: lattice")
    refine.add_argument("--threads", type=int, help="maximum number of threads (default: all processors)")
    folder = refine.add_argument_group("folders")
    folder.add_argument(
        "--format", choices=("png", "npy"), default="png", help="what to write (default: png)"
    )
    folder.add_argument(
        "--overwrite", action="store_true", help="refine photos again whose result is there (default: skip)"
    )
    add_parser(commands)
    commands.add_parser("doctor", help="version, instruction set, threads, and a short self-test")
    return parser


def _add_score_options(refine: argparse.ArgumentParser) -> None:
    group = refine.add_argument_group("scores")
    group.add_argument(
        "--kind",
        choices=FILE_KINDS,
        default=FILE_KINDS[0],
        help="what the scores are (default: probabilities for arrays; class ids for images, or a mask if "
        "they are 0 and 255)",
    )
    group.add_argument(
        "--upsample",
        nargs="?",
        const=ALIGNMENTS[0],
        choices=ALIGNMENTS,
        help="enlarge coarse scores bilinearly to the size of the photo (corners: align_corners=True)",
    )
    group.add_argument(
        "--confidence",
        type=float,
        default=0.9,
        help="probability of the labels of class ids and masks (default: 0.9)",
    )
    group.add_argument("--ignore", type=int, default=255, help="id of pixels without a label (default: 255)")


def _add_params(refine: argparse.ArgumentParser) -> None:
    group = refine.add_argument_group("parameters")
    group.add_argument("--params", type=Path, help="JSON file with fields of densecrf.Params")
    for field in fields(Params):
        name = f"--{field.name.replace('_', '-')}"
        if field.name == "normalization":
            group.add_argument(name, choices=NORMALIZATIONS, help=f"default: {field.default}")
        elif field.name == "appearance_rgb_std":
            text = f"one number, or one for each channel: 5,5,9 (default: {field.default})"
            group.add_argument(name, type=_numbers, metavar="NUMBERS", help=text)
        else:
            group.add_argument(name, type=float, metavar="NUMBER", help=f"default: {field.default}")


def _params(options: argparse.Namespace) -> Params:
    """The parameters of the file or the defaults, with those of the command line in their place."""
    params = Params() if options.params is None else read_params(options.params)
    given = {field.name: getattr(options, field.name) for field in fields(Params)}
    return replace(params, **{name: value for name, value in given.items() if value is not None})


def _numbers(text: str) -> float | tuple[float, ...]:
    """A number, or several with commas between them."""
    numbers = tuple(float(part) for part in text.split(","))
    return numbers[0] if len(numbers) == 1 else numbers


def _warning_printer() -> Callable[..., None]:
    """How the command line shows warnings: each text once, on one line."""
    shown: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = str(message)
        if text not in shown:
            shown.add(text)
            print(f"densecrf: warning: {text}", file=sys.stderr)

    return show
