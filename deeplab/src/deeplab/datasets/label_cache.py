"""What was found in files of labels, kept in the user's cache folder until the files change."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deeplab.datasets.label_check import LabelCheck
from deeplab.datasets.samples import Sample
from deeplab.files import write_whole

VERSION = 1
"""Raised when the check finds anything else in the same file."""
MIN_AGE = 2.0
"""Seconds since a file's last change before it is cached: a second change could have the same time stamp."""


def cache_folder() -> Path:
    """The folder for what can be computed again: DEEPLAB_CACHE, or deeplab in the user's cache folder."""
    own = os.environ.get("DEEPLAB_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "deeplab"


class LabelCache:
    """Checked labels by file, reader, size and time of the last change.

    Args:
        samples: samples of one data set, which decide on the cache's file.
    """

    def __init__(self, samples: Sequence[Sample]):
        folders = sorted({str(sample.labels.absolute().parent) for sample in samples})
        digest = hashlib.blake2b("\0".join(folders).encode(errors="surrogateescape"), digest_size=16)
        self._path = cache_folder() / "labels" / f"{digest.hexdigest()}.json"
        self._entries = self._load()
        self._is_changed = False

    def get(self, sample: Sample) -> LabelCheck | None:
        """Get what was found in a sample's labels; None if the file was changed or never read."""
        try:
            key, stamp, content = self._entries[_key(sample)]
            if [key, stamp] == _stamp(sample):
                return LabelCheck.from_json(sample.labels, content)
        except (KeyError, TypeError, ValueError, AttributeError, OSError):  # not there, or damaged
            pass
        return None

    def put(self, sample: Sample, check: LabelCheck) -> None:
        """Keep the result of checking a sample's labels, unless the file was changed just now.

        Args:
            sample: photo and labels.
            check: the result.
        """
        try:
            if time.time() - sample.labels.stat().st_mtime > MIN_AGE and check.shape is not None:
                self._entries[_key(sample)] = [*_stamp(sample), check.as_json()]
                self._is_changed = True
        except OSError:
            return

    def save(self) -> None:
        """Write what was added; a cache folder that cannot be written is no error."""
        if self._is_changed:
            try:
                write_whole(self._path, json.dumps({"version": VERSION, "entries": self._entries}))
            except OSError:
                return

    def _load(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            return dict(content["entries"]) if content["version"] == VERSION else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}


def _key(sample: Sample) -> str:
    return f"{sample.labels.absolute()}|{sample.name}".encode(errors="backslashreplace").decode()


def _stamp(sample: Sample) -> list[Any]:
    """The reader, and size and time of the file that it reads."""
    stat = sample.labels.stat()
    reader = hashlib.blake2b(pickle.dumps(sample.reader), digest_size=16).hexdigest()
    return [reader, [stat.st_size, stat.st_mtime_ns]]
