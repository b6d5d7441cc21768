import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

import deeplab
from deeplab.cli import main
from deeplab.commands.export import Export
from deeplab.commands.export import export as command
from deeplab.model.segmentation import Model
from deeplab.network.architecture import VARIANTS
from deeplab.optional import import_quietly
from deeplab.weights import exported, exporter
from deeplab.weights.exporter import calibration_photos, export
from deeplab.weights.store import Card, read_card, save_weights

MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime", "openvino") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"needs {MISSING}: pip install 'deeplab-crf[export,openvino]'"
)
NAMES = ("background", "cat", "dog")
KINDS = [("deeplab", "onnx"), ("deeplab-largefov", "openvino")]  # each format, each trunk
ONE = {"onnx": "deeplab", "openvino": "deeplab-largefov"}


@pytest.fixture(scope="module")
def written(narrow, tmp_path_factory):
    """Exports a narrow network once: its model in torch, and the file."""
    exports = {}

    def make(variant, to):
        if (variant, to) not in exports:
            network = narrow(variant)
            network.variant = VARIANTS[variant]  # for its sizes and its offset; the layers stay narrow
            card = Card(variant, NAMES, crf={"appearance_weight": 4.0}, provenance={"data": "none"})
            path = tmp_path_factory.mktemp(variant) / f"net{exported.FORMATS[to]}"
            report = export(network, card, path, to=to)
            assert report.file == path
            assert report.difference <= 1e-4
            assert not report.int8
            exports[variant, to] = Model(network, card, precision="fp32"), path
        return exports[variant, to]

    return make


def batch_of(network, height, width, photos=1):
    legal = network.variant.legal_size
    return (
        200 * torch.rand(photos, 3, legal(height), legal(width), generator=torch.Generator().manual_seed(1))
        - 100
    )


def close(found, wanted):
    return found.shape == wanted.shape and float((found - wanted).abs().max()) <= 1e-4 * max(
        1, float(wanted.abs().max())
    )


@pytest.mark.parametrize(("variant", "to"), KINDS)
def test_scores_are_those_of_torch_at_any_size(written, variant, to):
    model, path = written(variant, to)
    exported_network = deeplab.load(weights=path, precision="fp32").predictor.network
    for photos, height, width in ((1, 45, 70), (3, 97, 20), (2, 1, 50)):
        batch = batch_of(model.network, height, width, photos)
        with torch.inference_mode():
            assert close(exported_network(batch), model.network(batch))
            assert close(exported_network.full_scores(batch), model.network.full_scores(batch))


def test_multi_scale_networks_give_scores_at_every_pixel(written):
    model, path = written("deeplab-msc-largefov", "openvino")
    exported_network = deeplab.load(weights=path, precision="fp32").predictor.network
    batch = batch_of(model.network, 30, 50, 2)
    with torch.inference_mode():
        wanted = model.network.full_scores(batch)
        assert exported_network(batch).shape == (2, 3, 33, 57)
        assert close(exported_network(batch), wanted)
        assert close(exported_network.full_scores(batch), wanted)


@pytest.mark.parametrize(("variant", "to"), KINDS)
def test_a_model_of_an_exported_file_labels_as_torch_does(written, variant, to, photo):
    model, path = written(variant, to)
    loaded = deeplab.load(weights=str(path), precision="fp32")
    assert (loaded.class_names, loaded.crf_params) == (NAMES, model.crf_params)
    for options in ({}, {"scales": (0.5, 1.3), "mirror": True}, {"tile": 40}):
        found = loaded.segment(photo, crf=False, **options)
        wanted = model.segment(photo, crf=False, **options)
        assert found.probabilities.shape == (3, 45, 70)
        assert np.abs(found.probabilities - wanted.probabilities).max() < 1e-4
    refined = loaded.segment(photo)
    assert (refined.labels == model.segment(photo).labels).mean() > 0.999
    many = list(loaded.segment_many([photo, photo[:, ::-1], photo], crf=False))
    assert [result.labels.shape for result in many] == [(45, 70)] * 3
    assert np.allclose(many[0].probabilities, loaded.segment(photo, crf=False).probabilities, atol=1e-5)


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_threads_may_run_it_at_once(written, to):
    model, path = written(ONE[to], to)
    exported_network = deeplab.load(weights=path, precision="fp32").predictor.network
    batches = [batch_of(model.network, 20 + 9 * n, 60) for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(exported_network, batches))
    assert all(
        torch.equal(scores, exported_network(batch)) for scores, batch in zip(found, batches, strict=True)
    )


def test_openvino_in_bfloat16_is_near_or_refused(written):
    model, path = written("deeplab-largefov", "openvino")
    available = exported.openvino_precisions()
    assert {"FP32", "INT8"} <= set(available)
    if "BF16" not in available:
        assert deeplab.load(weights=path).predictor.dtype == torch.float32
        with pytest.raises(ValueError, match=r"net\.xml: got precision 'bf16'.* this one has FP32"):
            deeplab.load(weights=path, precision="bf16")
        return
    predictor = deeplab.load(weights=path, precision="bf16").predictor
    batch = batch_of(model.network, 45, 70)
    with torch.inference_mode():
        wanted = model.network(batch)
    assert predictor.dtype == torch.bfloat16
    assert (predictor.network(batch) - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_openvino_reads_the_onnx_file_alike(written):
    model, path = written("deeplab", "onnx")
    openvino = import_quietly("openvino")
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert [port.any_name for port in (*compiled.inputs, *compiled.outputs)] == ["batch", "scores"]
    batch = batch_of(model.network, 45, 70, 2)
    with torch.inference_mode():
        assert close(torch.from_numpy(compiled(batch.numpy())[0]), model.network(batch))


def test_the_card_says_what_the_file_is(written):
    _, path = written("deeplab", "onnx")
    raw = json.loads(path.with_suffix(".json").read_text())
    assert raw["variant"] == "deeplab"
    assert raw["class_names"] == list(NAMES)
    assert raw["provenance"]["data"] == "none"
    note = raw["provenance"]["exports"]["net.onnx"]
    assert note["format"] == "onnx"
    assert note["numbers"] == "fp32"
    assert "16m + 2" in note["input"]
    assert "(B, 3, h, w)" in note["output"]
    assert "row and column 7" in note["output"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["net.json", "net.onnx"]
    _, path = written("deeplab-largefov", "openvino")
    note = json.loads(path.with_suffix(".json").read_text())["provenance"]["exports"]["net.xml"]
    assert note["format"] == "openvino"
    assert "8m + 1" in note["input"]
    assert "row and column" not in note["output"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["net.bin", "net.json", "net.xml"]


def test_other_weights_keep_their_card(narrow, tmp_path):
    network, card = narrow("deeplab-largefov"), Card("deeplab-largefov", NAMES, provenance={"data": "none"})
    save_weights(tmp_path / "net.safetensors", network, card)
    with pytest.raises(ValueError, match=r"net\.json is the card of net\.safetensors, another network"):
        export(network, Card("deeplab-largefov", ("a", "b", "c")), tmp_path / "net.xml", to="openvino")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.json", "net.safetensors"]
    assert read_card(tmp_path / "net.json") == card


def test_a_file_that_differs_from_torch_is_not_written(narrow, tmp_path, monkeypatch):
    def open_shifted(*arguments, **options):
        opened = exported.open_exported(*arguments, **options)
        return replace(opened, run=lambda batch: opened.run(batch) + 1)

    monkeypatch.setattr(exporter, "open_exported", open_shifted)
    out = tmp_path / "net.xml"
    out.write_text("old")
    with pytest.raises(ValueError, match="not written, as its scores differ from torch's"):
        export(narrow("deeplab-largefov"), Card("deeplab-largefov", NAMES), out, to="openvino")
    assert [file.name for file in tmp_path.iterdir()] == ["net.xml"]
    assert out.read_text() == "old"


@pytest.mark.parametrize(
    ("out", "to", "int8", "message"),
    [
        ("net.onnx", "tflite", False, "got format 'tflite', wanted one of: onnx, openvino"),
        ("net.xml", "onnx", False, r"wanted a file ending in \.onnx"),
        ("net.bin", "openvino", False, r"wanted a file ending in \.xml"),
        ("net.onnx", "onnx", True, "got int8 for onnx"),
    ],
)
def test_invalid_export_options(narrow, tmp_path, out, to, int8, message):
    with pytest.raises(ValueError, match=message):
        export(
            narrow("deeplab-largefov"),
            Card("deeplab-largefov", NAMES),
            tmp_path / out,
            to=to,
            calibrate=tmp_path if int8 else None,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "out", "extra"),
    [
        ("onnxscript", "net.onnx", "export"),
        ("openvino", "net.xml", "openvino"),
        ("nncf", "net.xml", "openvino"),
    ],
)
def test_a_missing_extra_is_one_line(tmp_path, monkeypatch, missing, out, extra):
    monkeypatch.setitem(sys.modules, missing, None)
    int8 = missing == "nncf"
    options = Export(
        "onnx" if out == "net.onnx" else "openvino",
        tmp_path / out,
        int8=int8,
        calibrate=tmp_path if int8 else None,
    )
    with pytest.raises(
        ModuleNotFoundError, match=rf"^{missing} is not installed: pip install 'deeplab-crf\[{extra}\]'$"
    ):
        command(options)


@pytest.mark.parametrize(("to", "missing"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_extra_to_run_a_file_is_one_line(written, monkeypatch, photo_file, capsys, to, missing):
    _, path = written(ONE[to], to)
    monkeypatch.setitem(sys.modules, missing, None)
    assert (
        main(["segment", str(photo_file), "--out", str(photo_file.parent / "out"), "--weights", str(path)])
        == 1
    )
    error = capsys.readouterr().err
    assert error.startswith(f"deeplab: error: {missing} is not installed: pip install 'deeplab-crf[")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "deeplab-msc"}, "got weights of deeplab, wanted deeplab-msc"),
        ({"compile": True}, "torch cannot compile"),
        ({"device": "cuda"}, "got device 'cuda'"),
        ({"precision": "bf16"}, "ONNX Runtime computes in fp32"),
        ({"precision": "fp8"}, "got precision 'fp8'"),
    ],
)
def test_options_that_exported_files_do_not_have(written, options, message):
    _, path = written("deeplab", "onnx")
    with pytest.raises(ValueError, match=message):
        deeplab.load(**({"weights": path} | options))


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_errors_of_damaged_files_are_one_line(written, tmp_path, to):
    _, path = written(ONE[to], to)
    copy = tmp_path / path.name
    for file in path.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = json.loads(path.with_suffix(".json").read_text())
    copy.with_suffix(".json").write_text(json.dumps(card | {"class_names": ["a", "b"]}))
    with pytest.raises(ValueError, match=r"channels in and out \(3, 3\), wanted \(3, 2\)"):
        deeplab.load(weights=copy)
    copy.with_suffix(".json").write_text(json.dumps(card | {"variant": "unet"}))
    with pytest.raises(ValueError, match="its card names variant 'unet'"):
        deeplab.load(weights=copy)
    copy.with_suffix(".json").write_text(json.dumps(card))
    copy.write_bytes(copy.read_bytes()[:500])
    with pytest.raises(ValueError, match="not an exported network that can be run") as caught:
        deeplab.load(weights=copy)
    assert "\n" not in str(caught.value)
    missing = copy if to == "onnx" else copy.with_suffix(".bin")
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=f"no file .*{missing.name}"):
        deeplab.load(weights=copy)
    copy.write_bytes(path.read_bytes())
    copy.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*net\.json"):
        deeplab.load(weights=copy)


def test_an_exported_model_only_segments(written, tmp_path):
    _, path = written("deeplab", "onnx")
    model = deeplab.load(weights=path)
    for work in (lambda: model.save(tmp_path / "a.safetensors"), lambda: model.replace_classes(("a", "b"))):
        with pytest.raises(ValueError, match=r"net\.onnx: an exported network, which can only label photos"):
            work()
    assert list(tmp_path.iterdir()) == []


def test_from_weights_to_labels_by_commands(narrow, photo_file, tmp_path, capsys, monkeypatch):
    card = Card("deeplab-largefov", NAMES, provenance={"data": "none"})
    model = Model(narrow("deeplab-largefov"), card, precision="fp32")
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    save_weights(tmp_path / "net.safetensors", model.network, card)
    # A narrow network cannot be loaded from a file.
    monkeypatch.setattr("deeplab.commands.export.load_model", lambda options: model)
    out = tmp_path / "net.xml"
    state = torch.get_rng_state()
    out.write_text("old")
    assert command(Export("openvino", out)) == 0
    report = f"{out}, card {tmp_path / 'net.json'}: scores differ from torch's by at most"
    assert report in capsys.readouterr().out
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())
    shared = read_card(tmp_path / "net.json")  # the card of the weights and of the exported file
    assert list(shared.provenance) == ["data", "exports"]
    assert replace(shared, provenance=card.provenance) == card
    results = tmp_path / "out"
    arguments = [
        "--weights",
        str(out),
        "--precision",
        "fp32",
        "--scales",
        "1",
        "0.75",
        "--mirror",
        "--no-crf",
    ]
    assert main(["segment", str(photo_file), "--out", str(results), *arguments]) == 0
    with Image.open(results / "photo.png") as ids:
        wanted = model.segment(photo_file, crf=False, scales=(1, 0.75), mirror=True).labels
        assert (np.asarray(ids) == wanted).mean() > 0.999


def test_the_command_needs_photos_for_int8(tmp_path):
    for options, message in (
        (Export("openvino", tmp_path / "net.xml", int8=True), "--int8 needs --calibrate DIR"),
        (Export("openvino", tmp_path / "net.xml", calibrate=tmp_path), "--calibrate without --int8"),
    ):
        with pytest.raises(ValueError, match=message):
            command(options)
    with pytest.raises(FileNotFoundError, match="no folder"):
        command(Export("openvino", tmp_path / "net.xml", int8=True, calibrate=tmp_path / "none"))


def test_photos_to_calibrate_with(tmp_path):
    with pytest.raises(ValueError, match="no photos to calibrate with"):
        calibration_photos(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "notes.txt").write_text("not a photo")
    for number in range(70):
        Image.new("RGB", (3, 2), (number, 0, 0)).save(tmp_path / f"{number:02}.png")
    Image.new("RGB", (1026, 200), (90, 0, 0)).save(tmp_path / "deep" / "long.png")
    photos = calibration_photos(tmp_path)
    assert len(photos) == 32
    assert [int(photo[0, 0, 0]) for photo in photos[:4]] == [0, 2, 4, 6]  # every 71/32nd of 71 photos
    Image.new("RGB", (1026, 200), (90, 0, 0)).save(tmp_path / "00.png")
    assert calibration_photos(tmp_path)[0].shape == (100, 513, 3)


@pytest.fixture(scope="module")
def in_int8(narrow, tmp_path_factory):
    """A narrow network in int8, and its model in torch."""
    if find_spec("nncf") is None:
        pytest.skip("needs nncf: pip install 'deeplab-crf[openvino]'")
    folder = tmp_path_factory.mktemp("int8")
    rng = np.random.default_rng(0)
    for number in range(4):
        blocks = np.kron(rng.integers(0, 256, (5, 7, 3)), np.ones((9, 10, 1))).astype(np.uint8)
        Image.fromarray(blocks).save(folder / f"{number}.png")
    network, card = narrow("deeplab-largefov", channels=16), Card("deeplab-largefov", NAMES)
    report = export(network, card, folder / "net.xml", to="openvino", calibrate=folder)
    return Model(network, card, precision="fp32"), report, folder


def test_int8_labels_nearly_as_torch_does(in_int8):
    model, report, folder = in_int8
    assert report.int8
    assert report.agreement > 0.9
    assert "int8" in report.summary()
    loaded = deeplab.load(weights=folder / "net.xml", precision="fp32")
    same = []
    for file in sorted(folder.glob("*.png")):
        same.append((loaded.segment(file, crf=False).labels == model.segment(file, crf=False).labels).mean())
    assert np.mean(same) > 0.9
    assert loaded.card.provenance["exports"]["net.xml"]["numbers"].startswith("int8")


def test_int8_keeps_the_first_and_last_convolution(in_int8):
    _, _, folder = in_int8
    openvino = import_quietly("openvino")
    graph = openvino.Core().read_model(folder / "net.xml")
    convolutions = [node for node in graph.get_ordered_ops() if node.get_type_name() == "Convolution"]
    weights = [node.input_value(1).get_node() for node in convolutions]
    quantized = [node.get_type_name() == "Multiply" for node in weights]  # int8 weights times their scale
    assert quantized == [False, *[True] * 14, False]


def test_nothing_reports_over_the_network(written):
    written("deeplab-largefov", "openvino")
    assert sys.modules["openvino_telemetry"] is None
