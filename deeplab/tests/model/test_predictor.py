from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import deeplab
from deeplab.classes import VOC_CLASSES
from deeplab.model.devices import device_from
from deeplab.model.predictor import Predictor, TestTimeAugmentation
from deeplab.model.segmentation import Model
from deeplab.network.bfloat16 import compute_dtype, to_bfloat16
from deeplab.network.preprocessing import RELEASE, TORCHVISION, Preparation
from deeplab.photos import read_photo
from deeplab.weights.store import Card


def photos(count, size=(45, 70)):
    """Smooth random photos."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, size=(count, 6, 8, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(c).resize(size[::-1], Image.Resampling.BICUBIC)) for c in coarse]


@pytest.fixture
def predictor(narrow):
    return Predictor(narrow("deeplab-largefov"), Preparation(), device="cpu", precision="fp32")


def test_a_batch_gives_what_single_photos_give(predictor):
    some = photos(3)
    together = predictor.probabilities(some)
    assert together.shape == (3, 3, 45, 70)
    for photo, probabilities in zip(some, together, strict=True):
        np.testing.assert_allclose(predictor.probabilities([photo])[0], probabilities, atol=1e-5)


def test_mirror_is_the_mean_with_the_mirrored_photo(predictor):
    (photo,) = photos(1)
    plain = predictor.probabilities([photo])
    mirrored = predictor.probabilities([photo[:, ::-1]])[..., ::-1]
    found = predictor.probabilities([photo], views=TestTimeAugmentation(mirror=True))
    np.testing.assert_allclose(found, (plain + mirrored) / 2, atol=1e-6)
    assert np.abs(plain - mirrored).max() > 1e-3
    back = predictor.probabilities([photo[:, ::-1]], views=TestTimeAugmentation(mirror=True))[..., ::-1]
    np.testing.assert_allclose(back, found, atol=1e-6)


def test_scales_are_the_mean_over_resized_photos(predictor):
    (photo,) = photos(1)
    wanted = predictor.probabilities([photo])
    for size in ((35, 22), (105, 68)):  # round(22.5) is 22, round(67.5) is 68
        resized = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))
        found = torch.from_numpy(predictor.probabilities([resized]))
        wanted = wanted + F.interpolate(found, (45, 70), mode="bilinear", align_corners=False).numpy()
    found = predictor.probabilities([photo], views=TestTimeAugmentation((0.5, 1.0, 1.5)))
    np.testing.assert_allclose(found, wanted / 3, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("scales", [(), (0.0,), (-1.0,), (1.0, 100.0), (float("nan"),)])
def test_invalid_scales(scales):
    with pytest.raises(ValueError, match=r"wanted at least one, each from 0\.05 to 20"):
        TestTimeAugmentation(scales)


def test_preparation_belongs_to_the_weights(narrow):
    # Weights that are changed to suit another preprocessing give the same scores.
    (photo,) = photos(1)
    network = narrow("deeplab-largefov")
    with torch.no_grad():
        network.fc8.weight.mul_(60)  # TORCHVISION's levels are about 1 instead of 100
    wanted = Predictor(network, TORCHVISION, device="cpu", precision="fp32").probabilities([photo])
    scale = torch.tensor(TORCHVISION.scale)[None, :, None, None]
    with torch.no_grad():
        network.conv1_1.weight.mul_(scale).copy_(network.conv1_1.weight.flip(1))
    bgr = Preparation("BGR", TORCHVISION.mean[::-1])
    found = Predictor(network, bgr, device="cpu", precision="fp32").probabilities([photo])
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    other = Predictor(network, RELEASE, device="cpu", precision="fp32").probabilities([photo])
    assert np.abs(other - wanted).max() > 1e-3


@pytest.mark.parametrize(
    "wrong", [{"channels": "GBR"}, {"mean": (1.0, 2.0)}, {"scale": (1.0, float("inf"), 1.0)}, {"mean": 3.0}]
)
def test_invalid_preparations(wrong):
    with pytest.raises(ValueError, match="wanted"):
        Preparation(**wrong)


def test_many_photos_in_their_order(model):
    some = [*photos(3), *photos(2, (33, 17)), *photos(1)]
    found = list(model.segment_many(iter(some), batch=4, crf=False))
    assert [result.labels.shape for result in found] == [photo.shape[:2] for photo in some]
    for photo, result in zip(some, found, strict=True):
        np.testing.assert_allclose(
            result.probabilities, model.segment(photo, crf=False).probabilities, atol=1e-4
        )
    assert list(model.segment_many([])) == []
    with pytest.raises(ValueError, match="got batch 0"):
        next(model.segment_many(some, batch=0))
    with pytest.raises(TypeError, match="got scale; wanted crf"):
        next(model.segment_many(some, scale=2))


def test_windows_are_used_where_memory_is_short(predictor, monkeypatch):
    (photo,) = photos(1, (900, 1600))
    wanted = predictor.probabilities([photo])
    passes = []
    predictor.network.fc8.register_forward_hook(lambda *_: passes.append(1))
    monkeypatch.setattr("densecrf.memory.available", lambda: 630_000_000)  # the whole photo takes 806 MB
    np.testing.assert_allclose(predictor.probabilities([photo]), wanted, atol=1e-4)
    assert len(passes) > 1
    monkeypatch.setattr("densecrf.memory.available", lambda: 400_000_000)
    with pytest.raises(MemoryError, match=r"a photo of 1600×900 needs about 0\.6 GB, but 0\.4 GB are free"):
        predictor.probabilities([photo])


def test_devices():
    assert device_from("cpu").type == "cpu"
    assert device_from("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:99"):
        with pytest.raises(
            ValueError, match=f"got device '{name}', which cannot be used here .*'cpu' always works"
        ):
            device_from(name)


def test_precision_by_name():
    cpu = torch.device("cpu")
    assert compute_dtype("fp32", cpu) == torch.float32
    assert compute_dtype("bf16", cpu) == torch.bfloat16
    assert compute_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    assert compute_dtype("auto", torch.device("meta")) == torch.float32
    with pytest.raises(ValueError, match="wanted one of: auto, fp32, bf16"):
        compute_dtype("fp8", cpu)


@pytest.mark.parametrize("variant", ["deeplab", "deeplab-largefov", "deeplab-msc-largefov"])
def test_bfloat16_scores_are_near_those_of_fp32(narrow, variant):
    network = narrow(variant)
    low = to_bfloat16(network)
    size = [network.variant.legal_size(n) for n in (60, 80)]
    batch = 60 * torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, found = network.full_scores(batch), low.full_scores(batch)
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()
    assert network.conv1_1.weight.dtype == torch.float32  # the network itself is not changed


def test_first_layer_keeps_the_bits_of_the_photo(narrow):
    # Levels 200.25 and 200.75 are the same number in bfloat16.
    network = narrow("deeplab-largefov")
    first = to_bfloat16(network).conv1_1
    with torch.inference_mode():
        low, high = (first(torch.full((1, 3, 9, 17), level)).float() for level in (200.25, 200.75))
        wanted = network.conv1_1(torch.full((1, 3, 9, 17), 200.75))
    assert (low != high).any()
    torch.testing.assert_close(high, wanted, rtol=2**-8, atol=0.05)


def test_shipped_weights_give_the_same_labels_in_bfloat16():
    shipped = deeplab.load()
    folder = Path(__file__).parents[3] / "examples" / "photos"
    different = total = 0
    for path in sorted(folder.glob("*.jpg"))[:3]:
        photo = read_photo(path)[::2, ::2]  # smaller, as bfloat16 is slow on processors without it
        results = [
            Model(shipped.network, shipped.card, precision=p).segment(photo, crf=False).labels
            for p in ("fp32", "bf16")
        ]
        different += int((results[0] != results[1]).sum())
        total += results[0].size
    assert different <= 0.002 * total


def test_compiled_only_when_asked(narrow, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    card = Card("deeplab-largefov", VOC_CLASSES[:3])
    network = narrow("deeplab-largefov")
    Model(network, card, device="cpu")
    assert compiled == []
    assert Model(network, card, device="cpu", compile=True).segment(photos(1)[0]).labels.shape == (45, 70)
    assert len(compiled) == 1
