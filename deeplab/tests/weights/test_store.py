import json
import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import deeplab
import densecrf
from deeplab.classes import VOC_CLASSES
from deeplab.network.architecture import build
from deeplab.weights.store import DEFAULT_CRF, Card, load_weights, read_card, save_weights


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


def test_no_other_files_are_left(saved):
    assert sorted(path.name for path in saved.parent.iterdir()) == ["net.json", "net.safetensors"]


def damaged(saved, folder, change):
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
        load_weights(damaged(saved, tmp_path, change))


def test_files_that_are_not_weights(saved, tmp_path):
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
def test_invalid_cards(saved, tmp_path, card):
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


@pytest.mark.parametrize("crf", [{}, None])
def test_cards_without_crf_parameters_have_those_of_the_release(narrow, photo, tmp_path, crf):
    card = Card("deeplab-largefov", ("a", "b", "c"))
    release = densecrf.Params(normalization="after")
    assert card.crf_params == DEFAULT_CRF == release
    path = tmp_path / "card.json"
    raw = {"variant": "deeplab-largefov", "class_names": ["a", "b", "c"], "preparation": {}}
    path.write_text(json.dumps(raw if crf is None else raw | {"crf": crf}))
    old_card = read_card(path)
    assert old_card.crf_params == release
    model = deeplab.Model(narrow("deeplab-largefov"), old_card, precision="fp32")
    assert model.crf_params == release
    plain = model.segment(photo, crf=False)
    wanted = densecrf.refine(photo, plain.probabilities, params=release)
    np.testing.assert_array_equal(model.segment(photo).probabilities, wanted)


def test_missing_crf_fields_have_the_default():
    card = Card("deeplab-largefov", VOC_CLASSES, crf={"appearance_weight": 4.0})
    assert card.crf_params == replace(DEFAULT_CRF, appearance_weight=4)


def test_saved_cards_name_their_crf_parameters(narrow, tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(path, narrow("deeplab-largefov"), Card("deeplab-largefov", ("a", "b", "c")))
    assert json.loads(path.with_suffix(".json").read_text())["crf"] == asdict(DEFAULT_CRF)


def test_the_story_of_old_cards_is_their_provenance(tmp_path):
    raw = {"variant": "deeplab-largefov", "class_names": ["a", "b"], "preparation": {}}
    for key in ("story", "provenance"):
        (tmp_path / "card.json").write_text(json.dumps(raw | {key: {"data": "VOC"}}))
        assert read_card(tmp_path / "card.json").provenance == {"data": "VOC"}


def test_card_with_unknown_crf_parameters(network):
    with pytest.raises(ValueError, match="'w1'"):
        deeplab.Model(network, Card("deeplab-largefov", VOC_CLASSES, crf={"w1": 4}))


@pytest.fixture(scope="module")
def on_a_base(saved):
    """A multi-scale network with the trunk of the saved weights, in a file of the other tensors."""
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
    save_weights(tmp_path / "whole.safetensors", loaded, card)  # a base is no longer needed
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
