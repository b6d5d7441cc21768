"""The number of scans in a JPEG file: a decoder goes over the whole picture for each, however short it is."""

from __future__ import annotations

import re
from typing import IO

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)  # FF 00 and FF D0–D7 are part of coded data
_SOS, _EOI = 0xDA, 0xD9
_WITHOUT_LENGTH = (0x01, 0xD8, *range(0xD0, 0xD8))  # markers that no length follows


def scans_of(file: IO[bytes], max_scans: int) -> int:
    """Count the scans of the first picture in a JPEG file without decoding it.

    Args:
        file: File at any position, which is restored.
        max_scans: Number beyond which counting stops.

    Returns:
        The number of scans, at most ``max_scans`` + 1. Pictures in the metadata are not counted.
    """
    position = file.tell()
    try:
        file.seek(0)
        return _count_scans(file.read(), max_scans)
    finally:
        file.seek(position)


def _count_scans(content: bytes, max_scans: int) -> int:
    position = 2
    count = 0
    while count <= max_scans:
        match = _MARKER.search(content, position)
        if match is None:
            break
        marker = match[1][0]
        position = match.end()
        if marker == _EOI:
            break
        if marker in _WITHOUT_LENGTH:
            continue
        count += marker == _SOS
        position += int.from_bytes(content[position : position + 2], "big")  # skip the segment's header
    return count
