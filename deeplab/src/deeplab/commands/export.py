"""``deeplab export``: export a network for ONNX Runtime or OpenVINO."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deeplab.commands.common import OK, ModelOptions, load_model


@dataclass(frozen=True)
class Export:
    """Export a network to ONNX or OpenVINO; other commands accept the file as --weights."""

    to: Literal["onnx", "openvino"]
    """File format. OpenVINO is the fastest on CPUs, especially with int8."""
    out: Path
    """File to write, ending in .onnx or .xml.
    The model card, and for OpenVINO a .bin file, are written to the same folder."""
    weights: str | None = None
    """Weights file, as in deeplab segment; by default the included weights."""
    variant: str | None = None
    """Name of the network, if the weights file does not state it."""
    int8: bool = False
    """Use int8 for weights and activations, except in the first and last convolutions (OpenVINO only)."""
    calibrate: Path | None = None
    """Folder of photos to calibrate int8 with; a few dozen photos like those to be segmented are enough."""


def export(options: Export) -> int:
    """Export the network, compare its scores with PyTorch's, and print the difference."""
    from deeplab.weights.exporter import export as export_network
    from deeplab.weights.exporter import validate_export

    if options.int8 and options.calibrate is None:
        raise ValueError("--int8 needs --calibrate DIR, a folder of photos like those to be labelled")
    if options.calibrate is not None and not options.int8:
        raise ValueError("got --calibrate without --int8, wanted both or neither")
    if options.calibrate is not None and not options.calibrate.is_dir():
        raise FileNotFoundError(f"no folder {options.calibrate}; wanted one of photos to calibrate with")
    validate_export(options.out, options.to, int8=options.int8)
    model = load_model(ModelOptions(options.weights, options.variant, device="cpu", precision="fp32"))
    done = export_network(model.network, model.card, options.out, to=options.to, calibrate=options.calibrate)
    print(f"{done.file}, card {done.file.with_suffix('.json')}: {done.summary()}")
    return OK
