"""Lines of class files: a name with an id, a colour or both, in the many ways in which people write them."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

Colour = tuple[int, int, int]

NAME_WORDS = ("name", "names", "class", "classname", "label", "labelname", "category", "object")
ID_WORDS = ("id", "index", "idx", "value", "classid", "labelid", "number", "no")
COLOUR_WORDS = ("color", "colour", "rgb", "hex", "colorrgb", "rgbcolor")
CHANNEL_WORDS = {"r": "r", "red": "r", "g": "g", "green": "g", "b": "b", "blue": "b"}
CVAT_HEADING = "label:color_rgb:"
FORMATS = "'name', 'id name', 'name red green blue' or 'id name #rrggbb'"

_SEPARATOR = r"[\s,;:=|]"
_BRACKETS = re.compile(r"(?:rgb)?[(\[]\s*(\d+)[\s,;]+(\d+)[\s,;]+(\d+)(?:[\s,;]+\d+)?\s*[)\]]", re.IGNORECASE)
_HEX = re.compile(rf"(?:^|(?<=[\s,;:=|\"']))#([0-9a-f]{{6}})(?=$|{_SEPARATOR}|[\"'])", re.IGNORECASE)
_CVAT = re.compile(r"(?P<name>[^:]+):\s*(?P<colour>\d+\s*,\s*\d+\s*,\s*\d+)\s*(?::.*)?")
_QUOTED = re.compile(rf"(?P<head>[\d\s,;:=|-]*)(?P<q>[\"'])(?P<name>.+)(?P=q)(?P<tail>(?:{_SEPARATOR}.*)?)")
_PLAIN = re.compile(
    rf"(?P<head>(?:-?\d+{_SEPARATOR}+)*)(?P<name>.*?[^\d\s,;:=|-].*?)(?P<tail>(?:{_SEPARATOR}+\d+)*)"
)
_ODD_CHARACTERS = set('",;:=|[]{}#\t\\<>')
_NUMBER = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+)")


@dataclass(frozen=True)
class ClassLine:
    """Content of one line; the name is empty if it gives a colour only."""

    name: str
    number: int | None = None
    """Id that the line gives; -1 stands for void."""
    colour: Colour | None = None
    last: int | None = None
    """Number at the end of the line, which is an id or part of the name."""
    place: int = 0
    """Number of the line in its file, from 1."""


def parse_class_lines(path: Path, text: str) -> list[ClassLine]:
    """Parse the text of a class file.

    Blank lines and comments, which begin with "#", are skipped, and so is a heading, which says in which
    column name, id and colour are.

    Args:
        path: the file, for messages.
        text: its text.

    Returns:
        The lines, at least one.

    Raises:
        ValueError: for a line that cannot be read; the message names it.
    """
    lines: list[ClassLine] = []
    heading: tuple[str, Sequence[str]] | None = None
    for place, raw in enumerate(text.splitlines(), 1):
        line = unicodedata.normalize("NFC", raw.strip())
        if not line or line.startswith(CVAT_HEADING) or (line.startswith("#") and not _HEX.match(line)):
            continue
        if not lines and heading is None:
            heading = _heading(line)
            if heading:
                continue
        try:
            lines.append(replace(_with_columns(line, *heading) if heading else _parsed(line), place=place))
        except ValueError as error:
            message = str(error)
            if not message.startswith("got "):
                message = f"got {raw.strip()!r}, wanted {message}"
            raise ValueError(f"{path}, line {place}: {message}") from None
    if not lines:
        raise ValueError(f"{path}: names no classes; wanted one class a line")
    return _with_last_numbers(path, lines)


def _parsed(line: str) -> ClassLine:
    """The content of a line without a heading; ValueError says what was wanted."""
    cvat = _CVAT.fullmatch(line)
    if cvat:
        return ClassLine(cvat["name"].strip().strip("\"'"), None, _colour(cvat["colour"].split(",")))
    rest, colour = _without_colour(line)
    if not rest and colour:
        return ClassLine("", None, colour)
    if re.fullmatch(r"\d+", rest):  # a class called "7"
        return ClassLine(rest, None, colour)
    match = _QUOTED.fullmatch(rest)
    is_quoted = match is not None
    match = match or _PLAIN.fullmatch(rest)
    if match is None:
        return _colour_only(rest, colour)
    name = match["name"].strip()
    if not is_quoted:
        _check_plain(name)
    elif match["q"] in name:
        raise ValueError("one name in quotes")
    return _with_numbers(name, _numbers(match["head"]), _numbers(match["tail"]), colour)


def _colour_only(rest: str, colour: Colour | None) -> ClassLine:
    """A line of numbers: red, green and blue."""
    numbers = _numbers(rest)
    if colour is None and len(numbers) == 3:
        return ClassLine("", None, _colour(numbers))
    raise ValueError(FORMATS)


def _with_numbers(name: str, head: Sequence[int], tail: Sequence[int], colour: Colour | None) -> ClassLine:
    """A class with the numbers before and after its name."""
    if colour is None and len(head) in (3, 4) and not tail:
        return ClassLine(name, head[0] if len(head) == 4 else None, _colour(head[-3:]))
    if len(head) <= 1 and colour is None and len(tail) == 3:
        return ClassLine(name, head[0] if head else None, _colour(tail))
    if len(head) == 1 and not tail:
        return ClassLine(name, head[0], colour)
    if not head and len(tail) <= 1:
        return ClassLine(name, None, colour, last=tail[0] if tail else None)
    raise ValueError(f"{FORMATS}; a name that ends in numbers needs quotes")


def _check_plain(name: str) -> None:
    """ValueError if a name without quotes looks like anything else."""
    first = name[0]
    odd = sorted(_ODD_CHARACTERS & set(name))
    if odd or not (first.isalnum() or first in "_(&'") or any(map(_NUMBER.fullmatch, name.split())):
        raise ValueError(f"{FORMATS}; a name with other signs or numbers needs quotes")


def _without_colour(line: str) -> tuple[str, Colour | None]:
    """A line without the colour in brackets or hexadecimal digits, and that colour."""
    line = _BRACKETS.sub(lambda found: f" {_as_hex(_colour(found.groups()))} ", line)
    colours = _HEX.findall(line)
    if len(colours) > 1:
        raise ValueError("one colour")
    rest = _HEX.sub(" ", line).replace('""', " ").replace("''", " ") if colours else line
    return rest.strip(" \t,;:=|" if colours else " \t,;"), _from_hex(colours[0]) if colours else None


def _heading(line: str) -> tuple[str, Sequence[str]] | None:
    """The delimiter and the columns that a heading names: "name", "id", "colour", "r", "g", "b" or ""."""
    delimiter = next((each for each in ",;\t|" if each in line), " ")
    columns = []
    for field in line.split(None if delimiter == " " else delimiter):
        word = re.sub(r"[^a-z]", "", field.casefold())
        kinds = {"name": word in NAME_WORDS, "id": word in ID_WORDS, "colour": word in COLOUR_WORDS}
        columns.append(CHANNEL_WORDS.get(word) or next((kind for kind, fits in kinds.items() if fits), ""))
    known = [column for column in columns if column]
    has_colour = "colour" in known or {"r", "g", "b"} <= set(known)
    channels = {"r", "g", "b"} & set(known)
    is_odd = len(set(known)) < len(known) or len(channels) in (1, 2) or re.search(r"\d", line)
    if len(columns) < 2 or is_odd:
        return None
    if has_colour or ("name" in known and len(known) == len(columns)):
        return delimiter, columns
    return None


def _with_columns(line: str, delimiter: str, columns: Sequence[str]) -> ClassLine:
    """The content of a line below a heading."""
    wanted = f"{len(columns)} columns as in the heading, with whole numbers for ids and colours"
    line = _BRACKETS.sub(lambda found: _as_hex(_colour(found.groups())), line)
    if delimiter == " ":
        fields = line.split(None, len(columns) - 1)
        if columns[0] == "name":
            fields = line.rsplit(None, len(columns) - 1)
    else:
        fields = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    if len(fields) != len(columns):
        raise ValueError(wanted)
    values = {column: field.strip().strip("\"'") for column, field in zip(columns, fields, strict=True)}
    try:
        number = int(values["id"]) if "id" in values else None
        colour = _column_colour(values)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith("got ") else wanted) from None
    if "name" in values and not values["name"]:
        raise ValueError("a name")
    return ClassLine(values.get("name", ""), number, colour)


def _column_colour(values: Mapping[str, str]) -> Colour | None:
    if "r" in values:
        return _colour([values["r"], values["g"], values["b"]])
    if not values.get("colour"):
        return None
    found = _HEX.search(values["colour"])
    return _from_hex(found[1]) if found else _colour(re.split(r"[\s,;]+", values["colour"]))


def _with_last_numbers(path: Path, lines: Sequence[ClassLine]) -> list[ClassLine]:
    """Take numbers at the ends of lines for ids if all lines have one, else for parts of names.

    Raises:
        ValueError: for a number that may be either.
    """
    names = [line.name for line in lines]
    if all(line.last is not None for line in lines) and len(set(names)) == len(names):
        return [replace(line, number=line.last, last=None) for line in lines]
    result = []
    are_names = len(set(names)) < len(names)  # as in "class 0", "class 1"
    first = next((line.last - index for index, line in enumerate(lines) if line.last is not None), 0)
    for index, line in enumerate(lines):
        if line.last is not None and line.last - index != (first if are_names else 0):
            raise ValueError(
                f"{path}, line {line.place}: {line.name!r} with the number {line.last}, an id or part of the "
                f"name; wanted '{line.last} {line.name}', or the name in quotes"
            )
        name = line.name if line.last is None else f"{line.name} {line.last}"
        result.append(replace(line, name=name, last=None))
    return result


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"-?\d+", text)]


def _colour(levels: Sequence[str | int]) -> Colour:
    if len(levels) != 3:
        raise ValueError("a colour of red, green and blue")
    red, green, blue = (int(level) for level in levels)
    if not all(0 <= level <= 255 for level in (red, green, blue)):
        raise ValueError(f"got colour {(red, green, blue)}, wanted 0 to 255")
    return red, green, blue


def _as_hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _from_hex(digits: str) -> Colour:
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
