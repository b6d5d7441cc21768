"""What many photos show: the share of each class in each of them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from deeplab.files import write_whole

MOST_ROWS = 40


class ClassShares:
    """The classes of each photo with their share of the picture, and how long each step took."""

    def __init__(self) -> None:
        self._text = io.StringIO(newline="")
        self._csv = csv.writer(self._text)
        self._csv.writerow(("photo", "class", "share"))
        self._first: list[
            tuple[Path, Mapping[str, float], Mapping[str, float]]
        ] = []  # as many as are shown, and one
        self._rows = 0
        self.photos = 0
        """How many were noted."""
        self._photos_with: Counter[str] = Counter()
        self._area: Counter[str] = Counter()

    def add(self, photo: Path, shares: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        """Note what was found in one photo: class to share (0–1), step to seconds."""
        self._csv.writerows((str(photo), name, f"{share:.6f}") for name, share in shares.items())
        if self._rows <= MOST_ROWS:
            self._first.append((photo, shares, seconds))
        self._rows += len(shares)
        self.photos += 1
        self._photos_with.update(shares.keys())
        self._area.update(shares)

    def write(self, path: Path) -> None:
        """A CSV with a row for each class of each photo: photo, class, share (0–1)."""
        write_whole(path, self._text.getvalue())

    def render(self) -> Table:
        """For the terminal: every photo's classes, or of many photos how often and how widely each class
        occurs."""
        if self._rows > MOST_ROWS:
            return self._totals()
        steps = list(dict.fromkeys(step for _, _, seconds in self._first for step in seconds))
        table = Table("photo", "class", "share", *(f"{step}, s" for step in steps), box=None)
        for column in table.columns[2:]:
            column.justify = "right"
        for photo, shares, seconds in self._first:
            for place, (name, share) in enumerate(shares.items()):
                times = (
                    [f"{seconds[step]:.2f}" if step in seconds else "" for step in steps]
                    if place == 0
                    else []
                )
                table.add_row(photo.name if place == 0 else "", name, f"{100 * share:.1f} %", *times)
        return table

    def _totals(self) -> Table:
        table = Table("class", "photos with it", "mean share", box=None)
        for name, area in self._area.most_common():
            table.add_row(name, str(self._photos_with[name]), f"{100 * area / self.photos:.1f} %")
        return table
