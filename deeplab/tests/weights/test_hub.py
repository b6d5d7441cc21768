import json
import sys

import pytest

import deeplab
from deeplab.cli import main
from deeplab.weights.hub import fetch

hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A machine without network and with an empty cache."""

    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "hf_hub_download", refuse)


@pytest.fixture
def repositories(monkeypatch, tmp_path):
    """A folder that stands for the hub."""

    def download(repository, file):
        path = tmp_path / repository / file
        if not path.is_file():
            raise FileNotFoundError(f"404: {path.name}")
        return str(path)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    return tmp_path


def test_offline_the_error_says_how_to_get_the_file(offline, capsys):
    with pytest.raises(
        ConnectionError, match=r"resolve/main/model\.safetensors and give its path as weights"
    ) as caught:
        deeplab.load("deeplab-largefov", weights="imagenet")
    assert "timm/vgg16.tv_in1k" in str(caught.value)
    assert "no route to host" in str(caught.value)
    assert main(["segment", "x.jpg", "--weights", "hf-hub:someone/net"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_without_huggingface_hub(monkeypatch, model):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'deeplab-crf\[hub\]'"):
        fetch("timm/vgg16.tv_in1k", "model.safetensors")


def test_published_weights_can_be_loaded(model, repositories, monkeypatch):
    uploaded = {}

    class Api:
        def __init__(self, **_):
            pass

        def create_repo(self, repo_id, **_):
            return type("Repo", (), {"repo_id": repo_id})()

        def upload_folder(self, repo_id, folder_path, **_):
            for path in sorted(folder_path.iterdir()):
                uploaded[path.name] = path.read_bytes()
                target = repositories / repo_id / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
            return "https://example.org/commit/1"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert model.push_to_hub("someone/net") == "https://example.org/commit/1"
    assert {"model.safetensors", "model.json", "README.md"} <= set(uploaded)
    readme = uploaded["README.md"].decode()
    assert "aeroplane, bicycle" in readme
    assert "library_name: deeplab-crf" in readme
    again = deeplab.load(weights="hf-hub:someone/net")
    assert again.card == model.card
    for name, value in again.network.state_dict().items():
        assert (value == model.network.state_dict()[name].half().float()).all()


def test_invalid_hub_names(repositories):
    with pytest.raises(ValueError, match="wanted hf-hub:owner/name"):
        deeplab.load(weights="hf-hub:nobody")
    with pytest.raises(ConnectionError, match="404"):
        deeplab.load(weights="hf-hub:no/body")


def test_save_writes_weights_and_card(model, tmp_path):
    model.save(tmp_path / "net.safetensors")
    card = json.loads((tmp_path / "net.json").read_text())
    assert card["preparation"] == {
        "channels": "BGR",
        "mean": [103.939, 116.779, 123.68],
        "scale": [1.0, 1.0, 1.0],
    }
    assert deeplab.load(weights=tmp_path / "net.safetensors").card == model.card
