import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import deeplab
import densecrf
from deeplab.classes import VOC_CLASSES, palette
from deeplab.model import segmentation


def test_the_cascade_step_by_step(model, photo):
    height, width = photo.shape[:2]
    batch = torch.zeros(1, 3, 49, 73)  # 45×70 padded at the bottom and right
    bgr = photo[:, :, ::-1].astype(np.float32) - np.array([103.939, 116.779, 123.68], np.float32)
    batch[0, :, :height, :width] = torch.from_numpy(bgr).permute(2, 0, 1)
    with torch.inference_mode():
        scores = F.interpolate(model.network(batch), (49, 73), mode="bilinear", align_corners=True)
        probabilities = torch.softmax(scores[0, :, :height, :width], dim=0).numpy()
    plain = model.segment(photo, crf=False)
    np.testing.assert_allclose(plain.probabilities, probabilities, atol=1e-5)
    refined = model.segment(photo)
    release = densecrf.Params(normalization="after")
    wanted = densecrf.refine(photo, plain.probabilities, params=release)
    np.testing.assert_array_equal(refined.probabilities, wanted)
    np.testing.assert_array_equal(refined.labels, refined.probabilities.argmax(0))
    assert set(refined.seconds) == {"decode", "network", "CRF"}


def test_given_params_are_used(model, photo):
    params = densecrf.Params(appearance_weight=0, smoothness_weight=0)
    plain, same = model.segment(photo, crf=False), model.segment(photo, crf=params)
    np.testing.assert_allclose(same.probabilities, plain.probabilities, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2000), (2000, 3), (8, 9), (33, 17)])
def test_any_size(model, size):
    image = np.random.default_rng(0).integers(0, 256, size=(*size, 3), dtype=np.uint8)
    result = model.segment(image)
    assert result.labels.shape == size
    assert result.labels.dtype == np.uint8
    assert result.probabilities.shape == (21, *size)
    np.testing.assert_allclose(result.probabilities.sum(0), 1, rtol=1e-4)
    assert sum(result.shares().values()) == pytest.approx(1)
    assert result.overlay().shape == (*size, 3)


def test_path_image_and_array_are_the_same(model, photo, photo_file):
    wanted = model.segment(photo).labels
    with Image.open(photo_file) as image:
        for form in (photo_file, str(photo_file), image):
            assert np.array_equal(model.segment(form).labels, wanted)


def test_saved_ids_and_palette(model, photo, tmp_path):
    result = model.segment(photo)
    result.save(tmp_path / "ids.png")
    with Image.open(tmp_path / "ids.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), result.labels)
        assert image.getpalette()[:15] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]


def test_palette_of_voc():
    colours = palette()
    assert colours[VOC_CLASSES.index("person")].tolist() == [192, 128, 128]
    assert colours[VOC_CLASSES.index("tvmonitor")].tolist() == [0, 64, 128]
    assert colours[255].tolist() == [224, 224, 192]


def test_overlay_by_hand(photo):
    probabilities = np.zeros((2, 45, 70), np.float32)
    probabilities[0, :, :35] = probabilities[1, :, 35:] = 1
    result = segmentation.Segmentation(photo, probabilities, ("background", "thing"))
    assert result.shares() == {"background": 0.5, "thing": 0.5}
    half, none = result.overlay(alpha=0.5), result.overlay(alpha=0)
    assert np.array_equal(none, photo)
    assert np.array_equal(half[:, :35], photo[:, :35])  # background stays as it is
    assert (half[:, 35] == 255).all()  # the outline
    assert np.abs(half[:, 36:] - (photo[:, 36:] / 2 + np.array([64, 0, 0]))).max() <= 0.5
    with pytest.raises(ValueError, match="wanted 0 to 1"):
        result.overlay(alpha=2)


def test_photo_too_large_for_the_memory(model, photo, monkeypatch):
    monkeypatch.setattr("densecrf.memory.available", lambda: 10**6)
    with pytest.raises(MemoryError, match=r"a photo of 70×45 needs about 0\.0 GB"):
        model.segment(photo)
    monkeypatch.setattr("densecrf.memory.available", lambda: None)
    assert model.segment(photo, crf=False).labels.shape == (45, 70)


def test_unknown_variant():
    with pytest.raises(ValueError, match="wanted one of: deeplab, deeplab-4x4"):
        deeplab.load("deeplab-v9")


@pytest.mark.parametrize("name", ["net.safetensors", "folder/net.safetensors"])
def test_a_path_as_first_argument_is_the_weights(model, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    file = tmp_path / name
    model.save(file)
    expected = deeplab.load(weights=file).digest
    for location in (file, str(file), str(file.relative_to(tmp_path))):
        assert deeplab.load(location).digest == expected
    with pytest.raises(FileNotFoundError, match=r"no file missing\.safetensors; wanted weights"):
        deeplab.load("missing.safetensors")
    with pytest.raises(ValueError, match=r"got variant 'a\.safetensors', wanted one of: deeplab"):
        deeplab.load("a.safetensors", weights=file)


def test_a_variant_without_weights_says_so():
    with pytest.raises(
        FileNotFoundError, match="no weights of deeplab-msc come with the package, only of deeplab-largefov"
    ):
        deeplab.load("deeplab-msc")
