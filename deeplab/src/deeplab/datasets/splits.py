"""The parts of a data set: a list of names, a subfolder, or a hash of the name where there is neither."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from deeplab.photos import PHOTO_ENDINGS

WHOLE = ("all", "default")
"""Names of the whole; CVAT calls it default."""


@dataclass(frozen=True)
class Choice:
    """The stems of one split."""

    keys: tuple[str, ...]
    """Paths without endings, in the list's order or sorted; a name in a list that fits no file is there as it
    is."""
    listing: Path | None = None
    """The list that names them."""
    prefix: str = ""
    """What the keys of the split's subfolder begin with."""

    def without(self, keys: Collection[str]) -> Choice:
        """The same but for some keys."""
        return replace(self, keys=tuple(key for key in self.keys if key not in keys))


def side(name: str) -> str:
    """Which side a photo is on: "train" for four names of five, "val" for the others, the same everywhere,
    for ever.

    It depends on the name alone, never on which other photos there are: SHA-256 of the name (without folder
    and ending, Unicode NFC, UTF-8), its first eight bytes as a big-endian number, and those it divides by
    five are "val". Frames of one film are spread over both sides, which flatters the scores: give such data
    lists of its own.
    """
    digest = hashlib.sha256(
        unicodedata.normalize("NFC", name.rpartition("/")[2]).encode(errors="surrogateescape")
    ).digest()
    return "train" if int.from_bytes(digest[:8], "big") % 5 else "val"


def is_split(name: str) -> bool:
    """Whether a name is one that parts of data sets have: train…, val… or test…."""
    return name.lower().startswith(("train", "val", "test"))


def lists_in(root: Path) -> dict[str, Path]:
    """The lists of a folder by split: lists/NAME.txt, splits/NAME.txt, and beside them train*, val*, test*,
    all.txt."""
    found = [path for path in sorted(root.glob("*.txt")) if is_split(path.stem) or path.stem in WHOLE]
    for folder in ("splits", "lists"):
        found += sorted((root / folder).glob("*.txt"))
    return {path.stem: path for path in found if not path.name.startswith(".")}


def splits_of(lists: Mapping[str, Path], keys: Collection[str] = ()) -> tuple[str, ...]:
    """The splits that lists and the subfolders of keys make; "train" and "val" (by hash) where there are
    none."""
    folders = {key.partition("/")[0] for key in keys if "/" in key}
    folders = {folder for folder in folders if is_split(folder)}
    return tuple(sorted({*lists, *folders} - {*WHOLE}, key=_order)) or ("train", "val")


def choose(root: Path, split: str, keys: Collection[str], lists: Mapping[str, Path]) -> Choice:
    """The stems of a split.

    A list of that name decides (within the subfolder of that name, if there is one), then the subfolder.
    Where there are neither lists nor such subfolders, "all" is everything, and "train" and "val" are told
    apart by ``side``.

    Args:
        root: the data set, for messages.
        split: name of the part.
        keys: paths of the files without endings.
        lists: files with a name a line, by split. A line may have an ending and leading folders, and a second
            column.

    Raises:
        FileNotFoundError: for a split that is not there; says which are.
        ValueError: for one that has no pairs.
    """
    prefix = f"{split}/"
    inside = sorted(key for key in keys if key.startswith(prefix))
    known = splits_of(lists, keys)
    whole = next((lists[name] for name in WHOLE if name in lists), None)
    if split in lists:
        prefix = prefix if inside else ""
        choice = Choice(_named(lists[split], inside or keys, prefix), lists[split], prefix)
    elif inside:
        choice = Choice(tuple(inside), prefix=prefix)
    elif split in WHOLE:
        choice = Choice(_named(whole, keys) if whole else tuple(sorted(keys)), whole)
    elif split in known and split in ("train", "val"):  # known, but neither list nor folder: by hash
        pool = _named(whole, keys) if whole else tuple(sorted(keys))
        choice = Choice(tuple(key for key in pool if side(key) == split), whole)
    else:
        raise FileNotFoundError(f"{root}: no split {split!r}; splits there: {', '.join(known)}, all")
    if not choice.keys:
        where = (
            f"the list {choice.listing} is empty" if split in lists else f"{len(keys)} in all, parted by hash"
        )
        raise ValueError(
            f"{root}: no photos in split {split!r} ({where}); wanted at least one, e.g. in lists/{split}.txt"
        )
    return choice


def _order(split: str) -> tuple[int, str]:
    """Training first, then validation, then test and others."""
    return next(
        (i for i, head in enumerate(("train", "val", "test")) if split.lower().startswith(head)), 3
    ), split


def _named(listing: Path, keys: Collection[str], prefix: str = "") -> tuple[str, ...]:
    """The stems that a list names; a line that fits none of the keys stays as it is, after the prefix."""
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{listing}: not UTF-8 text; wanted one name a line") from None
    known = set(keys)
    alone: dict[str, str | None] = {}  # names without folder that only one key has
    for key in keys:
        name = key.rpartition("/")[2]
        alone[name] = None if name in alone else key
    names = []
    for line in (line.strip().replace("\\", "/") for line in lines if line.strip()):
        first = line.split()[0]
        name = _stem(line) if _stem(first) == first else _stem(first)  # "a b", but of "a.jpg b.png" the photo
        tails = [name.lstrip("/")]
        while "/" in tails[-1]:
            tails.append(tails[-1].partition("/")[2])
        hit = next((tail for tail in tails if tail in known), alone.get(name))
        names.append(hit or prefix + name)
    return tuple(names)


def _stem(name: str) -> str:
    path = Path(name)
    return path.with_suffix("").as_posix() if path.suffix.lower() in PHOTO_ENDINGS else path.as_posix()
