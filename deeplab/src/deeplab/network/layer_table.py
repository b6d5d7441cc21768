"""The layers of a variant: sizes, atrous rates, fields of view, parameters and multiplications."""

from __future__ import annotations

from dataclasses import dataclass

from deeplab.network.architecture import BRANCHES, VARIANTS, Convolution, Variant

IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class Layer:
    """One layer, for an input image of a given size."""

    name: str
    kernel: int
    """Taps of a filter in each direction."""
    stride: int
    """Positions of the layer's input between neighbouring outputs."""
    atrous_rate: int
    """Positions of the layer's input between neighbouring taps."""
    output_stride: int
    """Pixels of the image between neighbouring outputs."""
    field_of_view: int
    """Pixels of the image, in each direction, that one output depends on."""
    channels: int
    """Channels of the output."""
    height: int
    """Height of the output."""
    width: int
    """Width of the output."""
    parameters: int
    """Number of weights and biases."""
    multiplications: int
    """Number of multiplications for the whole output."""


def describe(
    variant: str = "deeplab-largefov", *, classes: int = 21, height: int = 321, width: int = 321
) -> list[Layer]:
    """List the layers of a variant in testing, from the image to the scores.

    Args:
        variant: Name of a variant in ``network.VARIANTS``.
        classes: K, background included.
        height: Height of the image in pixels, rounded up to the next legal size.
        width: Width of the image in pixels, rounded up likewise.

    Returns:
        One entry for each layer.

    Raises:
        ValueError: For an unknown variant.

    Source: DeepLab, section 3.1: removing a stride multiplies the atrous rate of all later layers by it.
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
    """The layers so far, and the output of the last one."""

    def __init__(self, height: int, width: int):
        self.rows: list[Layer] = []
        self.height = height
        self.width = width
        self.channels = IMAGE_CHANNELS
        self.output_stride = 1
        self.field_of_view = 1

    def branch_off(self) -> _Table:
        """An empty table that goes on from the same output."""
        other = _Table(self.height, self.width)
        other.channels = self.channels
        other.output_stride = self.output_stride
        other.field_of_view = self.field_of_view
        return other

    def convolution(self, name: str, kernel: int, atrous_rate: int, channels: int) -> None:
        """Add a convolution that keeps the size."""
        weights = kernel * kernel * self.channels * channels
        self.channels = channels
        self._add(name, kernel, 1, atrous_rate, weights + channels, weights * self.height * self.width)

    def pool(self, name: str, kernel: int, stride: int, padding: int) -> None:
        """Add a pool; sizes are rounded up as in Caffe."""
        self.height, self.width = (_pooled(n, kernel, stride, padding) for n in (self.height, self.width))
        self._add(name, kernel, stride, 1, 0, 0)

    def _add(
        self, name: str, kernel: int, stride: int, atrous_rate: int, parameters: int, multiplications: int
    ) -> None:
        self.field_of_view += (kernel - 1) * atrous_rate * self.output_stride
        self.output_stride *= stride
        output = (self.output_stride, self.field_of_view, self.channels, self.height, self.width)
        self.rows.append(Layer(name, kernel, stride, atrous_rate, *output, parameters, multiplications))


def _pooled(length: int, kernel: int, stride: int, padding: int) -> int:
    """Length of an axis after a pool."""
    out = -(-(length + 2 * padding - kernel) // stride) + 1
    return out - ((out - 1) * stride >= length + padding)  # a window must begin inside the input
