"""Annotations in JSON, in the encodings in which programs write them."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deeplab.datasets.problems import LabelError, Problem

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_json(path: Path, fix: str) -> Any:
    """Read a file of annotations: UTF-8, with or without a byte order mark, UTF-16, or GBK.

    Args:
        path: the file.
        fix: what to do if it cannot be read, for the message.

    Raises:
        LabelError: if it is not JSON, in another encoding, or gives a key of one object twice.
    """
    try:
        return json.loads(_text(path.read_bytes())[0], object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError, OSError) as error:
        reason = " ".join(str(error).split())
        raise LabelError.of("damaged annotations", path, f"not JSON ({reason})", fix) from None


def encoding_problem(path: Path) -> Problem | None:
    """A warning for a file that is not Unicode and was read as GBK; None for any other."""
    if _text(path.read_bytes())[1] != "gb18030":
        return None
    what = "is not UTF-8 and was read as GBK, the encoding of Chinese Windows"
    return Problem("warning", "encoding", str(path), what, "check the names of the classes, or save as UTF-8")


def _text(content: bytes) -> tuple[str, str]:
    """The text of a file, and its encoding."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content.decode(encoding), encoding
    try:
        return content.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        try:
            return content.decode("gb18030"), "gb18030"
        except UnicodeDecodeError:
            raise error from None


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {key!r} is there twice in one object")
    return content
