"""Results that a page keeps for a while, and their files, made in memory when somebody asks for them."""

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

NETWORK, CRF = "network", "network + CRF"


@dataclass(frozen=True)
class PageResult:
    """A photo that was labelled, without and with the CRF, and the parameters it was refined with."""

    plain: Segmentation
    refined: Segmentation
    params: Params

    def at(self, x: int, y: int) -> str:
        """Class and confidence at a pixel, in words; x and y are brought into the photo."""
        height, width = self.plain.labels.shape
        x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
        found = []
        for title, result in ((CRF, self.refined), (NETWORK, self.plain)):
            number = int(result.labels[y, x])
            found.append(
                f"{title}: {result.class_names[number]} {100 * result.probabilities[number, y, x]:.0f} %"
            )
        return f"x {x}, y {y} · " + " · ".join(found)

    @property
    def files(self) -> Mapping[str, Callable[[], bytes]]:
        """Name to what makes the file."""
        return {
            "ids.png": lambda: palette_png(self.refined.labels),
            "overlay.png": lambda: png(self.refined.overlay()),
            "probabilities.npz": lambda: _arrays(self.refined),
            "params.json": lambda: (json.dumps(asdict(self.params), indent=2) + "\n").encode(),
        }


@dataclass(frozen=True)
class Batch:
    """The results of several photos in one file."""

    content: bytes

    @property
    def files(self) -> Mapping[str, Callable[[], bytes]]:
        """Name to what makes the file."""
        return {"labels.zip": lambda: self.content}


class ResultCache:
    """The last few results, each under a name that cannot be guessed; the oldest makes room.

    Args:
        most: how many are kept.
        seconds: after which a result that nobody has asked for is dropped, and its memory given back.
    """

    def __init__(self, most: int = 4, *, seconds: float = 1800.0):
        self._most, self._kept, self._lock = most, OrderedDict[str, PageResult | Batch](), threading.Lock()
        self._seconds, self._asked_for, self._timer = seconds, dict[str, float](), False

    def put(self, thing: PageResult | Batch, name: str | None = None) -> str:
        """Keep a result, in place of the one of this name if there is one; returns the name."""
        with self._lock:
            name = name or secrets.token_urlsafe(16)
            self._kept[name] = thing
            self._kept.move_to_end(name)
            self._asked_for[name] = time.monotonic()
            while len(self._kept) > self._most:
                del self._asked_for[self._kept.popitem(last=False)[0]]
            self._look_later()
        return name

    def get(self, name: str | None) -> PageResult | Batch | None:
        """A result that is still kept."""
        with self._lock:
            if name is None or name not in self._kept:
                return None
            self._asked_for[name] = time.monotonic()
            return self._kept[name]

    def _look_later(self) -> None:
        if not self._timer:
            self._timer = True
            timer = threading.Timer(self._seconds, self._drop)
            timer.daemon = True
            timer.start()

    def _drop(self) -> None:
        with self._lock:
            self._timer = False
            oldest = time.monotonic() - self._seconds
            for name in [name for name, when in self._asked_for.items() if when <= oldest]:
                del self._kept[name], self._asked_for[name]
            if self._kept:
                self._look_later()
        memory.give_back()


class Archive:
    """A zip file of labelled photos that grows in memory: ids and overlay of each as PNG, and a table of
    classes."""

    def __init__(self) -> None:
        self._buffer, self._table, self._names = io.BytesIO(), io.StringIO(), set[str]()
        self._archive = zipfile.ZipFile(self._buffer, "w", zipfile.ZIP_STORED)  # PNG files do not get smaller
        self._rows = csv.writer(self._table, lineterminator="\n")
        self._rows.writerow(["photo", "class", "share"])

    def add(self, name: str, result: Segmentation) -> str:
        """Add NAME.png and NAME_overlay.png; a name that is taken gets a number. Returns the name."""
        base, number = name, 1
        while {name, f"{name}_overlay"} & self._names:
            number += 1
            name = f"{base}-{number}"
        self._names |= {name, f"{name}_overlay"}
        self._archive.writestr(f"{name}.png", palette_png(result.labels))
        self._archive.writestr(f"{name}_overlay.png", png(result.overlay()))
        self._rows.writerows([name, label, f"{share:.6f}"] for label, share in result.shares().items())
        return name

    def __enter__(self) -> Archive:
        """To be filled within the block."""
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.writestr("classes.csv", self._table.getvalue())
        self._archive.close()

    def content(self) -> bytes:
        """The whole file, once the block has ended."""
        return self._buffer.getvalue()


def _arrays(result: Segmentation) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, probabilities=result.probabilities, class_names=np.array(result.class_names))
    return buffer.getvalue()
