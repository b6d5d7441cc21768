"""The record of a folder of results: a line for each photo, so that an interrupted job resumes.

It is a text file of JSON lines and not a database such as sqlite3, because people and scripts read and merge
it, and because sqlite3 is unreliable on the network file systems where several machines share a folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from deeplab.bulk.inputs import Shard
from deeplab.bulk.jobs import Job, Outcome
from deeplab.files import lock_file


class Manifest:
    """The lines of OUT/manifest.jsonl: one JSON object for each photo that was labelled or failed.

    Every line has these fields: photo, name (of the results, below OUT), input (size and time of the photo),
    settings (digest of the line of settings at the start of the job), time (seconds since 1970); and files,
    shares and seconds, or an error. Of several lines with one name the latest counts. Lines that lack a
    field, or that a killed process left incomplete, are ignored.

    Each shard of a job writes a file of its own (manifest-2-of-8.jsonl), since appending to one file from
    several machines is not safe; all files are read. Only the offset of each line is kept in memory, about
    300 bytes a photo.

    Args:
        out: the folder; it must exist.
        settings: what the results depend on; see ``Settings.as_json``.
        shard: the part of the job that this process does.

    Raises:
        BlockingIOError: if another process is writing to the same manifest.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, shard: Shard | None = None):
        self._out = out
        content = json.dumps(settings, sort_keys=True).encode()
        self._settings = hashlib.blake2b(content, digest_size=8).hexdigest()
        own = out / ("manifest.jsonl" if shard is None else f"manifest-{shard.number}-of-{shard.count}.jsonl")
        self._files = ExitStack()
        self._writer: Any = self._files.enter_context(open(own, "ab", buffering=0))  # noqa: SIM115
        self._readers: list[BinaryIO] = []
        # Time, number of the reader, and offset of the latest line of each name.
        self._latest: dict[str, tuple[float, int, int]] = {}
        try:
            lock_file(
                self._writer,
                f"{out}: another process writes its results here; wait for it, name another folder, or share "
                "the photos with --shard 1/2 and --shard 2/2",
            )
            for path in [own, *sorted(set(out.glob("manifest*.jsonl")) - {own})]:
                self._readers.append(self._files.enter_context(open(path, "rb")))  # noqa: SIM115
                has_settings = self._read_lines(len(self._readers) - 1)
                if path == own:
                    self._begin(settings, has_settings)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; another process may then write here."""
        self._files.close()

    def finished(self, job: Job, suffixes: Iterable[str]) -> bool:
        """Whether a photo was labelled with these settings, is the same file, and all results are there.

        Args:
            job: the photo and its target.
            suffixes: which results; see ``Job.output_files``.
        """
        row = self._row(self._name(job))
        return (
            row is not None
            and row.get("settings") == self._settings
            and "error" not in row
            and row.get("input") == _input(job.photo)
            and all(file.is_file() for file in job.output_files(suffixes))
        )

    def add(self, outcome: Outcome, suffixes: Iterable[str]) -> None:
        """Append the line of a photo.

        Args:
            outcome: result of the photo's job.
            suffixes: which results were written; see ``Job.output_files``.
        """
        name, now = self._name(outcome.job), time.time()
        row: dict[str, Any] = {
            "photo": str(outcome.job.photo),
            "name": name,
            "input": _input(outcome.job.photo),
            "settings": self._settings,
            "time": round(now, 6),
        }
        if outcome.error is None:
            files = [file.relative_to(self._out).as_posix() for file in outcome.job.output_files(suffixes)]
            seconds = {step: round(value, 4) for step, value in outcome.seconds.items()}
            shares = {label: round(share, 6) for label, share in outcome.shares.items()}
            row |= {"files": files, "shares": shares, "seconds": seconds}
        else:
            row["error"] = outcome.error
        if outcome.worker:
            row["worker"] = outcome.worker
        self._latest[name] = (now, 0, self._append(row))

    def rows(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
        """Yield the jobs that were done with these settings, in their order, with their lines as objects."""
        for job in jobs:
            row = self._row(self._name(job))
            if row is not None and row.get("settings") == self._settings and "error" not in row:
                yield job, row

    def _name(self, job: Job) -> str:
        return job.target.relative_to(self._out).as_posix()

    def _read_lines(self, number: int) -> bool:
        """Index the lines of a file; returns whether it has a line of these settings."""
        has_settings = False
        offset = 0
        for line in self._readers[number]:
            row = _parsed(line)
            has_settings |= row.get("settings") == self._settings and "facts" in row
            if _is_complete(row):
                name, entry = row["name"], (row["time"], number, offset)
                self._latest[name] = max(self._latest.get(name, (0.0, 0, 0)), entry)
            offset += len(line)
        return has_settings

    def _begin(self, settings: Mapping[str, Any], has_settings: bool) -> None:
        """End a line that a killed process left incomplete, and write the settings unless they are there."""
        size = os.fstat(self._writer.fileno()).st_size
        if size and os.pread(self._readers[0].fileno(), 1, size - 1) != b"\n":
            self._writer.write(b"\n")
        if not has_settings:
            self._append({"settings": self._settings, "facts": dict(settings)})

    def _append(self, row: Mapping[str, Any]) -> int:
        """Write a line with one call; returns its offset."""
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
        offset = os.fstat(self._writer.fileno()).st_size
        self._writer.write(line)
        return offset

    def _row(self, name: str) -> dict[str, Any] | None:
        if name not in self._latest:
            return None
        _, number, offset = self._latest[name]
        self._readers[number].seek(offset)
        row = _parsed(self._readers[number].readline())
        return row if _is_complete(row) and row["name"] == name else None


def _parsed(line: bytes) -> dict[str, Any]:
    """The object of a line; empty for a line that is incomplete."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _is_complete(row: Mapping[str, Any]) -> bool:
    """Whether a photo's line has all fields that are read, each of the right type."""
    if not isinstance(row.get("name"), str) or not _is_number(row.get("time")):
        return False
    parts = [row.get(key) for key in ("shares", "seconds")]
    return "error" in row or all(
        isinstance(part, dict) and all(map(_is_number, part.values())) for part in parts
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < math.inf


def _input(photo: Path) -> str | None:
    """Size and time of a file, which change if it is replaced; None if it is not there."""
    try:
        status = photo.stat()
    except OSError:
        return None
    return f"{status.st_size}-{status.st_mtime_ns}"
