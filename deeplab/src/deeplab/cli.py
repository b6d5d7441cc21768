"""The command line: its commands, and the messages of its errors."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import tyro

from deeplab.commands.app import App, app
from deeplab.commands.check_data import CheckData, check_data
from deeplab.commands.common import FAILED, INTERRUPTED, OK, USAGE, error_text, log_error
from deeplab.commands.convert import Convert, convert
from deeplab.commands.describe import Describe, describe
from deeplab.commands.doctor import Doctor, doctor
from deeplab.commands.evaluate import Evaluate, evaluate
from deeplab.commands.export import Export, export
from deeplab.commands.option_names import most_similar, unknown_option
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
DESCRIPTION = "Labels every pixel of a photo. deeplab --version prints the version."
BROKEN_PIPE = 141  # exit code of a program that SIGPIPE has ended, as shells report it


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: name of the command and its options; by default those of the process.

    Returns:
        Exit code. 0: all done; 1: something failed; 2: wrong usage; 3: data with warnings only; 130:
        interrupted.

    Raises:
        SystemExit: after --help, with code 0, and for wrong usage, with code 2.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # file names may be invalid text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if arguments[:1] == ["--version"]:
        print(f"deeplab {_version()}")
        return OK
    _check_spelling(arguments)
    options = tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in COMMANDS.items()},
        prog="deeplab",
        description=DESCRIPTION,
        args=arguments,
    )
    run = next(run for kind, run in COMMANDS.values() if type(options) is kind)
    try:
        # Pillow warns of odd metadata, and of large sizes, which are checked. The filter is set here and not
        # where photos are read, because threads share the filters.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\b")
            return run(options)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt as stop:
        log_error(str(stop) or "stopped; every file written so far is complete")
        return INTERRUPTED
    except (ValueError, OSError, MemoryError, FloatingPointError, ModuleNotFoundError) as error:
        log_error(error_text(error))
        return FAILED


def _version() -> str:
    import deeplab

    return deeplab.__version__


def _check_spelling(arguments: list[str]) -> None:
    """Exit with a suggestion for a command or an option that does not exist; tyro suggests others."""
    command = arguments[0] if arguments else ""
    if command and not command.startswith("-") and command not in COMMANDS:
        _exit_usage(f"there is no command {command}", most_similar(command, list(COMMANDS)), "deeplab --help")
    if command in COMMANDS:
        unknown = unknown_option(COMMANDS[command][0], arguments[1:])
        if unknown is not None:
            message = f"deeplab {command} has no option {unknown.name}"
            _exit_usage(message, unknown.meant, f"deeplab {command} --help")


def _exit_usage(message: str, meant: str | None, help_command: str) -> None:
    suggestion = f"; did you mean {meant}?" if meant else ";"
    log_error(f"{message}{suggestion} {help_command} lists all")
    sys.exit(USAGE)


def entry() -> None:
    """Run the console script; a closed output, as in ``deeplab --help | head``, ends it without a message."""
    try:
        try:
            code: Any = main()
        except SystemExit as exit_:
            code = exit_.code
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes standard output once more at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    sys.exit(code)
