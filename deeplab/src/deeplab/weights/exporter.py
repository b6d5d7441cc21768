"""Export of a network to a file for other programs, ONNX or OpenVINO, with the card beside it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from deeplab.network.architecture import DeepLab, Variant
from deeplab.network.preprocessing import Preparation, pad_to_legal, prepare
from deeplab.optional import require
from deeplab.photos import PHOTO_ENDINGS, read_photo
from deeplab.weights.export_formats import ExportGraph, write_onnx, write_openvino
from deeplab.weights.exported import FORMATS, open_exported
from deeplab.weights.store import Card, card_path, read_card

TOLERANCE = 1e-4  # of scores in fp32: allowed difference from torch's, as a share of the largest score
CALIBRATION_PHOTOS = 32
CALIBRATION_SIDE = 513  # pixels; larger photos are reduced to it
CHECKED_PHOTOS = 8


@dataclass(frozen=True)
class Export:
    """An exported file, and how closely its results match those of torch."""

    file: Path
    """The file."""
    int8: bool
    """Whether weights and activations are int8."""
    difference: float
    """Largest difference of a score from torch's, relative to the largest score or to 1, if that is more."""
    agreement: float | None = None
    """For int8, the share of positions in the score maps of calibration photos that have torch's label."""

    def summary(self) -> str:
        """The report in one line."""
        if self.agreement is None:
            return f"scores differ from torch's by at most {self.difference:.0e} of the largest"
        return f"int8, {100 * self.agreement:.2f} % of the labels of calibration photos as torch's"


def export(
    network: DeepLab, card: Card, out: str | Path, *, to: str, calibrate: Path | None = None
) -> Export:
    """Write a network as ONNX or OpenVINO with its card beside it, after a comparison with torch.

    The file takes a prepared batch (B, 3, H, W) float32 of any B and of any legal size
    (``Variant.legal_size``) and gives class scores at stride 8, as ``DeepLab.forward`` does. For multi-scale
    variants, whose maps have several strides, it gives scores at every pixel, as ``DeepLab.full_scores``
    does. ``load(weights=out)`` does the rest. File and card are written completely or not at all.

    Args:
        network: Network to export, which stays as it is.
        card: Card of the network.
        out: File to write, ending in .onnx or in .xml (the weights are then beside it in a .bin file). The
            card is written beside it, ending in .json.
        to: "onnx" or "openvino".
        calibrate: For OpenVINO, a folder of photos like those to be labelled. With it, weights and
            activations become int8, with ranges measured on at most ``CALIBRATION_PHOTOS`` of them; the first
            and last convolutions stay in fp32.

    Returns:
        What was written.

    Raises:
        ValueError: For another format or ending, or a folder without photos; if other weights have their card
            where this one would be written; or if the results differ from torch's. Nothing is written then.
        ModuleNotFoundError: If an extra is missing; says how to install it.

    Source: int8 after training as in Jacob et al., arXiv 1712.05877, by NNCF.
    """
    out = Path(out)
    int8 = calibrate is not None
    validate_export(out, to, int8=int8)
    new_card = _card_with_note(card, out, to, network.variant, int8=int8)
    photos = [] if calibrate is None else calibration_photos(calibrate)
    batches = [batch_of(photo, card.preparation, network.variant) for photo in photos]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        temporary = Path(folder) / out.name
        graph = ExportGraph(network)
        if to == "onnx":
            write_onnx(graph, temporary)
        else:
            write_openvino(graph, temporary, batches)
        report = _compare(graph, card, temporary, batches)
        if not report.int8 and report.difference > TOLERANCE:
            raise ValueError(
                f"{out}: not written, as its scores differ from torch's by {report.difference:.1e} of the "
                f"largest, wanted at most {TOLERANCE}; please report this with the versions of torch and of "
                "the exporter"
            )
        text = json.dumps(asdict(new_card), indent=2, ensure_ascii=False) + "\n"
        card_path(temporary).write_text(text, encoding="utf-8")
        _move(temporary, out)
    return replace(report, file=out)


def validate_export(out: Path, to: str, *, int8: bool) -> None:
    """Check the options of an export before a network is loaded.

    Args:
        out: File to write.
        to: "onnx" or "openvino".
        int8: Whether weights and activations become int8.

    Raises:
        ValueError: For an unknown format, another ending, or int8 for ONNX.
        ModuleNotFoundError: If an extra is missing; says how to install it.
    """
    if to not in FORMATS:
        raise ValueError(f"got format {to!r}, wanted one of: {', '.join(FORMATS)}")
    if out.suffix != FORMATS[to]:
        raise ValueError(f"got {out}, wanted a file ending in {FORMATS[to]} for {to}")
    if int8 and to != "openvino":
        raise ValueError(f"got int8 for {to}, wanted openvino, whose int8 is measured")
    for module in ("onnx", "onnxscript", "onnxruntime") if to == "onnx" else ("openvino", *["nncf"] * int8):
        require(module)


def calibration_photos(folder: Path) -> list[np.ndarray]:
    """Read photos from a folder and its subfolders, spread evenly over their sorted names.

    Args:
        folder: The folder.

    Returns:
        At most ``CALIBRATION_PHOTOS`` photos (H, W, 3) uint8, reduced to at most ``CALIBRATION_SIDE`` pixels.

    Raises:
        ValueError: If there are none, or (as ``PhotoError``) if one cannot be used.
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
    """Prepare a photo as the exported file takes it.

    Args:
        photo: (H, W, 3) uint8 in R, G, B.
        preparation: Preprocessing that belongs to the weights.
        variant: Network that the batch is for.

    Returns:
        (1, 3, H', W') float32 of legal size.
    """
    return pad_to_legal(prepare(photo, preparation), variant).numpy()


@torch.inference_mode()
def _compare(graph: ExportGraph, card: Card, path: Path, batches: Sequence[np.ndarray]) -> Export:
    """Compare a file with torch, on a batch of another shape than the example, and on batches of photos."""
    run = open_exported(path, card, precision="auto" if batches else "fp32")
    batch = graph.example(41, 77, 3)
    expected = graph(batch)
    difference = float((run(batch) - expected).abs().max() / expected.abs().max().clamp(min=1))
    if not batches:
        return Export(path, False, difference)
    agreements = []
    for array in batches[:CHECKED_PHOTOS]:
        photo = torch.from_numpy(array)
        agreements.append((run(photo).argmax(1) == graph(photo).argmax(1)).float().mean())
    return Export(path, True, difference, float(torch.stack(agreements).mean()))


def _card_with_note(card: Card, out: Path, to: str, variant: Variant, *, int8: bool) -> Card:
    """The card with a note on this file, and with the notes on other exports that share the card."""
    exports: dict[str, Any] = {}
    path = card_path(out)
    others = [path.with_suffix(ending) for ending in (".safetensors", *FORMATS.values())]
    others = [file for file in others if file != out and file.is_file()]
    if path.is_file() and others:
        present = read_card(path)
        if _without_notes(present) != _without_notes(card):
            raise ValueError(
                f"{path} is the card of {others[0].name}, another network; wanted another name than {out}"
            )
        exports = dict(present.provenance.get("exports", {}))
    exports[out.name] = _note(len(card.class_names), to, variant, int8=int8)
    return replace(card, provenance=card.provenance | {"exports": exports})


def _note(classes: int, to: str, variant: Variant, *, int8: bool) -> dict[str, str]:
    """The description of an exported file on its card."""
    step = 16 if variant.score_offset else 8
    scores = "at every pixel" if variant.multi_scale else "at stride 8, upsampled with corners aligned"
    if variant.score_offset:
        scores += f", of which the photo begins at row and column {variant.score_offset}"
    return {
        "format": to,
        "numbers": "int8, first and last convolutions fp32" if int8 else "fp32",
        "input": f"batch (B, 3, H, W) float32, prepared; H and W of {step}m + {variant.legal_size(1)}",
        "output": f"scores (B, {classes}, h, w) float32 {scores}",
    }


def _without_notes(card: Card) -> Any:
    """What two cards of the same network share: everything but the notes on exported files."""
    provenance = {key: value for key, value in card.provenance.items() if key != "exports"}
    return json.loads(json.dumps(asdict(replace(card, provenance=provenance))))


def _move(temporary: Path, out: Path) -> None:
    """Move a file and those beside it into place, itself last, so that it is never without the others."""
    files = sorted(temporary.parent.iterdir(), key=lambda file: file.name == temporary.name)
    for file in files:
        with open(file, "rb+") as written:
            os.fsync(written.fileno())
    if len(files) > 2:  # an old .xml must not be read with a new .bin
        out.unlink(missing_ok=True)
    for file in files:
        os.replace(file, out.with_name(file.name))
