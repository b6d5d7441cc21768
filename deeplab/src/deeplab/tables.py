"""Tables of text for the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io

from rich.table import Table

NO_VALUE = "n/a"
"""Text of a cell for which there is nothing to score."""

Rows = list[list[str]]
"""The header row, then the other rows."""


def terminal_table(rows: Rows, title: str | None = None) -> Table:
    """A table for the terminal, all columns but the first aligned to the right.

    Args:
        rows: Header row and rows. Headers break after their first comma.
        title: Text above the table.

    Returns:
        The table, ready to be printed by rich.
    """
    headers = [header.replace(", ", "\n", 1) for header in rows[0]]
    table = Table(*headers, box=None, title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows[1:]:
        table.add_row(*row)
    return table


def markdown_table(rows: Rows) -> str:
    """A Markdown table, all columns but the first aligned to the right."""
    header, *body = rows
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *body))


def comma_separated(rows: Rows) -> bytes:
    """A table as the bytes of a CSV file. Cells without a value are empty."""
    text = io.StringIO(newline="")
    cells = [["" if cell == NO_VALUE else cell for cell in row] for row in rows]
    csv.writer(text, lineterminator="\n").writerows(cells)
    return text.getvalue().encode(errors="backslashreplace")
