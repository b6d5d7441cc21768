from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from deeplab.datasets.opening import Sample
from deeplab.network.architecture import VARIANTS, DeepLab
from deeplab.network.preprocessing import Preparation, prepare
from deeplab.training.feature_cache import CachedBatches, FeatureCache, write_feature_cache

SIZES = [(40, 61), (72, 53), (30, 90)]


def network_of(name):
    """A variant with its own trunk and a narrow head."""
    variant = VARIANTS[name]
    torch.manual_seed(0)
    return DeepLab(replace(variant, head=replace(variant.head, channels=4)), classes=5)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Three photos; all labels of a photo are its own class."""
    folder = tmp_path_factory.mktemp("samples")
    rng = np.random.default_rng(0)
    found = []
    for number, (height, width) in enumerate(SIZES):
        photo = folder / f"{number}.png"
        labels = folder / f"{number}-ids.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(photo)
        Image.fromarray(np.full((height, width), number + 1, np.uint8)).save(labels)
        found.append(Sample(str(number), photo, labels))
    return found


@pytest.mark.parametrize("name", ["deeplab", "deeplab-4x4", "deeplab-7x7", "deeplab-largefov"])
def test_every_window_has_the_labels_of_its_own_photo(samples, tmp_path, name):
    network = network_of(name)
    crop = network.variant.legal_crop(33)
    write_feature_cache(
        tmp_path,
        network,
        samples,
        preparation=Preparation(),
        views=2,
        scales=(0.8, 1.2),
        crop=crop,
        seed=0,
    )
    cache = FeatureCache(tmp_path)
    assert len(cache) == 6
    assert len(cache.targets) == cache.features.shape[0]
    side = (crop - 1) // 8 + 1
    for view in range(len(cache)):
        height, width = cache.sizes[view]
        labels = cache.targets[cache.starts[view] : cache.starts[view + 1]].reshape(height, width)
        assert set(np.unique(labels)) <= {view // 2 + 1, 255}
        features, targets = cache.crop(view, side, np.random.default_rng(view))
        assert features.shape == (512, side, side)
        assert targets.shape == (side, side)
    features, targets = next(CachedBatches([cache], crop=crop, batch=3, extra=0, seed=0).from_step(0))
    assert network.scores_from_pool4(features.float()).shape == (3, 5, *targets.shape[1:])


@pytest.mark.parametrize("name", ["deeplab", "deeplab-largefov"])
def test_features_lie_where_training_on_photos_has_them(tmp_path, name):
    """A photo of legal size gives the features and targets of a training step on it."""
    network = network_of(name)
    size = network.variant.legal_crop(41)
    first = network.variant.first_target
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    labels = rng.integers(0, 5, (size, size), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "a.png")
    Image.fromarray(labels).save(tmp_path / "a-ids.png")
    sample = Sample("a", tmp_path / "a.png", tmp_path / "a-ids.png")
    options = {"preparation": Preparation(), "views": 1, "scales": (1.0, 1.0), "crop": size, "seed": 0}
    write_feature_cache(tmp_path / "cache", network, [sample], **options)
    cache = FeatureCache(tmp_path / "cache")
    assert torch.equal(torch.from_numpy(cache.targets), torch.from_numpy(labels[first::8, first::8].ravel()))
    features, _ = cache.crop(0, (size - 1) // 8 + 1, rng)
    with torch.inference_mode():
        expected = network.train().pool4(prepare(photo))[0]
    torch.testing.assert_close(features.float(), expected, rtol=0.1, atol=0.02 * float(expected.abs().max()))


def test_a_cache_whose_files_do_not_fit_is_refused(samples, tmp_path):
    options = {"preparation": Preparation(), "views": 1, "scales": (1.0, 1.0), "crop": 33, "seed": 0}
    write_feature_cache(tmp_path, network_of("deeplab-largefov"), samples, **options)
    targets = np.load(tmp_path / "targets.npy")
    np.save(tmp_path / "targets.npy", np.append(targets, targets))
    with pytest.raises(ValueError, match="wanted one target for each position; remove the folder"):
        FeatureCache(tmp_path)
