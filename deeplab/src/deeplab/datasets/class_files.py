"""The classes of a data set by name, id and colour, from a text file that lies in its folder."""

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
"""Where classes are looked for. The first file with names decides on names and ids, the first with colours on
those."""

_RGB = r"(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)"
_FORMS = [
    re.compile(form)
    for form in (
        rf"(?P<name>[^:]+):\s*{_RGB}\s*(?::.*)?",
        rf"{_RGB}(?:[\s,:]+(?P<name>.*[^\d\s].*))?",
        rf"(?:(?P<id>\d+)[\s,:;=]+)?(?P<name>.*?[^\d\s,].*?)(?:[\s,:;]+{_RGB})?",
        r"(?P<name>\d+)",  # a class that is called "7"
    )
]
_HEADING = re.compile(r"\D*\b(r|red)[\s,]+(g|green)[\s,]+(b|blue)", re.IGNORECASE)


def is_void(name: str) -> bool:
    """Whether a class of that name is no class but void: void, ignore, ignored, unlabeled, unlabelled,
    __ignore__."""
    return name.strip(" _").casefold() in ("void", "ignore", "ignored", "unlabeled", "unlabelled")


def is_background(name: str) -> bool:
    """Whether a name is one of background; labelme writes _background_."""
    return name.strip(" _").casefold() == "background"


def name_of(label: str) -> str:
    """A label that somebody gave, as the name of a class."""
    return "background" if is_background(label) else label.strip()


def with_background(names: Iterable[str]) -> tuple[str, ...]:
    """Names of what shapes show as a data set's classes: background first, whether named or not, and no void.

    Raises:
        ValueError: if ids of 8 bits do not suffice for so many.
    """
    found = ("background", *(n for n in names if not (is_background(n) or is_void(n))))
    if len(found) > IGNORE:
        raise ValueError(f"got {len(found)} classes, wanted at most {IGNORE}, as label maps have 8 bits")
    return found


def read_classes(root: Path) -> ClassTable | None:
    """The classes that a file of ``CLASS_FILES`` in a folder gives; None if there is none.

    A line is a class: "name", "id name", "name red green blue", "id name red green blue", "red green blue
    name" (with blanks, tabs or commas), or CVAT's "name:red,green,blue:parts:actions". Lines beginning with #
    are passed over. Ids are those given, or else the lines' places from 0. But where the file itself gives
    colours and no ids, masks are drawn in colours, so ids are free: background first, void left out. Lines of
    void names (``is_void``) stand for 255. A further file may give the colours: by name, or one "red green
    blue" for each class in the same order.

    Raises:
        ValueError: for a line that cannot be read, or ids, names or colours that clash; names file and line.
    """
    files = [(path, _rows(path)) for name in CLASS_FILES if (path := root / name).is_file()]
    if not files:
        return None
    named = next(((path, rows) for path, rows in files if all(row.name for row in rows)), None)
    if named is None:
        raise ValueError(
            f"{files[0][0]}: colours without names; wanted 'name red green blue', one class a line"
        )
    file, rows = named
    _check(file, rows)
    numbers = [place if row.number is None else row.number for place, row in enumerate(rows)]
    ids = [IGNORE if is_void(row.name) else number for row, number in zip(rows, numbers, strict=True)]
    names = {number: row.name for row, number in zip(rows, numbers, strict=True)}
    if set(ids) == {IGNORE}:
        raise ValueError(f"{file}: names nothing but void; wanted at least one class")
    painted = next(((path, lines) for path, lines in files if any(line.colour for line in lines)), None)
    if painted and painted[0] == file and rows[0].number is None:
        places = sorted(range(len(rows)), key=lambda place: not is_background(rows[place].name))
        kept = [place for place in places if ids[place] != IGNORE]
        ids = [kept.index(place) if place in kept else IGNORE for place in range(len(rows))]
        names = {number: row.name for row, number in zip(rows, ids, strict=True)}
    meaning = dict(zip(numbers, ids, strict=True))
    return ClassTable(
        tuple(names.get(number, f"class {number}") for number in range(max({*ids} - {IGNORE}) + 1)),
        file,
        tuple(meaning.get(level, level) for level in range(IGNORE + 1)),
        _colours(*painted, rows, ids) if painted else {},
    )


@dataclass(frozen=True)
class _Row:
    """What one line says; the name is empty where it gives a colour only."""

    name: str
    number: int | None
    colour: Colour | None


def _rows(path: Path) -> list[_Row]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; wanted one class a line") from None
    rows: list[_Row] = []
    for place, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#") or (not rows and _HEADING.fullmatch(line)):
            continue
        hit = next(filter(None, (form.fullmatch(line) for form in _FORMS)), None)
        if hit is None:
            raise ValueError(
                f"{path}, line {place}: got {line!r}, wanted 'name', 'id name' or 'name red green blue'"
            )
        found = hit.groupdict()
        colour = (int(found["r"]), int(found["g"]), int(found["b"])) if found.get("r") else None
        if colour and max(colour) > 255:
            raise ValueError(f"{path}, line {place}: got colour {colour}, wanted 0 to 255")
        number = found.get("id")
        rows.append(_Row((found["name"] or "").strip(), None if number is None else int(number), colour))
    if not rows:
        raise ValueError(f"{path}: names no classes; wanted one class a line")
    return rows


def _check(file: Path, rows: Sequence[_Row]) -> None:
    """ValueError unless names and ids are each there once, ids for all classes or none, and 8 bits hold
    them."""
    numbers = [row.number for row in rows if row.number is not None]
    if numbers and len(numbers) < len(rows):
        lacking = next(row.name for row in rows if row.number is None)
        raise ValueError(
            f"{file}: gives an id to some classes but none to {lacking!r}; wanted one for all or for none"
        )
    seen: set[str | int] = set()
    values: list[str | int] = [*numbers, *(row.name for row in rows)]
    for value in values:
        if value in seen:
            raise ValueError(f"{file}: {value!r} is there twice; wanted each id and name once")
        seen.add(value)
    for place, row in enumerate(rows):
        number = place if row.number is None else row.number
        if number > IGNORE - (not is_void(row.name)):
            raise ValueError(f"{file}: got id {number} for {row.name!r}, wanted 0 to 254; 255 is void")


def _colours(
    file: Path, lines: Sequence[_Row], rows: Sequence[_Row], ids: Sequence[int]
) -> dict[Colour, int]:
    """Ids by colour: colours from the lines of a file, classes from the rows that give the names."""
    by_name = {row.name.casefold(): number for row, number in zip(rows, ids, strict=True)}
    nameless = not any(line.name for line in lines)
    if nameless and len(lines) != len(rows):
        raise ValueError(f"{file}: got {len(lines)} colours for {len(rows)} classes, wanted one for each")
    colours: dict[Colour, int] = {}
    for place, line in enumerate(lines):
        number = (
            ids[place] if nameless else IGNORE if is_void(line.name) else by_name.get(line.name.casefold())
        )
        if number is None:
            raise ValueError(
                f"{file}: {line.name!r} is no class; wanted one of {', '.join(row.name for row in rows)}"
            )
        if line.colour and colours.setdefault(line.colour, number) != number:
            raise ValueError(f"{file}: colour {line.colour} stands for two classes; wanted each colour once")
    return colours
