"""Writers of exported networks: ONNX, and OpenVINO in fp32 or int8."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deeplab.network.architecture import DeepLab
from deeplab.optional import import_quietly


class ExportGraph(nn.Module):
    """The computation that is exported: scores at stride 8, or at every pixel for multi-scale variants.

    Args:
        network: Network to export, which is copied.
    """

    def __init__(self, network: DeepLab):
        super().__init__()
        self.network = copy.deepcopy(network).cpu().float().eval()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Compute class scores of a prepared batch (B, 3, H, W) of legal size."""
        if self.network.variant.multi_scale:
            return self.network.full_scores(batch)
        scores: torch.Tensor = self.network(batch)
        return scores

    def example(self, height: int, width: int, photos: int) -> torch.Tensor:
        """Make a random batch in the range of prepared photos, the same in every run.

        Args:
            height: Height in pixels, rounded up to the next legal size.
            width: Width in pixels, rounded up likewise.
            photos: Number of photos.

        Returns:
            (photos, 3, height, width) float32.
        """
        legal = self.network.variant.legal_size
        noise = torch.rand(photos, 3, legal(height), legal(width), generator=torch.Generator().manual_seed(0))
        return 240 * noise - 120


def write_onnx(graph: ExportGraph, path: Path) -> None:
    """Write a network as ONNX in fp32.

    Args:
        graph: What to write.
        path: File ending in .onnx.
    """
    import_quietly("onnxscript")
    with silenced_exporters():
        program = torch.onnx.export(
            graph,
            (graph.example(60, 90, 2),),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["batch"],
            output_names=["scores"],
            dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
        )
        assert program is not None
        # Legal sizes need no rounding, and OpenVINO understands ceil_mode differently at other sizes.
        for node in program.model.graph:
            if node.op_type == "MaxPool":
                node.attributes.pop("ceil_mode", None)
        program.save(str(path))


def write_openvino(graph: ExportGraph, path: Path, batches: Sequence[np.ndarray] = ()) -> None:
    """Write a network for OpenVINO, in int8 if there are batches to calibrate it with.

    Args:
        graph: What to write.
        path: File ending in .xml; the weights are written beside it, ending in .bin.
        batches: Prepared batches (1, 3, H, W) float32 of legal size, on which the ranges of activations are
            measured. With none, the file is in fp32.
    """
    openvino = import_quietly("openvino")
    if batches:
        import_quietly(
            "nncf"
        )  # it sets the level of its logger when it is imported, so before that is silenced
    dynamic = torch.export.Dim.DYNAMIC
    with silenced_exporters():
        program = torch.export.export(
            graph,
            (graph.example(60, 90, 2),),
            dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
            strict=False,
        )
        model = openvino.convert_model(program)
        model.outputs[0].get_tensor().set_names({"scores"})
        # Legal sizes need no rounding, and only pools that round down work in int8.
        for node in model.get_ops():
            if node.get_type_name() == "MaxPool":
                node.set_attribute("rounding_type", "floor")
        if batches:
            model = _quantized(model, batches)
        openvino.save_model(model, path, compress_to_fp16=False)


def _quantized(model: Any, batches: Sequence[np.ndarray]) -> Any:
    """An OpenVINO model in int8, except for its first and last convolutions."""
    nncf = import_quietly("nncf")
    return nncf.quantize(
        model,
        nncf.Dataset(batches),
        subset_size=len(batches),
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        ignored_scope=nncf.IgnoredScope(names=_outer_convolutions(model)),
    )


def _outer_convolutions(model: Any) -> list[str]:
    """Names of the convolutions of an OpenVINO model on the photo, and of those whose sums are the scores."""
    convolutions = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    names = {
        node.get_friendly_name()
        for node in convolutions
        if node.input_value(0).get_node().get_type_name() == "Parameter"
    }
    pending = [output.get_node() for output in model.outputs]
    while pending:
        node = pending.pop()
        if node.get_type_name() == "Convolution":
            names.add(node.get_friendly_name())
        else:
            pending += [value.get_node() for value in node.input_values()]
    return sorted(names)


@contextmanager
def silenced_exporters() -> Iterator[None]:
    """Silence the exporters' warnings and log messages, which do not concern the caller."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "nncf")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
