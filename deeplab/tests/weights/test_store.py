import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

import deeplab
from deeplab.classes import VOC_CLASSES
from deeplab.network.architecture import build
from deeplab.weights.store import Card, load_weights, save_weights


@pytest.fixture(scope="module")
def saved(tmp_path_factory, network):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_weights(
        path,
        network,
        Card("deeplab-largefov", VOC_CLASSES, crf={"appearance_weight": 4.0}, provenance={"a": 1}),
    )
    return path


def test_round_trip(saved, network):
    loaded, card = load_weights(saved)
    assert not loaded.training
    assert card == Card("deeplab-largefov", VOC_CLASSES, crf={"appearance_weight": 4.0}, provenance={"a": 1})
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float())
    assert deeplab.load(weights=saved).crf_params.appearance_weight == 4


def test_nothing_is_left_beside(saved):
    assert sorted(path.name for path in saved.parent.iterdir()) == ["net.json", "net.safetensors"]


def _spoiled(saved, folder, change):
    tensors = load_file(saved)
    change(tensors)
    save_file(tensors, folder / "net.safetensors")
    (folder / "net.json").write_text(saved.with_suffix(".json").read_text())
    return folder / "net.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("fc6.bias"), r"lacks \['fc6.bias'\]"),
        (lambda t: t.update(extra=torch.zeros(2)), r"has also \['extra'\]"),
        (lambda t: t.update({"fc8.bias": torch.zeros(5)}), r"fc8.bias is \(5,\), wanted \(21,\)"),
        (lambda t: t["fc7.bias"].fill_(float("nan")), "NaN or infinite"),
    ],
)
def test_wrong_tensors_are_named(saved, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_weights(_spoiled(saved, tmp_path, change))


def test_files_that_are_no_weights(saved, tmp_path):
    card = saved.with_suffix(".json").read_text()
    path = tmp_path / "net.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no file .*net.safetensors"):
        load_weights(path)
    path.write_bytes(pickle.dumps({"fc8.bias": 1}))
    with pytest.raises(FileNotFoundError, match=r"no file .*net.json"):
        load_weights(path)
    (tmp_path / "net.json").write_text(card)
    for content in (pickle.dumps({"fc8.bias": 1}), b"", saved.read_bytes()[:1_000_000], b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            load_weights(path)


@pytest.mark.parametrize(
    "card", ["", "{}", "[]", '{"variant": "x", "class_names": ["a"], "preparation": {"mean": [1]}}', "\x00"]
)
def test_cards_that_say_nothing(saved, tmp_path, card):
    (tmp_path / "net.safetensors").write_bytes(b"")
    (tmp_path / "net.json").write_text(card)
    with pytest.raises(ValueError, match="not a card"):
        load_weights(tmp_path / "net.safetensors")


def test_card_of_another_network(saved, tmp_path):
    card = json.loads(saved.with_suffix(".json").read_text()) | {"variant": "deeplab-v9"}
    (tmp_path / "net.json").write_text(json.dumps(card))
    (tmp_path / "net.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="wanted one of: deeplab, deeplab-4x4"):
        load_weights(tmp_path / "net.safetensors")


def test_card_with_other_crf_parameters(network):
    with pytest.raises(ValueError, match="'w1'"):
        deeplab.Model(network, Card("deeplab-largefov", VOC_CLASSES, crf={"w1": 4}))


@pytest.fixture(scope="module")
def on_a_base(saved):
    """A multi-scale network whose trunk is that of the saved weights, in a file of what differs."""
    network = build("deeplab-msc-largefov")
    network.load_state_dict(load_weights(saved)[0].state_dict(), strict=False)
    path = saved.with_name("msc.safetensors")
    save_weights(path, network, Card("deeplab-msc-largefov", VOC_CLASSES, base=saved.name))
    return path, network


def test_weights_that_share_tensors_with_a_base_hold_only_what_differs(on_a_base, tmp_path):
    path, network = on_a_base
    assert all(name.startswith("branches.") for name in load_file(path))
    loaded, card = load_weights(path)
    assert card.base == ""
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float())
    save_weights(tmp_path / "whole.safetensors", loaded, card)  # needs no base any more
    assert set(load_file(tmp_path / "whole.safetensors")) == set(network.state_dict())


def test_a_base_that_is_missing_or_elsewhere_is_named(on_a_base, tmp_path):
    path, _ = on_a_base
    (tmp_path / "msc.safetensors").write_bytes(path.read_bytes())
    card = json.loads(path.with_suffix(".json").read_text())
    (tmp_path / "msc.json").write_text(json.dumps(card))
    with pytest.raises(
        FileNotFoundError, match=r"no file .*net.safetensors; msc.safetensors has only what differs"
    ):
        load_weights(tmp_path / "msc.safetensors")
    for base in ("../net.safetensors", str(path.with_name("net.safetensors")), "msc.safetensors"):
        (tmp_path / "msc.json").write_text(json.dumps(card | {"base": base}))
        with pytest.raises(ValueError, match="wanted the name of another file beside it"):
            load_weights(tmp_path / "msc.safetensors")
