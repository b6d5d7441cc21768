"""Class files: text files in a data set's folder that give its classes by name, id and colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from deeplab.classes import IGNORE
from deeplab.datasets.class_lines import ClassLine, Colour, parse_class_lines
from deeplab.datasets.mask_colours import ClassTable

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

    A line is a class: "name", "id name", "name id", "name red green blue", "id name red green blue", "red
    green blue name" (with blanks, tabs, commas or semicolons), or CVAT's "name:red,green,blue:parts:actions".
    Colours may also be written (128,0,0), [128,0,0] or #800000, names in quotes, and a heading such as
    "r,g,b,name" may give the columns. Lines beginning with # are skipped. If there are no ids, lines are
    numbered from 0, but from -1 if they begin with labelme's __ignore__ and _background_. If the file itself
    gives colours and no ids, masks are in colours and the ids are ours to choose: background first, void left
    out. Lines with void names (``is_void``) stand for 255. A second file may give the colours: by name, or
    one "red green blue"
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
    numbers = [index if line.number is None else line.number % 256 for index, line in enumerate(lines)]
    ids = [IGNORE if is_void(line.name) else number for line, number in zip(lines, numbers, strict=True)]
    names = {number: line.name for line, number in zip(lines, numbers, strict=True)}
    names.pop(IGNORE, None)
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


def _read_lines(path: Path) -> list[ClassLine]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; wanted one class a line") from None
    lines = [replace(line, name=_class_name(line.name)) for line in parse_class_lines(path, text)]
    if [line.name for line in lines[:2]] == ["__ignore__", "background"] and lines[0].number is None:
        # labelme's file of labels: ids begin at -1, which its PNG masks hold as 255
        return [replace(line, number=number) for number, line in enumerate(lines, -1)]
    return lines


def _class_name(name: str) -> str:
    """The name of a class in a class file; labelme's _background_ is background."""
    return "background" if name == "_background_" else name


def _check_ids(file: Path, lines: Sequence[ClassLine]) -> None:
    """Refuse repeated names or ids, ids for some classes only, and ids beyond 8 bits."""
    numbers = [line.number for line in lines if line.number is not None]
    if numbers and len(numbers) < len(lines):
        without = next(line.name for line in lines if line.number is None)
        raise ValueError(
            f"{file}: gives an id to some classes but none to {without!r}; wanted one for all or for none"
        )
    _check_repeats(file, [*numbers, *(line.name for line in lines)])
    for index, line in enumerate(lines):
        number = index if line.number is None else line.number
        if not -is_void(line.name) <= number <= IGNORE - (not is_void(line.name)):
            raise ValueError(f"{file}: got id {number} for {line.name!r}, wanted 0 to 254; 255 is void")


def _check_repeats(file: Path, values: Sequence[str | int]) -> None:
    """Refuse an id or a name that is there twice, also in other capitals."""
    seen: dict[str | int, str | int] = {}
    for value in values:
        key = value.casefold() if isinstance(value, str) else value
        if key in seen and seen[key] == value:
            raise ValueError(f"{file}: {value!r} is there twice; wanted each id and name once")
        if key in seen:
            raise ValueError(
                f"{file}: {seen[key]!r} and {value!r} differ only in capitals; wanted each name once"
            )
        seen[key] = value


def _renumbered(lines: Sequence[ClassLine], ids: Sequence[int]) -> list[int]:
    """Ids from 0 without gaps, background first; void stays 255."""
    order = sorted(range(len(lines)), key=lambda index: not is_background(lines[index].name))
    classes = [index for index in order if ids[index] != IGNORE]
    return [classes.index(index) if index in classes else IGNORE for index in range(len(lines))]


def _colours(
    file: Path, coloured: Sequence[ClassLine], lines: Sequence[ClassLine], ids: Sequence[int]
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
