"""What is done in a folder of results: a line for each photo, so that a job that was stopped goes on."""

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

from deeplab.bulk.jobs import Job, Outcome, Shard
from deeplab.files import lock_file


class Manifest:
    """The lines of OUT/manifest.jsonl, one JSON object for each photo that was labelled or could not be.

    Every line holds: photo, name (of the results, below OUT), input (size and time of the photo), settings (a
    digest of the line of settings that the job began with), time (seconds since 1970), files, shares,
    seconds, or an error. Of several lines for one name the latest counts; lines that cannot be read, as a
    killed process leaves them, or lack one of these, do not.
    Each part of a job that is shared among machines writes a file of its own (manifest-2-of-8.jsonl), as
    appending to one file from several machines is not safe; all of them are read. Only where each line begins
    is kept in memory: about 300 bytes a photo.

    Args:
        out: the folder; it must exist.
        facts: what the results depend on: ``Settings.facts``.
        shard: the part of the job that this process does.

    Raises:
        BlockingIOError: if another process writes here at this moment.
    """

    def __init__(self, out: Path, facts: Mapping[str, Any], *, shard: Shard | None = None):
        self._out = out
        self.settings = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
        own = out / ("manifest.jsonl" if shard is None else f"manifest-{shard.number}-of-{shard.count}.jsonl")
        self._files = ExitStack()
        self._writer: Any = self._files.enter_context(open(own, "ab", buffering=0))  # noqa: SIM115
        self._readers: list[BinaryIO] = []
        self._latest: dict[
            str, tuple[float, int, int]
        ] = {}  # name: its time, its file, where the line begins
        try:
            lock_file(
                self._writer,
                f"{out}: another process writes its results here; wait for it, name another folder, or share the "
                "photos with --shard 1/2 and --shard 2/2",
            )
            for path in [own, *sorted(set(out.glob("manifest*.jsonl")) - {own})]:
                self._readers.append(self._files.enter_context(open(path, "rb")))  # noqa: SIM115
                known = self._index(len(self._readers) - 1)
                if path == own:
                    self._begin(facts, known)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Manifest:
        """To be closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write here."""
        self._files.close()

    def finished(self, job: Job, kinds: Iterable[str]) -> bool:
        """Whether a photo was done with these settings, is the same file still, and all its results are
        there."""
        row = self._row(self._name(job))
        return (
            row is not None
            and row.get("settings") == self.settings
            and "error" not in row
            and row.get("input") == _input(job.photo)
            and all(file.is_file() for file in job.files(kinds))
        )

    def add(self, outcome: Outcome, kinds: Iterable[str]) -> None:
        """Write down what became of a photo."""
        name, now = self._name(outcome.job), time.time()
        row: dict[str, Any] = {
            "photo": str(outcome.job.photo),
            "name": name,
            "input": _input(outcome.job.photo),
            "settings": self.settings,
            "time": round(now, 6),
        }
        if outcome.error is None:
            files = [file.relative_to(self._out).as_posix() for file in outcome.job.files(kinds)]
            seconds = {step: round(value, 4) for step, value in outcome.seconds.items()}
            shares = {label: round(share, 6) for label, share in outcome.shares.items()}
            row |= {"files": files, "shares": shares, "seconds": seconds}
        else:
            row["error"] = outcome.error
        if outcome.worker:
            row["worker"] = outcome.worker
        self._latest[name] = (now, 0, self._append(row))

    def rows(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
        """Of jobs in their order, those that were done with these settings, and their lines."""
        for job in jobs:
            row = self._row(self._name(job))
            if row is not None and row.get("settings") == self.settings and "error" not in row:
                yield job, row

    def _name(self, job: Job) -> str:
        return job.target.relative_to(self._out).as_posix()

    def _index(self, number: int) -> bool:
        """Note where the lines of a file begin; whether these settings are among them."""
        known, place = False, 0
        for line in self._readers[number]:
            row = _parsed(line)
            known |= row.get("settings") == self.settings and "facts" in row
            if _is_whole(row):
                name, this = row["name"], (row["time"], number, place)
                self._latest[name] = max(self._latest.get(name, (0.0, 0, 0)), this)
            place += len(line)
        return known

    def _begin(self, facts: Mapping[str, Any], known: bool) -> None:
        size = os.fstat(self._writer.fileno()).st_size
        if size and os.pread(self._readers[0].fileno(), 1, size - 1) != b"\n":
            self._writer.write(b"\n")  # a line that a kill cut off stays alone
        if not known:
            self._append({"settings": self.settings, "facts": dict(facts)})

    def _append(self, row: Mapping[str, Any]) -> int:
        """One write for the whole line; returns where it begins."""
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
        place = os.fstat(self._writer.fileno()).st_size
        self._writer.write(line)
        return place

    def _row(self, name: str) -> dict[str, Any] | None:
        if name not in self._latest:
            return None
        _, number, place = self._latest[name]
        self._readers[number].seek(place)
        row = _parsed(self._readers[number].readline())
        return row if _is_whole(row) and row["name"] == name else None


def _parsed(line: bytes) -> dict[str, Any]:
    """A line's object; empty for one that a kill cut off."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _is_whole(row: Mapping[str, Any]) -> bool:
    """Whether a photo's line has all that is read from it, each of its type."""
    if not isinstance(row.get("name"), str) or not _is_number(row.get("time")):
        return False
    parts = [row.get(key) for key in ("shares", "seconds")]
    return "error" in row or all(
        isinstance(part, dict) and all(map(_is_number, part.values())) for part in parts
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < math.inf


def _input(photo: Path) -> str | None:
    """Enough of a file to notice that it is another one now; None if it is not there."""
    try:
        state = photo.stat()
    except OSError:
        return None
    return f"{state.st_size}-{state.st_mtime_ns}"
