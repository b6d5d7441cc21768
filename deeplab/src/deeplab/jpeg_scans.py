"""How often a JPEG file goes over its picture: each scan costs the decoder a pass, however few bytes it
has."""

from __future__ import annotations

import re
from typing import IO

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)  # in coded data; 00 and D0–D7 belong to it
_SOS, _EOI = 0xDA, 0xD9
_ALONE = (0x01, 0xD8, *range(0xD0, 0xD8))  # markers without a length


def scans_of(file: IO[bytes], most: int) -> int:
    """Count the scans of the first picture in a JPEG file, without decoding it.

    Args:
        file: at any place, to which it returns.
        most: counting stops beyond so many.

    Returns:
        Their number, at most ``most`` + 1; pictures within the file's metadata are not counted.
    """
    before = file.tell()
    try:
        file.seek(0)
        return _counted(file.read(), most)
    finally:
        file.seek(before)


def _counted(content: bytes, most: int) -> int:
    place, number = 2, 0
    while number <= most:
        match = _MARKER.search(content, place)
        if match is None:
            break
        kind, place = match[1][0], match.end()
        if kind == _EOI:
            break
        if kind in _ALONE:
            continue
        number += kind == _SOS
        place += int.from_bytes(content[place : place + 2], "big")  # its header; coded data then is searched
    return number
