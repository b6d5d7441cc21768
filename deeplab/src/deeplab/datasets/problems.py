"""What can be wrong with a data set: the file, what was found in it, and how to fix it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]

BINARY_FIX = (
    "take black and white masks as they are with --binary (in a recipe: binary = true), save 1 for the "
    "object, or give colours in classes.txt: lines 'background 0 0 0' and 'object 255 255 255'"
)
"""What to do about masks of 0 and 255."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one file."""

    severity: Severity
    """"error" if training or scores would stop or be wrong, "warning" if the data may be as intended."""
    kind: str
    """A few words shared by all problems of a kind, e.g. "missing mask"."""
    file: str
    """Path of the file, or the folder and the split."""
    what: str
    """What was found there."""
    fix: str
    """What to do about it."""

    def __str__(self) -> str:
        return " ".join(f"{self.file}: {self.what}; {self.fix}".split())


class LabelError(ValueError):
    """A file of labels cannot be used; the message is one line with the file, the reason and the fix."""

    def __init__(self, message: str, problem: Problem | None = None):
        super().__init__(message)
        self.problem = problem

    @classmethod
    def of(cls, kind: str, file: object, what: str, fix: str) -> LabelError:
        """Make the error for a problem with a file.

        Args:
            kind: kind of the problem, see ``Problem``.
            file: path of the file.
            what: what was found there.
            fix: what to do about it.
        """
        problem = Problem("error", kind, str(file), what, fix)
        return cls(str(problem), problem)
