"""The splits of a data set: a list of names, a subfolder, or a hash of the name if there is neither."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from deeplab.photos import PHOTO_ENDINGS

WHOLE_NAMES = ("all", "default")
"""Names of the split that holds everything; CVAT calls it default."""

SPLIT_WORDS = {
    "train": ("train",),
    "training": ("train",),
    "trainset": ("train",),
    "trainval": ("train", "val"),
    "trainaug": ("train", "aug"),
    "minitrain": ("train", "mini"),
    "val": ("val",),
    "valid": ("val",),
    "validation": ("val",),
    "valset": ("val",),
    "minival": ("val", "mini"),
    "test": ("test",),
    "testing": ("test",),
    "testset": ("test",),
    "testdev": ("test", "dev"),
}
"""Words that a split's name may begin with, and what each means."""


@dataclass(frozen=True)
class Selection:
    """The stems of one split: paths of files without their endings."""

    stems: tuple[str, ...]
    """In the order of the list, or sorted. A name in a list that fits no file is kept as it is."""
    listing: Path | None = None
    """The list that names them, if there is one."""
    prefix: str = ""
    """Beginning of all stems: the split's subfolder, if there is one."""

    def without(self, stems: Collection[str]) -> Selection:
        """Remove some stems."""
        return replace(self, stems=tuple(stem for stem in self.stems if stem not in stems))


def split_by_hash(name: str) -> str:
    """Assign a photo to "train" (four of five) or "val" by a hash of its name.

    The result depends on the name alone, never on which other photos there are, and never changes: SHA-256
    of the name (without folder and ending, Unicode NFC, UTF-8), its first eight bytes as a big-endian number;
    multiples of five are "val". Neighbouring frames of one film end up in both splits, which flatters the
    scores: give such data lists of its own.
    """
    digest = hashlib.sha256(
        unicodedata.normalize("NFC", name.rpartition("/")[2]).encode(errors="surrogateescape")
    ).digest()
    return "train" if int.from_bytes(digest[:8], "big") % 5 else "val"


def is_split_name(name: str) -> bool:
    """Whether a file or folder of this name is taken for a split.

    The name must begin with one of ``SPLIT_WORDS``, in capitals or not, and end there or go on with anything
    but a letter: "val", "val2017", "train_aug" and "Test-dev" are splits, "valley" and "values" are not.
    """
    return _first_word(name) in SPLIT_WORDS


def may_overlap(split: str, other: str) -> bool:
    """Whether two splits share photos by design, judged by their names.

    Args:
        split: name of a split.
        other: name of another split.

    Returns:
        True for two training splits (train and train_aug), if all words of one name are in the other (val and
        trainval, val and val_small), and if either is the whole data set.
    """
    words, other_words = _words(split), _words(other)
    if split in WHOLE_NAMES or other in WHOLE_NAMES or "train" in words & other_words:
        return True
    return words <= other_words or other_words <= words


def split_lists(root: Path) -> dict[str, Path]:
    """Find the lists of a folder: lists/*.txt, splits/*.txt, and next to them *.txt named as splits are.

    Returns:
        File by split.
    """
    beside = sorted(root.glob("*.txt"))
    found = [path for path in beside if is_split_name(path.stem) or path.stem in WHOLE_NAMES]
    for folder in ("splits", "lists"):
        found += sorted((root / folder).glob("*.txt"))
    return {path.stem: path for path in found if not path.name.startswith(".")}


def split_names(lists: Mapping[str, Path], stems: Collection[str] = ()) -> tuple[str, ...]:
    """Name the splits of a data set: its lists and subfolders, or "train" and "val" if there are none.

    Args:
        lists: files by split.
        stems: paths of the files without endings.
    """
    folders = {stem.partition("/")[0] for stem in stems if "/" in stem}
    folders = {folder for folder in folders if is_split_name(folder)}
    return tuple(sorted({*lists, *folders} - {*WHOLE_NAMES}, key=_order)) or ("train", "val")


def select(root: Path, split: str, stems: Collection[str], lists: Mapping[str, Path]) -> Selection:
    """Select the stems of a split.

    A list of that name decides (within the subfolder of that name, if there is one), else the subfolder.
    If there are neither lists nor such subfolders, "all" is everything, and ``split_by_hash`` assigns each
    photo to "train" or "val".

    Args:
        root: folder of the data set, for messages.
        split: name of the split.
        stems: paths of the files without endings.
        lists: files with one name a line, by split. A line may have an ending and leading folders, and a
            second column.

    Raises:
        FileNotFoundError: if there is no such split; the message names the splits that there are.
        ValueError: if the split is empty.
    """
    known = split_names(lists, stems)
    if split not in (*known, *lists):  # a folder "Train" is the split "train" as well
        split = next((name for name in (*known, *lists) if name.casefold() == split.casefold()), split)
    prefix = f"{split}/"
    inside = sorted(stem for stem in stems if stem.startswith(prefix))
    whole_list = next((lists[name] for name in WHOLE_NAMES if name in lists), None)
    if split in lists:
        prefix = prefix if inside else ""
        selection = Selection(_read_list(lists[split], inside or stems, prefix), lists[split], prefix)
    elif inside:
        selection = Selection(tuple(inside), prefix=prefix)
    elif split in WHOLE_NAMES:
        selection = Selection(_all_stems(whole_list, stems), whole_list)
    elif split in known and split in ("train", "val"):  # known, but neither list nor folder: by hash
        everything = _all_stems(whole_list, stems)
        part = tuple(stem for stem in everything if split_by_hash(stem) == split)
        selection = Selection(part, whole_list)
    else:
        raise FileNotFoundError(f"{root}: no split {split!r}; splits there: {', '.join(known)}, all")
    if not selection.stems:
        reason = f"the list {selection.listing} is empty"
        if split not in lists:
            reason = f"{len(stems)} in all, split by a hash of their names"
        raise ValueError(
            f"{root}: no photos in split {split!r} ({reason}); wanted at least one, e.g. in lists/{split}.txt"
        )
    return selection


def _all_stems(whole_list: Path | None, stems: Collection[str]) -> tuple[str, ...]:
    """The stems that the list of everything names, or all if there is no such list."""
    return _read_list(whole_list, stems) if whole_list else tuple(sorted(stems))


def _words(name: str) -> set[str]:
    """The words and numbers of a split's name; "trainval" counts as train and val."""
    tokens = re.findall(r"[^\W\d_]+|\d+", name.lower())
    return {word for token in tokens for word in SPLIT_WORDS.get(token, (token,))}


def _first_word(name: str) -> str:
    """The letters that a name begins with, in lower case."""
    found = re.match(r"[^\W\d_]*", name.lower())
    return found[0] if found else ""


def _order(split: str) -> tuple[int, str]:
    """Sort key: training first, then validation, then test and others."""
    kind = SPLIT_WORDS.get(_first_word(split), ("other",))[0]
    return ("train", "val", "test", "other").index(kind), split


def _read_list(listing: Path, stems: Collection[str], prefix: str = "") -> tuple[str, ...]:
    """The stems that a list names; a line that fits none of them stays as it is, after the prefix.

    Bytes that are not UTF-8 are kept as Python keeps them in file names, so that a list can name such files.
    """
    text = listing.read_text(encoding="utf-8-sig", errors="surrogateescape")
    text = unicodedata.normalize("NFC", text)
    if "\0" in text:
        raise ValueError(f"{listing}: not UTF-8 text; wanted one name a line")
    known = set(stems)
    by_file_name: dict[str, str | None] = {}  # None if files of several folders have the name
    for stem in stems:
        name = stem.rpartition("/")[2]
        by_file_name[name] = None if name in by_file_name else stem
    names = []
    for line in (line.strip().replace("\\", "/") for line in text.splitlines() if line.strip()):
        first = line.split()[0]
        # The line is a name with blanks ("a b"), or the first of two columns ("a.jpg b.png").
        name = _without_ending(line) if _without_ending(first) == first else _without_ending(first)
        tails = [name.lstrip("/")]
        while "/" in tails[-1]:
            tails.append(tails[-1].partition("/")[2])
        match = next((tail for tail in tails if tail in known), by_file_name.get(name))
        names.append(match or prefix + name)
    return tuple(names)


def _without_ending(name: str) -> str:
    path = Path(name)
    return path.with_suffix("").as_posix() if path.suffix.lower() in PHOTO_ENDINGS else path.as_posix()
