"""What can be wrong with a data set: each fault names the file, what was found there, and the cure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one file."""

    severity: Severity
    """error: training or scores would be wrong or stop; warning: they may not be what was meant."""
    kind: str
    """A few words that are the same for all faults of a kind, e.g. "missing mask"."""
    file: str
    what: str
    """What was found there."""
    cure: str
    """What would work."""

    def __str__(self) -> str:
        return " ".join(f"{self.file}: {self.what}; {self.cure}".split())


class LabelError(ValueError):
    """A file of labels cannot be used; the message is one line that names it, says why, and what would
    work."""

    def __init__(self, message: str, fault: Problem | None = None):
        super().__init__(message)
        self.fault = fault

    @classmethod
    def of(cls, kind: str, file: object, what: str, cure: str) -> LabelError:
        """The error that a fault is."""
        fault = Problem("error", kind, str(file), what, cure)
        return cls(str(fault), fault)
