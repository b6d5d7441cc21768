"""Class files: text files in a data set's folder that give its classes by name, id and colour."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeplab.classes import IGNORE
from deeplab.datasets.mask_colours import ClassTable, Colour

CLASS_FILES = (
    "classes.txt",
    "class_names.txt",
    "labels.txt",
    "labelmap.txt",
    "colors.txt",
    "colours.txt",
    "label_colors.txt",
    "class_dict.csv",
)
"""Names of class files, in order: the first with names decides on names and ids, the first with colours on
colours."""
VOID_NAMES = ("void", "ignore", "ignored", "unlabeled", "unlabelled")

_RGB = r"(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)"
_LINE_FORMATS = [
    re.compile(pattern)
    for pattern in (
        rf"(?P<name>[^:]+):\s*{_RGB}\s*(?::.*)?",
        rf"{_RGB}(?:[\s,:]+(?P<name>.*[^\d\s].*))?",
        rf"(?:(?P<id>\d+)[\s,:;=]+)?(?P<name>.*?[^\d\s,].*?)(?:[\s,:;]+{_RGB})?",
        r"(?P<name>\d+)",  # a class called "7"
    )
]
_HEADING = re.compile(r"\D*\b(r|red)[\s,]+(g|green)[\s,]+(b|blue)", re.IGNORECASE)


def is_void(name: str) -> bool:
    """Whether a class name stands for void, e.g. "void", "ignored", "unlabelled" or "__ignore__"."""
    return name.strip(" _").casefold() in VOID_NAMES


def is_background(name: str) -> bool:
    """Whether a class name stands for background; labelme writes _background_."""
    return name.strip(" _").casefold() == "background"


def class_name_of(label: str) -> str:
    """Make a class name of the label of an annotation."""
    return "background" if is_background(label) else label.strip()


def with_background(names: Iterable[str]) -> tuple[str, ...]:
    """Make the class names of a data set from the names of annotations: background first, void left out.

    Raises:
        ValueError: for more classes than ids of 8 bits can hold.
    """
    found = ("background", *(n for n in names if not (is_background(n) or is_void(n))))
    if len(found) > IGNORE:
        raise ValueError(f"got {len(found)} classes, wanted at most {IGNORE}, as label maps have 8 bits")
    return found


def read_classes(root: Path) -> ClassTable | None:
    """Read the classes that the class files of a folder give.

    A line is a class: "name", "id name", "name red green blue", "id name red green blue", "red green blue
    name" (with blanks, tabs or commas), or CVAT's "name:red,green,blue:parts:actions". Lines beginning with #
    are skipped. If there are no ids, lines are numbered from 0. If the file itself gives colours and no ids,
    masks are in colours and the ids are ours to choose: background first, void left out. Lines with void
    names (``is_void``) stand for 255. A second file may give the colours: by name, or one "red green blue"
    for each class in the same order.

    Args:
        root: folder of the data set.

    Returns:
        The classes; None if the folder has none of the ``CLASS_FILES``.

    Raises:
        ValueError: for a line that cannot be read, or ids, names or colours that clash; the message names the
            file and the line.
    """
    files = [(path, _read_lines(path)) for name in CLASS_FILES if (path := root / name).is_file()]
    if not files:
        return None
    named = next(((path, lines) for path, lines in files if all(line.name for line in lines)), None)
    if named is None:
        raise ValueError(
            f"{files[0][0]}: colours without names; wanted 'name red green blue', one class a line"
        )
    file, lines = named
    _check_ids(file, lines)
    numbers = [index if line.number is None else line.number for index, line in enumerate(lines)]
    ids = [IGNORE if is_void(line.name) else number for line, number in zip(lines, numbers, strict=True)]
    names = {number: line.name for line, number in zip(lines, numbers, strict=True)}
    if set(ids) == {IGNORE}:
        raise ValueError(f"{file}: names nothing but void; wanted at least one class")
    coloured = next(((path, rows) for path, rows in files if any(row.colour for row in rows)), None)
    if coloured and coloured[0] == file and lines[0].number is None:
        ids = _renumbered(lines, ids)
        names = {number: line.name for line, number in zip(lines, ids, strict=True)}
    id_of_level = dict(zip(numbers, ids, strict=True))
    return ClassTable(
        tuple(names.get(number, f"class {number}") for number in range(max({*ids} - {IGNORE}) + 1)),
        file,
        tuple(id_of_level.get(level, level) for level in range(IGNORE + 1)),
        _colours(*coloured, lines, ids) if coloured else {},
    )


@dataclass(frozen=True)
class _Line:
    """Content of one line; the name is empty if it gives a colour only."""

    name: str
    number: int | None
    colour: Colour | None


def _read_lines(path: Path) -> list[_Line]:
    try:
        text = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; wanted one class a line") from None
    lines: list[_Line] = []
    for number, line in enumerate(map(str.strip, text), 1):
        if not line or line.startswith("#") or (not lines and _HEADING.fullmatch(line)):
            continue
        match = next(filter(None, (pattern.fullmatch(line) for pattern in _LINE_FORMATS)), None)
        if match is None:
            raise ValueError(
                f"{path}, line {number}: got {line!r}, wanted 'name', 'id name' or 'name red green blue'"
            )
        fields = match.groupdict()
        colour = (int(fields["r"]), int(fields["g"]), int(fields["b"])) if fields.get("r") else None
        if colour and max(colour) > 255:
            raise ValueError(f"{path}, line {number}: got colour {colour}, wanted 0 to 255")
        class_id = fields.get("id")
        name = (fields["name"] or "").strip()
        lines.append(_Line(name, None if class_id is None else int(class_id), colour))
    if not lines:
        raise ValueError(f"{path}: names no classes; wanted one class a line")
    return lines


def _check_ids(file: Path, lines: Sequence[_Line]) -> None:
    """Refuse repeated names or ids, ids for some classes only, and ids beyond 8 bits."""
    numbers = [line.number for line in lines if line.number is not None]
    if numbers and len(numbers) < len(lines):
        without = next(line.name for line in lines if line.number is None)
        raise ValueError(
            f"{file}: gives an id to some classes but none to {without!r}; wanted one for all or for none"
        )
    seen: set[str | int] = set()
    values: list[str | int] = [*numbers, *(line.name for line in lines)]
    for value in values:
        if value in seen:
            raise ValueError(f"{file}: {value!r} is there twice; wanted each id and name once")
        seen.add(value)
    for index, line in enumerate(lines):
        number = index if line.number is None else line.number
        if number > IGNORE - (not is_void(line.name)):
            raise ValueError(f"{file}: got id {number} for {line.name!r}, wanted 0 to 254; 255 is void")


def _renumbered(lines: Sequence[_Line], ids: Sequence[int]) -> list[int]:
    """Ids from 0 without gaps, background first; void stays 255."""
    order = sorted(range(len(lines)), key=lambda index: not is_background(lines[index].name))
    classes = [index for index in order if ids[index] != IGNORE]
    return [classes.index(index) if index in classes else IGNORE for index in range(len(lines))]


def _colours(
    file: Path, coloured: Sequence[_Line], lines: Sequence[_Line], ids: Sequence[int]
) -> dict[Colour, int]:
    """Ids by colour.

    Args:
        file: file of the colours.
        coloured: its lines.
        lines: lines that give the names.
        ids: id of each of these.
    """
    by_name = {line.name.casefold(): number for line, number in zip(lines, ids, strict=True)}
    in_order = not any(line.name for line in coloured)
    if in_order and len(coloured) != len(lines):
        raise ValueError(f"{file}: got {len(coloured)} colours for {len(lines)} classes, wanted one for each")
    colours: dict[Colour, int] = {}
    for index, line in enumerate(coloured):
        if in_order:
            number: int | None = ids[index]
        else:
            number = IGNORE if is_void(line.name) else by_name.get(line.name.casefold())
        if number is None:
            names = ", ".join(each.name for each in lines)
            raise ValueError(f"{file}: {line.name!r} is no class; wanted one of {names}")
        if line.colour and colours.setdefault(line.colour, number) != number:
            raise ValueError(f"{file}: colour {line.colour} stands for two classes; wanted each colour once")
    return colours
