"""The page's folder of uploads: limited in number, size and age, and the only files that the page reads."""

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

MIN_AGE_SECONDS = 120.0  # a younger upload may still be worked on, and is not deleted to make space
MIN_FREE_BYTES = 100_000_000  # this much of the disk stays free
SWEEP_SECONDS = 60.0  # time between two searches for old uploads


@dataclass(frozen=True)
class _File:
    path: Path
    bytes: int
    modified: float


class UploadStore:
    """A folder of uploads. Files that are there at the start (the examples) are permanent.

    Args:
        folder: folder for this server alone, made if it is missing. Anything in it may be deleted.
        limits: ``bytes`` for one file; ``stored_bytes``, ``stored_files`` and ``stored_seconds`` for all.
    """

    def __init__(self, folder: Path, limits: Limits):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = Path(os.path.realpath(folder))
        self.permanent = frozenset[Path]()
        self._limits = limits
        self._lock = threading.RLock()
        self._protected = Counter[Path]()
        self._reserved_bytes = 0
        self._incomplete = set[Path]()  # being written; their bytes count as reserved
        self.make_permanent()

    def make_permanent(self) -> None:
        """Make all files that are in the folder now permanent: they are not counted and never deleted."""
        self.permanent = frozenset(path for path, _ in self._walk())

    def resolve(self, text: Any) -> Path:
        """Find the file of this folder that a client names.

        Args:
            text: what the client sent as a path; any type.

        Returns:
            Real path of the file.

        Raises:
            HTTPError: 403 if this is not a regular file below the folder. The error does not tell whether
                such a file exists elsewhere, and nothing outside the folder is opened.
        """
        foreign = HTTPError(
            403, "foreign-path", "got a path that is none of this page's uploads, wanted one of those"
        )
        if not isinstance(text, str) or "\0" in text or not os.path.isabs(text):
            raise foreign
        normal = os.path.normpath(text)
        real = os.path.realpath(normal)
        if not (_is_below(normal, self.folder) and _is_below(real, self.folder)):
            raise foreign
        path = Path(real)
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise foreign
        except OSError:
            raise foreign from None
        return path

    def read(self, text: Any) -> bytes:
        """Read the file that a client names.

        Args:
            text: see ``resolve``.

        Returns:
            Content of the file.

        Raises:
            HTTPError: see ``resolve``; 404 if the file has been deleted, 413 if it is too large.
        """
        path = self.resolve(text)
        try:
            with path.open("rb") as file:
                content = file.read(self._limits.bytes + 1)
        except OSError:
            raise HTTPError(404, "gone", f"{path.name} is no longer stored; upload it again") from None
        if len(content) > self._limits.bytes:
            raise HTTPError(413, "too-many-bytes", f"{path.name} has more than {self._limits.bytes} bytes")
        return content

    @contextmanager
    def protect(self, paths: Iterable[Path]) -> Iterator[None]:
        """Keep these files from being deleted within the block."""
        counts = Counter(paths)
        with self._lock:
            self._protected += counts
        try:
            yield
        finally:
            with self._lock:
                self._protected -= counts

    @contextmanager
    def reserve(self, size: int) -> Iterator[Reservation]:
        """Reserve space for new files that are written within the block; old uploads are deleted for it.

        Args:
            size: bytes of all new files together.

        Raises:
            HTTPError: 413 if ``size`` is more than may be stored at all, 503 if the stored uploads are too
                young to be deleted, 507 if the disk is full.
        """
        max_bytes = self._limits.stored_bytes
        if size > max_bytes:
            raise HTTPError(
                413, "too-many-bytes", f"got {size} bytes, wanted at most {max_bytes} in one upload"
            )
        with self._lock:
            self._make_space(size, files=1)
            free = shutil.disk_usage(self.folder).free
            if free - self._reserved_bytes - size < MIN_FREE_BYTES:
                raise HTTPError(507, "disk-full", "the disk of the server is nearly full", retry_after=60)
            self._reserved_bytes += size
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            with self._lock:
                self._reserved_bytes -= size
                self._incomplete -= set(reservation.paths)

    def new_path(self, name: str) -> Path:
        """Make a path for a new file; ``Reservation.add`` calls this.

        Args:
            name: file name as the client sent it.

        Returns:
            Path of the new file, in a folder of its own.

        Raises:
            HTTPError: 503 if there are too many files.
        """
        with self._lock:
            self._make_space(0, files=1)
            folder = self.folder / secrets.token_urlsafe(16)
            folder.mkdir()
            path = folder / safe_name(name)
            self._incomplete.add(path)
        return path

    def remove(self, paths: Iterable[Path]) -> None:
        """Delete files of this folder, and the subfolders that held them."""
        for path in paths:
            path.unlink(missing_ok=True)
            if path.parent != self.folder:
                with suppress(OSError):  # the subfolder holds another file
                    path.parent.rmdir()

    def sweep(self) -> None:
        """Delete uploads that are too old."""
        with self._lock:
            self._make_space(0, files=0)

    async def sweep_forever(self) -> None:
        """Delete old uploads again and again, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await asyncio.to_thread(self.sweep)

    def _make_space(self, size: int, files: int) -> None:
        """Delete uploads that are too old, then the oldest ones until the new files fit.

        Raises:
            HTTPError: 503 if they cannot fit.
        """
        now = time.time()
        uploads = sorted(self._uploads(), key=lambda file: file.modified)
        total = sum(file.bytes for file in uploads if file.path not in self._incomplete)
        count = len(uploads)

        def is_full() -> bool:
            needed = total + self._reserved_bytes + size
            return needed > self._limits.stored_bytes or count + files > self._limits.stored_files

        for file in uploads:
            age = now - file.modified
            if self._may_be_deleted(file, age) and (is_full() or age > self._limits.stored_seconds):
                self.remove([file.path])
                total -= file.bytes
                count -= 1
        if is_full():
            raise HTTPError(
                503,
                "full",
                f"{count} photos of {total} bytes are stored already; try again",
                retry_after=int(MIN_AGE_SECONDS),
            )

    def _may_be_deleted(self, file: _File, age: float) -> bool:
        in_use = self._protected[file.path] or file.path in self._incomplete
        return not in_use and age >= min(MIN_AGE_SECONDS, self._limits.stored_seconds)

    def _uploads(self) -> list[_File]:
        return [
            _File(path, info.st_size, info.st_mtime)
            for path, info in self._walk()
            if path not in self.permanent
        ]

    def _walk(self) -> Iterator[tuple[Path, os.stat_result]]:
        for parent, _, names in os.walk(self.folder):
            for name in names:
                with suppress(OSError):
                    yield Path(parent) / name, os.lstat(os.path.join(parent, name))


class Reservation:
    """Reserved space for the files of one upload; ``paths`` are the files so far."""

    def __init__(self, store: UploadStore):
        self._store = store
        self.paths = list[Path]()

    def add(self, name: str) -> Path:
        """Add a new file.

        Args:
            name: file name as the client sent it.

        Returns:
            Path where the file may be written, in a folder of its own whose name cannot be guessed.

        Raises:
            HTTPError: 503 if there are too many files, and the others are too young to be deleted.
        """
        path = self._store.new_path(name)
        self.paths.append(path)
        return path

    def drop(self) -> None:
        """Delete the files."""
        self._store.remove(self.paths)


def safe_name(name: str) -> str:
    """Turn a client's file name into one without folders or special characters, at most 60 long."""
    base = re.split(r"[\\/]", name)[-1]
    stem, dot, ending = re.sub(r"[^\w .()+-]", "_", base).strip(" .").rpartition(".")
    if not dot:
        stem, ending = ending, ""
    return (stem[:50].strip(" .") or "photo") + dot + ending[:9]  # at most 255 bytes in any script


def _is_below(path: str, folder: Path) -> bool:
    return path.startswith(f"{folder}{os.sep}")
