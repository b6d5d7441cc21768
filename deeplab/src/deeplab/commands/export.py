"""``deeplab export``: write a network as a file for ONNX Runtime or OpenVINO."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deeplab.commands.common import OK, ModelOptions, load_model


@dataclass(frozen=True)
class Export:
    """Write a network as ONNX or OpenVINO, with its card; deeplab segment --weights FILE then runs it."""

    to: Literal["onnx", "openvino"]
    """The format. OpenVINO is the fastest on a processor, in int8 most of all."""
    out: Path
    """File to write, ending in .onnx or .xml; the card (and for OpenVINO the weights, .bin) is written beside
    it."""
    weights: str | None = None
    """The same as for deeplab segment; by default the weights of the package."""
    variant: str | None = None
    """Name of the network, if the file of the weights does not determine it."""
    int8: bool = False
    """Use int8 for weights and activations, except in the first and last convolutions (OpenVINO only)."""
    calibrate: Path | None = None
    """Folder of photos like those to be labelled, from which int8 takes its ranges; a few dozen
    are enough."""


def export(options: Export) -> int:
    """Export the network, compare its scores with torch's, and print how close they are."""
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
