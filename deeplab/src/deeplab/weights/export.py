"""A network as a file for other programs: ONNX, or OpenVINO in fp32 or int8, with the card beside it."""

from __future__ import annotations

import copy
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from deeplab.network.architecture import PLAIN_OFFSET, PLAIN_TRUNK, DeepLab, Variant
from deeplab.network.preprocessing import Preparation, pad_to_legal, prepare
from deeplab.optional import import_quietly, require
from deeplab.photos import PHOTO_ENDINGS, read_photo
from deeplab.weights.exported import FORMATS, open_exported
from deeplab.weights.store import Card, card_path, read_card

TOLERANCE = 1e-4  # of scores, beside the largest of them, between torch and a file in fp32
CALIBRATION_PHOTOS = 32
CALIBRATION_SIDE = 513  # pixels; longer photos are made smaller for calibration
CHECKED_PHOTOS = 8


@dataclass(frozen=True)
class Export:
    """What was written, and how close to torch it is."""

    file: Path
    int8: bool
    difference: float
    """Largest difference of a score from torch's, as a share of the largest score (or of 1, if that is
    more)."""
    agreement: float | None = None
    """Of int8: share of the positions of the score maps of some calibration photos that get torch's label."""

    def summary(self) -> str:
        """One line for people."""
        if self.agreement is None:
            return f"scores as torch's but for {self.difference:.0e} of the largest"
        return f"int8, {100 * self.agreement:.2f} % of the labels of calibration photos as torch's"


def export(
    network: DeepLab, card: Card, out: str | Path, *, to: str, calibrate: Path | None = None
) -> Export:
    """Write a network as ONNX or OpenVINO and its card beside it, each whole or not at all, and compare it
    with torch.

    The file takes a prepared batch (B, 3, H, W) float32 of any B and of any legal size
    (``Variant.legal_size``), and gives class scores at stride 8, as ``DeepLab.forward`` does; of the
    multi-scale variants, whose maps have several strides, it gives scores at every pixel, as
    ``DeepLab.full_scores`` does. ``load(weights=out)`` does all the rest.

    Args:
        network: to export; it stays as it is.
        card: that belongs to it.
        out: the file to write, ending in .onnx or .xml (with .bin beside it); the card goes beside it as
            .json.
        to: "onnx" or "openvino".
        calibrate: for OpenVINO, a folder of photos like those to be labelled: weights and activations become
            int8, with ranges found on at most ``CALIBRATION_PHOTOS`` of them. The first and last convolutions
            stay as they are.

    Returns:
        What was written.

    Raises:
        ValueError: for another format, ending or a folder without photos, if other weights have their card
            where this one goes, or if the file does not give what torch gives; then nothing is written.
        ModuleNotFoundError: if an extra is missing; says how to get it.

    Source: int8 after training as in Jacob et al., arXiv 1712.05877, by NNCF.
    """
    out = Path(out)
    require_sense(out, to, int8=calibrate is not None)
    noted = _noted(card, out, to, network.variant, int8=calibrate is not None)
    photos = [] if calibrate is None else calibration_photos(calibrate)
    if photos:
        import_quietly("nncf")  # which sets its logger's level when it is loaded, so before it is silenced
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        aside, graph = Path(folder) / out.name, _Graph(network)
        with _silence():
            if to == "onnx":
                _write_onnx(graph, aside)
            else:
                _write_openvino(
                    graph, aside, [batch_of(photo, card.preparation, network.variant) for photo in photos]
                )
        report = _compared(graph, card, aside, photos)
        if not report.int8 and report.difference > TOLERANCE:
            raise ValueError(
                f"{out}: not written, as its scores differ from torch's by {report.difference:.1e} of the largest, "
                f"wanted at most {TOLERANCE}; please report this with the versions of torch and of the exporter"
            )
        card_path(aside).write_text(
            json.dumps(asdict(noted), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        _move(aside, out)
    return replace(report, file=out)


def require_sense(out: Path, to: str, *, int8: bool) -> None:
    """Refuse at once what cannot be exported, before a network is loaded; errors as of ``export``."""
    if to not in FORMATS:
        raise ValueError(f"got format {to!r}, wanted one of: {', '.join(FORMATS)}")
    if out.suffix != FORMATS[to]:
        raise ValueError(f"got {out}, wanted a file ending in {FORMATS[to]} for {to}")
    if int8 and to != "openvino":
        raise ValueError(f"got int8 for {to}, wanted openvino, whose int8 is measured")
    for module in ("onnx", "onnxscript", "onnxruntime") if to == "onnx" else ("openvino", *["nncf"] * int8):
        require(module)


def calibration_photos(folder: Path) -> list[np.ndarray]:
    """At most ``CALIBRATION_PHOTOS`` photos of a folder and its subfolders, spread evenly over their sorted
    names.

    Returns:
        Each (H, W, 3) uint8, neither side longer than ``CALIBRATION_SIDE``.

    Raises:
        ValueError: if there are none; PhotoError if one cannot be used.
    """
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in PHOTO_ENDINGS and file.is_file() and not file.name.startswith(".")
    ]
    if not files:
        raise ValueError(
            f"{folder}: no photos to calibrate with; wanted a folder of some like those to be labelled"
        )
    count = min(len(files), CALIBRATION_PHOTOS)
    photos = [Image.fromarray(read_photo(files[number * len(files) // count])) for number in range(count)]
    for photo in photos:
        photo.thumbnail((CALIBRATION_SIDE, CALIBRATION_SIDE))
    return [np.asarray(photo) for photo in photos]


def batch_of(photo: np.ndarray, preparation: Preparation, variant: Variant) -> np.ndarray:
    """A photo (H, W, 3) uint8 as the exported graph takes it: (1, 3, H', W') float32, prepared, of legal
    size."""
    return pad_to_legal(prepare(photo, preparation), variant).numpy()


class _Graph(nn.Module):
    """What is exported."""

    def __init__(self, network: DeepLab):
        super().__init__()
        self.network = copy.deepcopy(network).cpu().float().eval()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        if self.network.variant.multi_scale:
            return self.network.full_scores(batch)
        scores: torch.Tensor = self.network(batch)
        return scores

    def example(self, height: int, width: int, photos: int) -> torch.Tensor:
        """A batch of legal size in the range of prepared photos, the same in every run."""
        legal = self.network.variant.legal_size
        noise = torch.rand(photos, 3, legal(height), legal(width), generator=torch.Generator().manual_seed(0))
        return 240 * noise - 120


def _write_onnx(graph: _Graph, path: Path) -> None:
    import_quietly("onnxscript")
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
    for node in (
        program.model.graph
    ):  # at legal sizes nothing is rounded; elsewhere OpenVINO reads the rule otherwise
        if node.op_type == "MaxPool":
            node.attributes.pop("ceil_mode", None)
    program.save(str(path))


def _write_openvino(graph: _Graph, path: Path, batches: Sequence[np.ndarray]) -> None:
    openvino = import_quietly("openvino")
    free = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        graph, (graph.example(60, 90, 2),), dynamic_shapes=({0: free, 2: free, 3: free},), strict=False
    )
    model = openvino.convert_model(program)
    model.outputs[0].get_tensor().set_names({"scores"})
    for (
        node
    ) in model.get_ops():  # at legal sizes nothing is rounded, and only pools that round down work in int8
        if node.get_type_name() == "MaxPool":
            node.set_attribute("rounding_type", "floor")
    if batches:
        nncf = import_quietly("nncf")
        model = nncf.quantize(
            model,
            nncf.Dataset(batches),
            subset_size=len(batches),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            ignored_scope=nncf.IgnoredScope(names=_outer_convolutions(model)),
        )
    openvino.save_model(model, path, compress_to_fp16=False)


def _outer_convolutions(model: Any) -> list[str]:
    """Names of the convolutions of an OpenVINO model that see the photo, and of those whose sums are the
    scores."""
    convolutions = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    names = {
        node.get_friendly_name()
        for node in convolutions
        if node.input_value(0).get_node().get_type_name() == "Parameter"
    }
    above = [output.get_node() for output in model.outputs]
    while above:
        node = above.pop()
        if node.get_type_name() == "Convolution":
            names.add(node.get_friendly_name())
        else:
            above += [value.get_node() for value in node.input_values()]
    return sorted(names)


@torch.inference_mode()
def _compared(graph: _Graph, card: Card, path: Path, photos: Sequence[np.ndarray]) -> Export:
    """The written file beside torch: on a batch of another shape than it was traced with, and on photos."""
    variant, run = graph.network.variant, open_exported(path, card, precision="auto" if photos else "fp32")
    batch = graph.example(41, 77, 3)
    wanted = graph(batch)
    difference = float((run(batch) - wanted).abs().max() / wanted.abs().max().clamp(min=1))
    if not photos:
        return Export(path, False, difference)
    same = []
    for photo in photos[:CHECKED_PHOTOS]:
        shown = torch.from_numpy(batch_of(photo, card.preparation, variant))
        same.append((run(shown).argmax(1) == graph(shown).argmax(1)).float().mean())
    return Export(path, True, difference, float(torch.stack(same).mean()))


def _noted(card: Card, out: Path, to: str, variant: Variant, *, int8: bool) -> Card:
    """The card with a note on this file; a card that other files beside share keeps theirs."""
    exports: dict[str, Any] = {}
    place = card_path(out)
    others = [place.with_suffix(ending) for ending in (".safetensors", *FORMATS.values())]
    others = [file for file in others if file != out and file.is_file()]
    if place.is_file() and others:
        found = read_card(place)
        if _plain(found) != _plain(card):
            raise ValueError(
                f"{place} is the card of {others[0].name}, another network; wanted another name than {out}"
            )
        exports = dict(found.provenance.get("exports", {}))
    step = 16 if variant.trunk == PLAIN_TRUNK else 8
    scores = "at every pixel" if variant.multi_scale else "at stride 8, upsampled with corners aligned"
    if variant.trunk == PLAIN_TRUNK:
        scores += f", of which the photo begins at row and column {PLAIN_OFFSET}"
    exports[out.name] = {
        "format": to,
        "numbers": "int8, first and last convolutions fp32" if int8 else "fp32",
        "input": f"batch (B, 3, H, W) float32, prepared; H and W of {step}m + {variant.legal_size(1)}",
        "output": f"scores (B, {len(card.class_names)}, h, w) float32 {scores}",
    }
    return replace(card, provenance=card.provenance | {"exports": exports})


def _plain(card: Card) -> Any:
    """What two cards must share to be of the same network, notes on exported files aside."""
    provenance = {key: value for key, value in card.provenance.items() if key != "exports"}
    return json.loads(json.dumps(asdict(replace(card, provenance=provenance))))


def _move(aside: Path, out: Path) -> None:
    """Move a file and what lies beside it into place, the file itself last: nobody finds it without the
    rest."""
    files = sorted(aside.parent.iterdir(), key=lambda file: file.name == aside.name)
    for file in files:
        with open(file, "rb+") as written:
            os.fsync(written.fileno())
    if len(files) > 2:  # an old .xml must not meet a new .bin
        out.unlink(missing_ok=True)
    for file in files:
        os.replace(file, out.with_name(file.name))


@contextmanager
def _silence() -> Iterator[None]:
    """Without the exporters' warnings of what is none of the caller's business."""
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
