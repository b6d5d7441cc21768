"""Shares of the classes in each of many photos, as a CSV file and a table for the terminal."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from deeplab.files import write_whole

MAX_ROWS = 40
"""Largest number of rows for which the terminal shows every photo; above it the totals are shown."""


class ClassShares:
    """The classes of each photo with their share of its pixels, and how long each step took."""

    def __init__(self) -> None:
        self._text = io.StringIO(newline="")
        self._csv = csv.writer(self._text)
        self._csv.writerow(("photo", "class", "share"))
        # The first photos, until there are too many rows to show each of them.
        self._first: list[tuple[Path, Mapping[str, float], Mapping[str, float]]] = []
        self._rows = 0
        self.photos = 0
        """Number of photos that were added."""
        self._photos_with: Counter[str] = Counter()
        self._area: Counter[str] = Counter()

    def add(self, photo: Path, shares: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        """Add one photo.

        Args:
            photo: its path.
            shares: share of the pixels (0–1) by class.
            seconds: seconds by step.
        """
        self._csv.writerows((str(photo), name, f"{share:.6f}") for name, share in shares.items())
        if self._rows <= MAX_ROWS:
            self._first.append((photo, shares, seconds))
        self._rows += len(shares)
        self.photos += 1
        self._photos_with.update(shares.keys())
        self._area.update(shares)

    def write(self, path: Path) -> None:
        """Write a CSV file with a row for each class of each photo: photo, class, share (0–1)."""
        write_whole(path, self._text.getvalue())

    def render(self) -> Table:
        """Table for the terminal: the classes of every photo, or for many photos the totals of each class."""
        if self._rows > MAX_ROWS:
            return self._totals()
        steps = list(dict.fromkeys(step for _, _, seconds in self._first for step in seconds))
        table = Table("photo", "class", "share", *(f"{step}, s" for step in steps), box=None)
        for column in table.columns[2:]:
            column.justify = "right"
        for photo, shares, seconds in self._first:
            times = [f"{seconds[step]:.2f}" if step in seconds else "" for step in steps]
            for row, (name, share) in enumerate(shares.items()):
                first = row == 0  # photo and times stand in a photo's first row only
                cells = times if first else []
                table.add_row(photo.name if first else "", name, f"{100 * share:.1f} %", *cells)
        return table

    def _totals(self) -> Table:
        table = Table("class", "photos with it", "mean share", box=None)
        for name, area in self._area.most_common():
            table.add_row(name, str(self._photos_with[name]), f"{100 * area / self.photos:.1f} %")
        return table
