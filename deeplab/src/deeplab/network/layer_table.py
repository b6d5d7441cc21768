"""What a variant is made of, layer by layer: sizes, holes, fields of view, parameters, multiplications."""

from __future__ import annotations

from dataclasses import dataclass

from deeplab.network.architecture import BRANCHES, VARIANTS, Convolution, Variant

IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class Layer:
    """One layer at a given size of the input."""

    name: str
    kernel: int
    stride: int
    """Between the places the layer itself looks at."""
    atrous_rate: int
    output_stride: int
    """Pixels of the input between neighbours in the layer's output."""
    field_of_view: int
    """Pixels of the input that one output depends on, in a row."""
    channels: int
    height: int
    width: int
    parameters: int
    multiplications: int


def describe(
    variant: str = "deeplab-largefov", *, classes: int = 21, height: int = 321, width: int = 321
) -> list[Layer]:
    """The layers of a variant in testing, top to bottom.

    Args:
        variant: a name in ``network.VARIANTS``.
        classes: K, background included.
        height: of the input in pixels; the next legal size is taken.
        width: likewise.

    Returns:
        One entry a layer; parameters and multiplications may be added up.

    Raises:
        ValueError: for an unknown variant.

    Source: DeepLab, section 3.1: a layer after a stride that was taken out has a hole in its place.
    """
    if variant not in VARIANTS:
        raise ValueError(f"got variant {variant!r}, wanted one of: {', '.join(VARIANTS)}")
    chosen = VARIANTS[variant]
    table = _Table(chosen.legal_size(height), chosen.legal_size(width))
    maps: dict[str, _Table] = {"data": table.branch_off()}
    for layer in chosen.trunk:
        if isinstance(layer, Convolution):
            table.convolution(layer.name, 3, layer.atrous_rate, layer.channels)
            continue
        stage = 1 + sum(row.name.startswith("pool") for row in table.rows)
        name = f"pool{stage}" if layer.kind == "max" else "pool5a"
        table.pool(name, layer.kernel, layer.stride, layer.padding)
        maps[name] = table.branch_off()
    head = chosen.head
    table.convolution("fc6", head.kernel, head.atrous_rate, head.channels)
    table.convolution("fc7", 1, 1, head.channels)
    table.convolution("fc8", 1, 1, classes)
    for name in _branch_names(chosen):
        branch = maps[name]
        for part, (kernel, channels) in enumerate(((3, 128), (1, 128), (1, classes)), 1):
            branch.convolution(f"{name}_{part}", kernel, 1, channels)
        table.rows += branch.rows
    return table.rows


def _branch_names(variant: Variant) -> list[str]:
    return [name for name, _, _ in BRANCHES] if variant.multi_scale else []


class _Table:
    """Rows so far, and where the next layer begins."""

    def __init__(self, height: int, width: int):
        self.rows: list[Layer] = []
        self.height, self.width, self.channels = height, width, IMAGE_CHANNELS
        self.output_stride, self.field_of_view = 1, 1

    def branch_off(self) -> _Table:
        """The same place with no rows."""
        other = _Table(self.height, self.width)
        other.channels, other.output_stride, other.field_of_view = (
            self.channels,
            self.output_stride,
            self.field_of_view,
        )
        return other

    def convolution(self, name: str, kernel: int, atrous_rate: int, channels: int) -> None:
        """A convolution, same size out."""
        weights = kernel * kernel * self.channels * channels
        self.channels = channels
        self._row(name, kernel, 1, atrous_rate, weights + channels, weights * self.height * self.width)

    def pool(self, name: str, kernel: int, stride: int, padding: int) -> None:
        """A pool; sizes are rounded up as in Caffe."""
        self.height, self.width = (_pooled(n, kernel, stride, padding) for n in (self.height, self.width))
        self._row(name, kernel, stride, 1, 0, 0)

    def _row(
        self, name: str, kernel: int, stride: int, atrous_rate: int, parameters: int, multiplications: int
    ) -> None:
        self.field_of_view += (kernel - 1) * atrous_rate * self.output_stride
        self.output_stride *= stride
        place = (self.output_stride, self.field_of_view, self.channels, self.height, self.width)
        self.rows.append(Layer(name, kernel, stride, atrous_rate, *place, parameters, multiplications))


def _pooled(length: int, kernel: int, stride: int, padding: int) -> int:
    out = -(-(length + 2 * padding - kernel) // stride) + 1
    return out - ((out - 1) * stride >= length + padding)  # a window must begin inside
