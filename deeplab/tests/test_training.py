import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import deeplab
from deeplab import training
from deeplab.network import build
from deeplab.training import Recipe, add_batch_norm, fold_batch_norm, read_recipe, train


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Six small photos with a bright cat on dark ground, and a trunk of random numbers."""
    root = tmp_path_factory.mktemp("voc")
    rng = np.random.default_rng(0)
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    for i in range(6):
        labels = np.zeros((70, 90), np.uint8)
        top, left = rng.integers(5, 25, size=2)
        labels[top : top + 30, left : left + 40] = 8
        photo = np.where(labels[:, :, None] == 8, 220, 30) + rng.integers(0, 20, size=(70, 90, 3))
        Image.fromarray(photo.astype(np.uint8)).save(root / f"JPEGImages/{i}.jpg")
        Image.fromarray(labels).save(root / f"SegmentationClass/{i}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("0\n1\n2\n3\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("4\n5\n")
    torch.manual_seed(0)
    trunk = build().state_dict()
    arrays = {
        f"{name.split('.')[0]}_{'W' if name.endswith('weight') else 'b'}": value.half().numpy()
        for name, value in trunk.items()
        if name.startswith("conv")
    }
    np.savez(root / "vgg.npz", **arrays)
    return Recipe(
        data=str(root), imagenet=str(root / "vgg.npz"), train_split="train", crop=65, batch=2, head_steps=2, steps=4,
        validate_every=2, views=2,
    )  # fmt: skip


def tensors(path):
    return deeplab.load(weights=path).network.state_dict()


def test_training_resumes_where_it_was_and_ends_the_same(recipe, tmp_path, monkeypatch):
    whole = train(recipe, tmp_path / "whole")
    first = training._validate

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_validate", interrupt)  # killed right after the checkpoint of step 2
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "parts")
    monkeypatch.setattr(training, "_validate", first)
    resumed = train(recipe, tmp_path / "parts")
    before, after = tensors(whole), tensors(resumed)
    assert all(torch.equal(before[name], after[name]) for name in before)
    records = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "mIoU-7" in record] == [2, 4]
    with pytest.raises(ValueError, match="other steps"):
        train(dataclasses.replace(recipe, steps=5), tmp_path / "whole")


def test_only_what_should_learn_learns(recipe, tmp_path):
    trained = tensors(train(dataclasses.replace(recipe, steps=3), tmp_path))
    start = np.load(recipe.imagenet)
    assert np.array_equal(trained["conv4_3.weight"].numpy(), start["conv4_3_W"].astype(np.float32))
    assert not np.array_equal(trained["conv5_1.weight"].numpy(), start["conv5_1_W"].astype(np.float32))


def test_folding_changes_nothing():
    torch.manual_seed(1)
    network = build(classes=3)
    add_batch_norm(network)
    network.train()
    for _ in range(3):
        network.scores_from_pool4(torch.rand(4, 512, 6, 9))
    network.eval()
    features = torch.rand(1, 512, 6, 9)
    with torch.inference_mode():
        wanted = network.scores_from_pool4(features)
        fold_batch_norm(network)
        torch.testing.assert_close(network.scores_from_pool4(features), wanted, rtol=1e-3, atol=1e-4)
    assert network.state_dict().keys() == build(classes=3).state_dict().keys()


def test_recipes_are_checked(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('data = "d"\nimagenet = "i"\nbatch = 4\n')
    assert read_recipe(path, ["head_rate=1", "data=other"]) == Recipe("other", "i", batch=4, head_rate=1)
    for content, changes, message in (
        ('data = "d"\nimagenet = "i"\nbatches = 4\n', [], "unknown key 'batches'; did you mean 'batch'"),
        ('data = "d"\nimagenet = "i"\nbatch = "4"\n', [], "got batch = '4', wanted int"),
        ('data = "d"\nimagenet = "i"\n', ["batch=many"], "got batch = 'many', wanted int"),
        ('data = "d"\nimagenet = "i"\n', ["batch"], "wanted key=value"),
        ('data = "d"\n', [], "lacks imagenet"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_recipe(path, changes)
