"""The page's folder of uploads: bounded in number, bytes, age, and the only place that the page reads files
from."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeplab.serving.limits import HTTPError, Limits

SPARED_SECONDS = 120.0  # so old at least is a file that makes room for others; a photo is labelled by then
FREE_BYTES = 100_000_000  # of the disk are left to others
SWEEP_SECONDS = 60.0


@dataclass(frozen=True)
class _File:
    path: Path
    bytes: int
    since: float


class UploadStore:
    """A folder of uploads. What lies in it when it is first seen (the examples) is kept for good.

    Args:
        folder: of this server alone; made if it is not there. Everything below it may be deleted.
        limits: ``bytes`` of one file, and ``stored_bytes``, ``stored_files`` and ``stored_seconds`` of all.
    """

    def __init__(self, folder: Path, limits: Limits):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._limits = Path(os.path.realpath(folder)), limits
        self._lock = threading.RLock()
        self._kept = frozenset[Path]()
        self._held, self._reserved = Counter[Path](), 0
        self._written = set[Path]()  # within what is reserved
        self.keep()

    def keep(self) -> None:
        """Keep for good what lies in the folder now."""
        self._kept = frozenset(path for path, _ in self._walk())

    def path_of(self, text: Any) -> Path:
        """The file of this folder that a client named.

        Args:
            text: as the client sent it, of any type.

        Returns:
            Its real path.

        Raises:
            HTTPError: 403 for whatever is not a plain file below the folder; whether there is such a file
                elsewhere is not told, and nothing outside the folder is opened.
        """
        foreign = HTTPError(
            403, "foreign-path", "got a path that is none of this page's uploads, wanted one of those"
        )
        if not isinstance(text, str) or "\0" in text or not os.path.isabs(text):
            raise foreign
        plain = os.path.normpath(text)
        if not (_below(plain, self.folder) and _below(os.path.realpath(plain), self.folder)):
            raise foreign
        path = Path(os.path.realpath(plain))
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise foreign
        except OSError:
            raise foreign from None
        return path

    def read(self, text: Any) -> bytes:
        """The content of a file of this folder; HTTPError as of ``path_of``, and 413 if it is too large."""
        path = self.path_of(text)
        try:
            with path.open("rb") as file:
                content = file.read(self._limits.bytes + 1)
        except OSError:
            raise HTTPError(404, "gone", f"{path.name} is no longer stored; upload it again") from None
        if len(content) > self._limits.bytes:
            raise HTTPError(413, "too-many-bytes", f"{path.name} has more than {self._limits.bytes} bytes")
        return content

    @contextmanager
    def held(self, paths: Iterable[Path]) -> Iterator[None]:
        """Within the block, these files make no room for others and do not grow too old."""
        mine = Counter(paths)
        with self._lock:
            self._held += mine
        try:
            yield
        finally:
            with self._lock:
                self._held -= mine

    @contextmanager
    def room(self, size: int) -> Iterator[Room]:
        """Room for new files of so many bytes in all, to be written within the block; the oldest files make
        it.

        Raises:
            HTTPError: 413 for more than may ever be stored, 503 if those that are stored are too young to go,
                507 if the disk has no room.
        """
        if size > self._limits.stored_bytes:
            raise HTTPError(
                413,
                "too-many-bytes",
                f"got {size} bytes, wanted at most {self._limits.stored_bytes} in one upload",
            )
        with self._lock:
            self._make_room(size, files=1)
            if shutil.disk_usage(self.folder).free - self._reserved - size < FREE_BYTES:
                raise HTTPError(507, "disk-full", "the disk of the server is nearly full", retry_after=60)
            self._reserved += size
        room = Room(self)
        try:
            yield room
        finally:
            with self._lock:
                self._reserved -= size
                self._written -= set(room.paths)

    def _add(self, name: str) -> Path:
        with self._lock:
            self._make_room(0, files=1)
            place = self.folder / secrets.token_urlsafe(16)
            place.mkdir()
            path = place / safe_name(name)
            self._written.add(path)
        return path

    def remove(self, paths: Iterable[Path]) -> None:
        """Remove files of this folder, and the folders of their own."""
        for path in paths:
            path.unlink(missing_ok=True)
            if path.parent != self.folder:
                with suppress(OSError):  # another file is in it
                    path.parent.rmdir()

    def sweep(self) -> None:
        """Remove what has grown too old."""
        with self._lock:
            self._make_room(0, files=0)

    async def swept(self) -> None:
        """Sweep now and then, for ever."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await asyncio.to_thread(self.sweep)

    def _make_room(self, size: int, files: int) -> None:
        """Remove what is too old, then the oldest until so much fits; HTTPError if it cannot."""
        now, limits = time.time(), self._limits
        every = sorted(self._files(), key=lambda file: file.since)
        total, number = sum(file.bytes for file in every if file.path not in self._written), len(every)
        for file in every:
            age = now - file.since
            full = total + self._reserved + size > limits.stored_bytes or number + files > limits.stored_files
            if (
                self._held[file.path]
                or file.path in self._written
                or age < min(SPARED_SECONDS, limits.stored_seconds)
            ):
                continue
            if full or age > limits.stored_seconds:
                self.remove([file.path])
                total, number = total - file.bytes, number - 1
        if total + self._reserved + size > limits.stored_bytes or number + files > limits.stored_files:
            raise HTTPError(
                503,
                "full",
                f"{number} photos of {total} bytes are stored already; try again",
                retry_after=int(SPARED_SECONDS),
            )

    def _files(self) -> list[_File]:
        return [
            _File(path, found.st_size, found.st_mtime)
            for path, found in self._walk()
            if path not in self._kept
        ]

    def _walk(self) -> Iterator[tuple[Path, os.stat_result]]:
        for parent, _, names in os.walk(self.folder):
            for name in names:
                with suppress(OSError):
                    yield Path(parent) / name, os.lstat(os.path.join(parent, name))


class Room:
    """Room for the files of one upload; ``paths`` are those so far."""

    def __init__(self, stored: UploadStore):
        self._stored, self.paths = stored, list[Path]()

    def add(self, name: str) -> Path:
        """Where a new file of this name may be written, in a folder of its own that cannot be guessed.

        Raises:
            HTTPError: 503 if there are too many files, and the others are too young to go.
        """
        path = self._stored._add(name)
        self.paths.append(path)
        return path

    def drop(self) -> None:
        """Remove the files."""
        self._stored.remove(self.paths)


def safe_name(name: str) -> str:
    """A file name of one part, as the client gave it where that does no harm: 60 characters at most."""
    base = re.split(r"[\\/]", name)[-1]
    stem, dot, ending = re.sub(r"[^\w .()+-]", "_", base).strip(" .").rpartition(".")
    if not dot:
        stem, ending = ending, ""
    return (stem[:50].strip(" .") or "photo") + dot + ending[:9]  # 255 bytes at most, in any script


def _below(path: str, folder: Path) -> bool:
    return path.startswith(f"{folder}{os.sep}")
