"""``deeplab describe``: the layers of a network."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from deeplab.commands.common import OK


@dataclass(frozen=True)
class Describe:
    """Show the layers of a network of the paper: sizes, holes, fields of view, parameters,
    multiplications."""

    variant: Positional[str] = "deeplab-largefov"
    """Name of the network."""
    classes: int = 21
    """How many, background included."""
    size: tuple[int, int] = (321, 321)
    """Height and width of the input."""


def describe(options: Describe) -> int:
    """Print a variant's layers as a table."""
    from rich.console import Console
    from rich.table import Table

    from deeplab.network.layer_table import describe as layers_of

    height, width = options.size
    if min(height, width, options.classes - 1) < 1:
        raise ValueError(
            f"got {height}×{width} and {options.classes} classes, wanted sizes above 0 and 2 classes"
        )
    layers = layers_of(options.variant, classes=options.classes, height=height, width=width)
    table = Table(title=f"{options.variant}, {options.classes} classes", show_footer=True)
    table.add_column("layer", footer="all")
    totals = (
        f"{sum(row.parameters for row in layers):,}",
        f"{sum(row.multiplications for row in layers) / 1e9:.2f}",
    )
    for name, footer in (
        ("kernel", ""),
        ("stride", ""),
        ("hole", ""),
        ("output stride", ""),
        ("field of view", ""),
        ("channels", ""),
        ("height×width", ""),
        ("parameters", totals[0]),
        ("10⁹ multiplications", totals[1]),
    ):
        table.add_column(name, footer=footer, justify="right")
    for row in layers:
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
    console = Console()
    console.print(table) if console.is_terminal else Console(width=140).print(table)
    return OK
