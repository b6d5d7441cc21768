"""The options that a command has, and the one that was probably meant by an option that it has not."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

GENERAL = ("--help", "--help-verbose", "-h", "--tyro-print-completion", "--tyro-write-completion")
MIN_LETTERS = 2  # of a name that is suggested; shorter ones begin like too many words


@dataclass(frozen=True)
class UnknownOption:
    """An option that a command does not have, and the most similar one that it has, if any."""

    name: str
    meant: str | None


def option_names(command: type) -> list[str]:
    """Return the options of a command, such as --out and --no-crf.

    Args:
        command: dataclass of its options; a field that is a dataclass stands for the options of that.
    """
    from typing import Annotated, get_args, get_origin, get_type_hints

    from tyro.conf import Positional

    positional = get_args(Positional[str])[1:]
    hints = get_type_hints(command, include_extras=True)
    names = list[str]()
    for field in fields(command):
        hint = hints[field.name]
        extras = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        kind = get_args(hint)[0] if extras else hint
        name = field.name.replace("_", "-")
        if is_dataclass(kind):
            names += option_names(kind)  # type: ignore[arg-type]
        elif not set(extras) & set(positional):
            names += [f"--{name}", f"--no-{name}"] if kind is bool else [f"--{name}"]
    return names


def unknown_option(command: type, arguments: list[str]) -> UnknownOption | None:
    """Find the first option among the arguments that a command does not have.

    Args:
        command: dataclass of its options.
        arguments: the arguments after its name.

    Returns:
        The option, or None if the command has all of them.
    """
    from itertools import takewhile

    names = [*option_names(command), *GENERAL]
    for argument in takewhile(lambda each: each != "--", arguments):
        name = argument.partition("=")[0].replace("_", "-")
        if name.startswith("-") and not _is_number(argument) and name != "-" and name not in names:
            return UnknownOption(argument.partition("=")[0], most_similar(name, names))
    return None


def most_similar(name: str, names: Iterable[str]) -> str | None:
    """Return the name that was probably meant: one that begins alike, or is spelt alike.

    Args:
        name: an option or a command that does not exist.
        names: those that exist.

    Returns:
        One of ``names``, or None if none is similar.
    """
    from difflib import get_close_matches

    word = name.lstrip("-")
    words = {each.lstrip("-"): each for each in names}
    long_words = [each for each in words if len(each) >= MIN_LETTERS]
    alike = [each for each in long_words if word and (each.startswith(word) or word.startswith(each))]
    closest = sorted(alike, key=lambda each: abs(len(each) - len(word))) or get_close_matches(
        word, long_words
    )
    return words[closest[0]] if closest else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
