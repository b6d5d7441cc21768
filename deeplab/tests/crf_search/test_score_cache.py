import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from deeplab.crf_search.score_cache import CachedScores, FileScores
from deeplab.datasets.opening import voc
from deeplab.files import check_settings
from deeplab.model.segmentation import Model
from deeplab.weights.store import Card
from search_scene import HEIGHT, WIDTH, make


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path)


def test_scores_of_a_file_by_hand(folder):
    content = dict(np.load(folder / "scores.npz"))
    content["logits_u8"][:] = 30
    content["logits_u8"][0, :, :, 8] = 30 + np.arange(
        33
    )  # rises from left to right, by 1 every 16 canvas pixels
    content["scale"] = np.float32(0.5)
    np.savez(folder / "ramp.npz", **content)
    dataset = voc(folder, "val")
    found = FileScores(folder / "ramp.npz", dataset).probabilities(dataset[0], (HEIGHT, WIDTH))
    assert found.shape == (21, HEIGHT, WIDTH)
    assert found.dtype == np.float32
    assert found.sum(0) == pytest.approx(np.ones((HEIGHT, WIDTH)), abs=1e-5)
    centre = (20 + 0.5) * 513 / WIDTH - 0.5  # of column 20, on the canvas
    score = 0.5 * centre / 16
    assert found[8, 7, 20] == pytest.approx(math.exp(score) / (math.exp(score) + 20), rel=1e-3)
    assert (found[8] == found[8, :1]).all()


@pytest.mark.parametrize("name", ["deeplab-largefov", "deeplab", "deeplab-msc-largefov"])
def test_cached_scores_give_the_models_probabilities(folder, narrow, name):
    dataset = replace(voc(folder, "val"), class_names=("background", "cat", "dog"))
    variant = narrow(name)
    model = Model(variant, Card(name, dataset.class_names), precision="fp32", device="cpu")
    source = CachedScores(model, dataset, "val", folder / "cache")
    source.fill(dataset)
    for sample in dataset:
        expected = model.segment(sample.photo, crf=False).probabilities
        found = source.probabilities(sample, (HEIGHT, WIDTH))
        assert np.abs(found - expected).max() < 1e-3
        assert expected.std() > 1e-4
    assert source.defaults == model.crf_params
    size = sum(path.stat().st_size for path in (folder / "cache/photos").iterdir()) / len(dataset)
    assert size < (3 * HEIGHT * WIDTH * 2 + 2000 if "msc" in name else 2500)


def test_large_photos_are_reduced_as_by_the_model(folder, narrow):
    dataset = replace(voc(folder, "val"), class_names=("background", "cat", "dog"))
    network = narrow("deeplab-largefov")
    card = Card("deeplab-largefov", dataset.class_names, size=36)  # the photos are 30×44
    model = Model(network, card, precision="fp32", device="cpu")
    source = CachedScores(model, dataset, "val", folder / "cache")
    source.fill(dataset)
    full = Model(network, replace(card, size=0), precision="fp32", device="cpu")
    for sample in dataset:
        expected = model.segment(sample.photo, crf=False).probabilities
        found = source.probabilities(sample, (HEIGHT, WIDTH))
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < 1e-3
        assert np.abs(found - full.segment(sample.photo, crf=False).probabilities).max() > 5e-3
    with pytest.raises(ValueError, match="scores of = 'deeplab-largefov at size 36, weights"):
        CachedScores(full, dataset, "val", folder / "cache")


def test_a_cached_photo_is_not_run_again(folder, narrow):
    dataset = replace(voc(folder, "val"), class_names=("background", "cat", "dog"))
    model = Model(narrow("deeplab-largefov"), Card("deeplab-largefov", dataset.class_names), device="cpu")
    CachedScores(model, dataset, "val", folder / "cache").fill(dataset[:2])
    files = {path: path.stat().st_mtime_ns for path in (folder / "cache/photos").iterdir()}
    assert sorted(path.stem for path in files) == ["a", "b"]
    CachedScores(model, dataset, "val", folder / "cache").fill(dataset)
    assert len(list((folder / "cache/photos").iterdir())) == 3
    assert all(path.stat().st_mtime_ns == before for path, before in files.items())


def test_a_cache_of_something_else_is_refused(folder, narrow):
    dataset = replace(voc(folder, "val"), class_names=("background", "cat", "dog"))
    card = Card("deeplab-largefov", dataset.class_names)
    model = Model(narrow("deeplab-largefov"), card, device="cpu")
    source = CachedScores(model, dataset, "val", folder / "cache")
    source.fill(dataset)
    other = narrow("deeplab-largefov")
    torch.nn.init.normal_(other.fc8.weight)
    with pytest.raises(
        ValueError, match=r"cache: was made with scores of = 'deeplab-largefov at size 513, weights \w+"
    ):
        CachedScores(Model(other, card, device="cpu"), dataset, "val", folder / "cache")
    with pytest.raises(ValueError, match="was made with split = 'val', but split is now 'test'"):
        CachedScores(model, dataset, "test", folder / "cache")
    with pytest.raises(ValueError, match="was made with photos = "):
        CachedScores(model, replace(dataset, samples=dataset.samples[:2]), "val", folder / "cache")
    with pytest.raises(ValueError, match="got weights for 3 classes"):
        CachedScores(model, voc(folder, "val"), "val", folder / "other")
    assert not (folder / "other").exists()
    with pytest.raises(
        ValueError, match=r"a.npz: got scores of a photo \(30, 44\), but .*a.jpg is \(44, 30\)"
    ):
        source.probabilities(dataset[0], (WIDTH, HEIGHT))
    (folder / "cache/photos/a.npz").write_bytes(b"PK no archive")
    with pytest.raises(
        ValueError, match=r"a.npz: not scores that can be read .*; remove it, and it is made again"
    ):
        source.probabilities(dataset[0], (HEIGHT, WIDTH))


def test_weights_that_give_no_numbers_are_refused(folder, narrow):
    dataset = replace(voc(folder, "val"), class_names=("background", "cat", "dog"))
    network = narrow("deeplab-largefov")
    torch.nn.init.constant_(network.fc8.bias, math.nan)
    model = Model(network, Card("deeplab-largefov", dataset.class_names), device="cpu")
    with pytest.raises(ValueError, match="NaN or infinite; the weights cannot be used"):
        CachedScores(model, dataset, "val", folder / "cache").fill(dataset)
    assert not list((folder / "cache").rglob("*.npz"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits_u8": np.zeros((5, 33, 33, 4), np.uint8)}, "got scores of 4 classes, wanted the data's 21"),
        ({"logits_u8": np.zeros((5, 33, 21), np.uint8)}, "not a file of class scores in 8 bits"),
        ({"logits_u8": np.zeros((5, 34, 34, 21), np.uint8)}, "not a file of class scores in 8 bits"),
        ({"scale": None}, "not a file of class scores in 8 bits: 'scale is not a file in the archive'"),
        ({"ids": np.array(["a", "b", "x", "d", "e"])}, "lacks scores of 1 of 3 photos, first c"),
        ({"ids": np.array(["a", "b"])}, "for 2 photos"),
    ],
)
def test_files_of_scores_that_do_not_fit(folder, changes, message):
    content = dict(np.load(folder / "scores.npz")) | changes
    np.savez(folder / "other.npz", **{name: value for name, value in content.items() if value is not None})
    dataset = voc(folder, "val")
    with pytest.raises(ValueError, match=r"other\.npz") as caught:
        FileScores(folder / "other.npz", dataset).fill(dataset)
    assert message in str(caught.value)


def test_missing_and_foreign_files_of_scores(folder):
    dataset = voc(folder, "val")
    with pytest.raises(FileNotFoundError, match=r"no file .*none.npz; wanted class scores"):
        FileScores(folder / "none.npz", dataset)
    (folder / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.npz: not a file of class scores"):
        FileScores(folder / "text.npz", dataset)
    np.save(folder / "array.npy", np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"array\.npy: not a file of class scores"):
        FileScores(folder / "array.npy", dataset)
    with pytest.raises(ValueError, match=r"got scores of a photo \(30, 44\), but a is \(3, 4\)"):
        FileScores(folder / "scores.npz", dataset).probabilities(dataset[0], (3, 4))


def test_settings_of_a_folder_are_checked(tmp_path):
    path = tmp_path / "sub" / "facts.json"
    check_settings(path, {"names": ("a", "b"), "count": 2})
    check_settings(path, {"names": ["a", "b"], "count": 2})
    with pytest.raises(
        ValueError, match="sub: was made with count = 2, but count is now 3; remove the folder or choose"
    ):
        check_settings(path, {"names": ["a", "b"], "count": 3})
    with pytest.raises(ValueError, match="was made with count = 2, but count is now None"):
        check_settings(path, {"names": ["a", "b"]})
    path.write_text("[")
    with pytest.raises(ValueError, match=r"facts.json: cannot be read"):
        check_settings(path, {})
