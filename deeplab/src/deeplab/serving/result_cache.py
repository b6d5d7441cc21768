"""Results that the page keeps for a while, and their files, made in memory when they are requested."""

from __future__ import annotations

import csv
import io
import json
import secrets
import threading
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from deeplab.drawing import palette_png, png
from deeplab.model.segmentation import Segmentation
from densecrf import Params, memory

NETWORK, CRF = "network", "network + CRF"  # titles of the two results


@dataclass(frozen=True)
class PageResult:
    """A labelled photo, without and with the CRF, and the parameters of the CRF."""

    plain: Segmentation
    refined: Segmentation
    params: Params

    def at(self, x: int, y: int) -> str:
        """Describe class and confidence at a pixel.

        Args:
            x: column in pixels; clipped to the photo.
            y: row in pixels; clipped to the photo.

        Returns:
            One line of text.
        """
        height, width = self.plain.labels.shape
        x = min(max(x, 0), width - 1)
        y = min(max(y, 0), height - 1)
        parts = [f"x {x}, y {y}"]
        for title, result in ((CRF, self.refined), (NETWORK, self.plain)):
            class_id = int(result.labels[y, x])
            confidence = 100 * result.probabilities[class_id, y, x]
            parts.append(f"{title}: {result.class_names[class_id]} {confidence:.0f} %")
        return " · ".join(parts)

    @property
    def files(self) -> Mapping[str, Callable[[], bytes]]:
        """File names, each with the function that makes the file."""
        return {
            "ids.png": lambda: palette_png(self.refined.labels),
            "overlay.png": lambda: png(self.refined.overlay()),
            "probabilities.npz": lambda: _npz(self.refined),
            "params.json": lambda: (json.dumps(asdict(self.params), indent=2) + "\n").encode(),
        }


@dataclass(frozen=True)
class Batch:
    """The results of several photos in one zip file."""

    content: bytes

    @property
    def files(self) -> Mapping[str, Callable[[], bytes]]:
        """File names, each with the function that makes the file."""
        return {"labels.zip": lambda: self.content}


class ResultCache:
    """The latest results, each under a name that cannot be guessed.

    Args:
        max_results: number of results that are kept; a new one replaces the oldest.
        seconds: time after which a result that nobody has requested is dropped and its memory freed.
    """

    def __init__(self, max_results: int = 4, *, seconds: float = 1800.0):
        self._max_results = max_results
        self._seconds = seconds
        self._results = OrderedDict[str, PageResult | Batch]()
        self._last_used = dict[str, float]()
        self._lock = threading.Lock()
        self._timer_runs = False

    def put(self, result: PageResult | Batch, name: str | None = None) -> str:
        """Store a result.

        Args:
            result: the result.
            name: name of an earlier result to replace; by default a new name.

        Returns:
            The name of the result.
        """
        with self._lock:
            name = name or secrets.token_urlsafe(16)
            self._results[name] = result
            self._results.move_to_end(name)
            self._last_used[name] = time.monotonic()
            while len(self._results) > self._max_results:
                oldest, _ = self._results.popitem(last=False)
                del self._last_used[oldest]
            self._start_timer()
        return name

    def get(self, name: str | None) -> PageResult | Batch | None:
        """Return a result, or None if it is not stored any more."""
        with self._lock:
            if name is None or name not in self._results:
                return None
            self._last_used[name] = time.monotonic()
            return self._results[name]

    def _start_timer(self) -> None:
        if not self._timer_runs:
            self._timer_runs = True
            timer = threading.Timer(self._seconds, self._drop_unused)
            timer.daemon = True
            timer.start()

    def _drop_unused(self) -> None:
        with self._lock:
            self._timer_runs = False
            oldest = time.monotonic() - self._seconds
            for name in [name for name, used in self._last_used.items() if used <= oldest]:
                del self._results[name], self._last_used[name]
            if self._results:
                self._start_timer()
        memory.give_back()


class Archive:
    """A zip file of labelled photos, made in memory: ids and overlay of each as PNG, and a table of classes.

    Photos are added within a ``with`` block; the file is complete at its end.
    """

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._zip = zipfile.ZipFile(self._buffer, "w", zipfile.ZIP_STORED)  # PNG is already compressed
        self._names = set[str]()
        self._table = io.StringIO()
        self._rows = csv.writer(self._table, lineterminator="\n")
        self._rows.writerow(["photo", "class", "share"])

    def add(self, name: str, result: Segmentation) -> str:
        """Add NAME.png and NAME_overlay.png; if the name is taken, a number is added to it.

        Args:
            name: name of the photo, without ending.
            result: its labels.

        Returns:
            The name that was used.
        """
        base, number = name, 1
        while {name, f"{name}_overlay"} & self._names:
            number += 1
            name = f"{base}-{number}"
        self._names |= {name, f"{name}_overlay"}
        self._zip.writestr(f"{name}.png", palette_png(result.labels))
        self._zip.writestr(f"{name}_overlay.png", png(result.overlay()))
        self._rows.writerows([name, label, f"{share:.6f}"] for label, share in result.shares().items())
        return name

    def __enter__(self) -> Archive:
        """Open the archive for adding photos."""
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.writestr("classes.csv", self._table.getvalue())
        self._zip.close()

    def content(self) -> bytes:
        """Return the whole file; only after the block has ended."""
        return self._buffer.getvalue()


def _npz(result: Segmentation) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, probabilities=result.probabilities, class_names=np.array(result.class_names))
    return buffer.getvalue()
