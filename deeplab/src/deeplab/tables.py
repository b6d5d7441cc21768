"""Rows of text as tables: for the terminal, as Markdown, as a CSV file."""

from __future__ import annotations

import csv
import io

from rich.table import Table

NO_VALUE = "n/a"

Rows = list[list[str]]
"""The head, then the lines."""


def terminal_table(rows: Rows, title: str | None = None) -> Table:
    """Rows for the terminal; a head breaks after its first comma, all but the first column stand to the
    right."""
    heads = [head.replace(", ", "\n", 1) for head in rows[0]]
    table = Table(*heads, box=None, title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows[1:]:
        table.add_row(*row)
    return table


def markdown_table(rows: Rows) -> str:
    """Rows as a Markdown table."""
    head, *lines = rows
    return "\n".join(
        "| " + " | ".join(row) + " |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *lines)
    )


def comma_separated(rows: Rows) -> bytes:
    """Rows as the bytes of a CSV file; where there is nothing to score, a cell is empty."""
    text = io.StringIO(newline="")
    lines = [["" if cell == NO_VALUE else cell for cell in row] for row in rows]
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode(errors="backslashreplace")
