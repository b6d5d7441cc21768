"""The command line: which commands there are, and what their errors look like."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable
from typing import Any

import tyro

from deeplab.commands.app import App, app
from deeplab.commands.check_data import CheckData, check_data
from deeplab.commands.common import FAILED, INTERRUPTED, complain
from deeplab.commands.convert import Convert, convert
from deeplab.commands.describe import Describe, describe
from deeplab.commands.doctor import Doctor, doctor
from deeplab.commands.evaluate import Evaluate, evaluate
from deeplab.commands.export import Export, export
from deeplab.commands.search import Search, search
from deeplab.commands.segment import Segment, segment
from deeplab.commands.train import Train, train

COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "segment": (Segment, segment),
    "evaluate": (Evaluate, evaluate),
    "train": (Train, train),
    "check-data": (CheckData, check_data),
    "search": (Search, search),
    "convert": (Convert, convert),
    "export": (Export, export),
    "app": (App, app),
    "describe": (Describe, describe),
    "doctor": (Doctor, doctor),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit code.

    0: all done; 1: something failed; 2: wrong usage; 3: data that only calls for warnings; 130: interrupted.
    """
    for stream in (sys.stdout, sys.stderr):  # names of files may be no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in COMMANDS.items()},
        prog="deeplab",
        description="A photo in, a label for every pixel out.",
        args=arguments,
    )
    run = next(run for kind, run in COMMANDS.values() if type(options) is kind)
    try:
        with warnings.catch_warnings():  # here, not where photos are read, as filters are one for all threads
            warnings.filterwarnings(
                "ignore", module=r"PIL\b"
            )  # of odd metadata, and of sizes, which are checked
            return run(options)
    except KeyboardInterrupt as stop:
        complain(str(stop) or "stopped; what was written is whole")
        return INTERRUPTED
    except (ValueError, OSError, MemoryError, FloatingPointError, ModuleNotFoundError) as error:
        complain(str(error) or "out of memory")
        return FAILED


def entry() -> None:
    """The console script."""
    sys.exit(main())
