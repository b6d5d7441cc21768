"""``deeplab describe``: print the layers of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tyro.conf import Positional

from deeplab.commands.common import OK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from deeplab.network.layer_table import Layer


@dataclass(frozen=True)
class Describe:
    """Show the layers of a network: sizes, atrous rates, fields of view, parameters and multiplications."""

    variant: Positional[str] = "deeplab-largefov"
    """Name of the network."""
    classes: int = 21
    """Number of classes, including the background."""
    size: tuple[int, int] = (321, 321)
    """Height and width of the input in pixels."""


def describe(options: Describe) -> int:
    """Print the layers of a network as a table."""
    from rich.console import Console

    from deeplab.network.layer_table import describe as layer_rows

    height, width = options.size
    if min(height, width, options.classes - 1) < 1:
        raise ValueError(
            f"got {height}×{width} and {options.classes} classes, wanted sizes above 0 and 2 classes"
        )
    rows = layer_rows(options.variant, classes=options.classes, height=height, width=width)
    table = _table(f"{options.variant}, {options.classes} classes", rows)
    console = Console()
    console.print(table) if console.is_terminal else Console(width=140).print(table)
    return OK


def _table(title: str, rows: Sequence[Layer]) -> Table:
    from rich.table import Table

    footers = {
        "parameters": f"{sum(row.parameters for row in rows):,}",
        "10⁹ multiplications": f"{sum(row.multiplications for row in rows) / 1e9:.2f}",
    }
    numbers = (
        "kernel",
        "stride",
        "atrous rate",
        "output stride",
        "field of view",
        "channels",
        "height×width",
    )
    table = Table(title=title, show_footer=True)
    table.add_column("layer", footer="all")
    for name in (*numbers, *footers):
        table.add_column(name, footer=footers.get(name, ""), justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.kernel}×{row.kernel}",
            str(row.stride),
            str(row.atrous_rate),
            str(row.output_stride),
            str(row.field_of_view),
            str(row.channels),
            f"{row.height}×{row.width}",
            f"{row.parameters:,}",
            f"{row.multiplications / 1e9:.2f}",
        )
    return table
