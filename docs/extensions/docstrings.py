"""Sphinx extension that turns our docstrings into reStructuredText before napoleon processes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LITERAL = re.compile(r"(``.+?``)")
SOURCE = re.compile(r"^(\s*)Source: (.+)$")


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", prepare, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def prepare(app: Sphinx, what: str, name: str, it: object, options: object, lines: list[str]) -> None:
    """Change a docstring in place.

    ``Source: …`` becomes a section like Args. Vertical bars outside literals would be substitutions, so they
    become the mathematical "divides" sign, which looks the same.
    """
    done, in_source = [], False
    for line in map(plain, lines):
        found = SOURCE.match(line)
        in_source = bool(found) or (in_source and bool(line.strip()))
        if found:
            done += [f"{found[1]}Source:", f"{found[1]}    {found[2]}"]
        else:
            done.append(f"    {line}" if in_source else line)
    lines[:] = done


def plain(line: str) -> str:
    """A line in which vertical bars are not markup."""
    parts = LITERAL.split(line)
    return "".join(part if number % 2 else part.replace("|", "∣") for number, part in enumerate(parts))
