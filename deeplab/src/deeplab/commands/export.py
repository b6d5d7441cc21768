"""``deeplab export``: a network as a file for ONNX Runtime or OpenVINO."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deeplab.commands.common import OK, ModelOptions, model_of


@dataclass(frozen=True)
class Export:
    """Write a network as ONNX or OpenVINO, with its card; deeplab segment --weights FILE then runs it."""

    to: Literal["onnx", "openvino"]
    """The format. OpenVINO is the fastest on a processor, most of all in int8."""
    out: Path
    """The file to write, ending in .onnx or .xml; its card (and of OpenVINO the weights, .bin) goes beside
    it."""
    weights: str | None = None
    """As of deeplab segment; by default those of the package."""
    variant: str | None = None
    """Name of the network, where the weights' file leaves it open."""
    int8: bool = False
    """Make weights and activations int8, of the first and last convolutions excepted (OpenVINO)."""
    calibrate: Path | None = None
    """Folder of photos like those to be labelled, on which int8 finds its ranges; a few dozen are enough."""


def export(options: Export) -> int:
    """Export, compare with torch, and say how close it is."""
    from deeplab.weights.exporter import export as export_network
    from deeplab.weights.exporter import validate_export

    if options.int8 and options.calibrate is None:
        raise ValueError("--int8 wants --calibrate DIR, a folder of photos like those to be labelled")
    if options.calibrate is not None and not options.int8:
        raise ValueError("got --calibrate without --int8, wanted both or neither")
    if options.calibrate is not None and not options.calibrate.is_dir():
        raise FileNotFoundError(f"no folder {options.calibrate}; wanted one of photos to calibrate with")
    validate_export(options.out, options.to, int8=options.int8)
    model = model_of(ModelOptions(options.weights, options.variant, device="cpu", precision="fp32"))
    done = export_network(model.network, model.card, options.out, to=options.to, calibrate=options.calibrate)
    print(f"{done.file}, card {done.file.with_suffix('.json')}: {done.summary()}")
    return OK
