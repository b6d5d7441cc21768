"""The size to which large photos are reduced for the network, in every interface."""

import asyncio
import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import deeplab
import deeplab.model.loading
from deeplab.bulk.jobs import Job, LargeJob, Settings, run_job
from deeplab.bulk.ray import Labeller
from deeplab.bulk.workers import Workers
from deeplab.classes import VOC_CLASSES
from deeplab.cli import main
from deeplab.model.predictor import TestTimeAugmentation
from deeplab.model.segmentation import Model
from deeplab.serving.limits import Limits
from deeplab.weights.store import LONGEST_SIDE, Card, read_card, save_weights

CAT = Path(__file__).parents[3] / "examples/photos/cat.jpg"
SIZE = 72


@pytest.fixture(scope="module")
def small(narrow):
    """A network with random weights whose card reduces photos to 72 pixels."""
    card = Card("deeplab-largefov", VOC_CLASSES, size=SIZE)
    return Model(narrow("deeplab-largefov", classes=21), card, precision="fp32")


@pytest.fixture(scope="module")
def large():
    """(200, 144, 3) uint8, smooth, and more than twice as high as the network sees it."""
    coarse = np.random.default_rng(5).integers(0, 256, size=(7, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((144, 200), Image.Resampling.BICUBIC))


@pytest.fixture
def file(large, tmp_path):
    path = tmp_path / "large.png"
    Image.fromarray(large).save(path)
    return path


def at_size(model, photo, width, height):
    """(K, H, W) probabilities of a photo that the network sees at another size, step by step."""
    reduced = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))
    found = torch.from_numpy(model.predictor.probabilities([reduced]))
    return F.interpolate(found, photo.shape[:2], mode="bilinear", align_corners=False)[0].numpy()


def ids_of(source):
    with Image.open(source) as image:
        return np.asarray(image)


def test_reduced_sizes():
    assert TestTimeAugmentation(size=500).reduced_size(3000, 4000) == (375, 500)
    assert TestTimeAugmentation(size=500).reduced_size(4000, 3000) == (500, 375)
    assert TestTimeAugmentation(size=500).reduced_size(500, 333) == (500, 333)  # not enlarged
    assert TestTimeAugmentation(size=500).reduced_size(10, 90_000) == (1, 500)
    assert TestTimeAugmentation().reduced_size(3000, 4000) == (3000, 4000)


@pytest.mark.parametrize("size", [-1, 1, 31])
def test_invalid_sizes(small, large, size):
    with pytest.raises(ValueError, match="wanted at least"):
        small.segment(large, size=size)
    with pytest.raises(TypeError, match="wanted a whole number"):
        small.segment(large, size=500.5)


def test_an_enlarged_photo_gets_the_labels_of_the_original():
    model = deeplab.load()
    with Image.open(CAT) as image:
        photo = image.convert("RGB")
    three = photo.resize((3 * photo.width, 3 * photo.height), Image.Resampling.BICUBIC)
    wanted = model.segment(photo, crf=False).labels.repeat(3, axis=0).repeat(3, axis=1)
    found = model.segment(three, crf=False, size=max(photo.size)).labels
    assert found.shape == (3 * photo.height, 3 * photo.width)
    assert (found == wanted).mean() > 0.98


def test_probabilities_are_those_of_the_reduced_photo(small, large):
    wanted = at_size(small, large, 52, 72)  # 144 · 72 / 200 is 51.84
    np.testing.assert_allclose(small.segment(large, crf=False).probabilities, wanted, atol=1e-6)
    np.testing.assert_allclose(small.segment(large, crf=False, size=72).probabilities, wanted, atol=1e-6)
    with_crf = small.segment(large)
    assert with_crf.probabilities.shape == (21, 200, 144)
    plain = small.segment(large, crf=False)
    np.testing.assert_array_equal(with_crf.probabilities, small.refine(plain).probabilities)


def test_size_0_keeps_the_photo_as_it_is(small, large):
    wanted = small.predictor.probabilities([large])[0]
    np.testing.assert_array_equal(small.segment(large, crf=False, size=0).probabilities, wanted)
    assert np.abs(small.segment(large, crf=False).probabilities - wanted).max() > 1e-4


def test_photos_under_the_limit_do_not_change_by_one_bit(small, large):
    photo = large[: SIZE + 1, :SIZE]
    for size, shown in ((SIZE + 1, photo), (SIZE, photo[:SIZE]), (None, photo[:SIZE, :50])):
        wanted = small.predictor.probabilities([shown])[0]
        np.testing.assert_array_equal(small.segment(shown, crf=False, size=size).probabilities, wanted)


def test_scales_multiply_the_size(small, large):
    scales, total = (0.5, 1.5), 0
    for scale in scales:
        total = total + at_size(small, large, round(52 * scale), round(72 * scale))
    found = small.segment(large, crf=False, scales=scales, size=72).probabilities
    np.testing.assert_allclose(found, total / 2, atol=1e-6)
    mirrored = small.segment(large[:, ::-1], crf=False, scales=scales, mirror=True).probabilities[..., ::-1]
    both = small.segment(large, crf=False, scales=scales, mirror=True).probabilities
    np.testing.assert_allclose(both, mirrored, atol=0.01)  # an odd width has no exact mirror image


def test_many_photos_one_by_one(small, large):
    photos = [large, large[::-1], large[:40, :60]]
    for size in (None, 0, 50):
        found = list(small.segment_many(photos, crf=False, size=size))
        for photo, result in zip(photos, found, strict=True):
            wanted = small.segment(photo, crf=False, size=size).probabilities
            np.testing.assert_allclose(result.probabilities, wanted, atol=1e-5)


def test_too_little_memory_for_the_probabilities(small, large, monkeypatch):
    requests = []
    monkeypatch.setattr("densecrf.memory.require", lambda *request: requests.append(request))
    small.segment(large, crf=False)
    assert requests == [(22 * 4 * 200 * 144, "a photo of 144×200 with probabilities of 21 classes")]
    monkeypatch.undo()
    monkeypatch.setattr("densecrf.memory.available", lambda: 2_500_000)
    with pytest.raises(
        MemoryError, match=r"a photo of 144×200 with probabilities of 21 classes needs about 0\.0 GB"
    ):
        small.segment(large, crf=False)


def test_the_size_is_on_the_card(narrow, tmp_path):
    assert Card("deeplab-largefov", VOC_CLASSES).size == LONGEST_SIDE
    assert deeplab.load().card.size == LONGEST_SIDE  # its card has no size
    path = tmp_path / "w.safetensors"
    save_weights(path, narrow("deeplab-largefov", classes=2), Card("deeplab-largefov", ("a", "b"), size=900))
    assert read_card(path.with_suffix(".json")).size == 900
    for size in (0, 900):
        card = json.loads(path.with_suffix(".json").read_text()) | {"size": size}
        (tmp_path / "card.json").write_text(json.dumps(card))
        assert read_card(tmp_path / "card.json").size == size
    for size in (5, -1, "large", 2.5):
        (tmp_path / "card.json").write_text(json.dumps(card | {"size": size}))
        with pytest.raises(ValueError, match="not a card of weights"):
            read_card(tmp_path / "card.json")


@pytest.mark.parametrize(("words", "size"), [((), SIZE), (("--size", "0"), 0), (("--size", "100"), 100)])
def test_on_the_command_line(small, large, file, tmp_path, monkeypatch, words, size):
    monkeypatch.setattr(deeplab.model.loading, "load", lambda **_: small)
    assert main(["segment", str(file), "--no-crf", "--out", str(tmp_path / "out"), *words]) == 0
    wanted = small.segment(large, crf=False, size=size).labels
    assert (ids_of(tmp_path / "out/large.png") == wanted).mean() > 0.999


def test_another_size_on_the_command_line_labels_anew(small, file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(deeplab.model.loading, "load", lambda **_: small)
    line = ["segment", str(file), "--no-crf", "--out", str(tmp_path / "out")]
    for words, there in (((), False), (("--size", str(SIZE)), True), (("--size", "0"), False)):
        assert main([*line, *words]) == 0
        assert ("1 of 1 photos already labelled" in capsys.readouterr().out) is there
    assert main([*line, "--size", "7"]) == 1
    assert "got size 7, wanted at least 32 pixels, or 0 for full size" in " ".join(
        capsys.readouterr().err.split()
    )


def test_in_a_worker_on_a_cluster(small, large, file, tmp_path, monkeypatch):
    monkeypatch.setattr("deeplab.bulk.ray.load", lambda **_: small)
    (tmp_path / "out").mkdir()
    block = {"photo": np.array([str(file)]), "target": np.array([str(tmp_path / "out/large")])}
    Labeller({}, Settings(crf=False, size=100), Workers(1, 1), 0)(block)
    assert (
        ids_of(tmp_path / "out/large.png") == small.segment(large, crf=False, size=100).labels
    ).mean() > 0.999


def test_pictures_in_blocks_keep_their_scale(small, file, tmp_path):
    job = LargeJob(file, tmp_path / "out")
    assert "wanted none of --scales, --mirror and --size" in (
        run_job(job, small, Settings(size=100)).error or ""
    )


def test_too_little_memory_for_the_crf_names_the_alternatives(small, file, tmp_path, monkeypatch):
    monkeypatch.setattr("densecrf.memory.available", lambda: 10**7)
    error = run_job(Job(file, tmp_path / "out"), small, Settings()).error or ""
    assert "the CRF of a photo of 144×200 needs" in error
    assert "--no-crf needs less" in error
    assert "sees the photo at full size" in error


def test_evaluation_takes_the_size(small, large, tmp_path, monkeypatch):
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(large).save(tmp_path / "JPEGImages/a.jpg")
    with Image.open(tmp_path / "JPEGImages/a.jpg") as image:
        photo = np.asarray(image)
    truth, reduced = (small.segment(photo, crf=False, size=size).labels for size in (0, SIZE))
    Image.fromarray(truth).save(tmp_path / "SegmentationClass/a.png")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\n")
    monkeypatch.setattr(deeplab.model.loading, "load", lambda **_: small)
    for words, size, wanted in (((), SIZE, 100 * (reduced == truth).mean()), (("--size", "0"), 0, 100.0)):
        assert (
            main(["evaluate", "--data", str(tmp_path), "--no-crf", "--out", str(tmp_path / "f.json"), *words])
            == 0
        )
        found = json.loads((tmp_path / "f.json").read_text())
        assert found["looks"]["size"] == size
        assert found["scores"]["network"]["summary"]["pixel accuracy"] == pytest.approx(wanted, abs=0.02)


def post(model, content, limits=None, **query):
    """The HTTP API's response to one photo."""
    httpx = pytest.importorskip("httpx", reason="needs pip install 'deeplab-crf[app]'")
    service = pytest.importorskip(
        "deeplab.serving.http", reason="needs pip install 'deeplab-crf[app]'"
    ).service
    api = service(model, limits)

    async def request():
        transport = httpx.ASGITransport(api, raise_app_exceptions=False)
        async with (
            api.router.lifespan_context(api),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
        ):
            kind = {"content-type": "image/png"}
            return await client.post("/v1/segment", content=content, params=query, headers=kind)

    return asyncio.run(request())


def test_over_http(small, large, file):
    content = file.read_bytes()
    for query, size in (({}, SIZE), ({"size": 0}, 0), ({"size": 100}, 100)):
        response = post(small, content, crf=False, **query).json()
        ids = ids_of(io.BytesIO(base64.b64decode(response["ids"])))
        assert (response["width"], response["height"]) == (144, 200)
        assert response["worked_on"] == {"width": 144, "height": 200}
        assert (ids == small.segment(large, crf=False, size=size).labels).mean() > 0.999
    for size in (-5, 31, "large"):
        response = post(small, content, size=size)
        assert response.status_code == 422
        assert response.json()["error"] == "bad-option"
        assert "size" in response.json()["detail"]


def test_photos_of_cameras_over_http(small, large, file):
    decoding = pytest.importorskip("deeplab.serving.decode")
    limits = Limits(pixels=10_000)
    response = post(small, file.read_bytes(), limits).json()
    shrunk = decoding.shrink(large, 10_000)
    assert shrunk.shape == (117, 84, 3)
    assert (response["width"], response["height"]) == (144, 200)
    assert response["worked_on"] == {"width": 84, "height": 117}
    ids = ids_of(io.BytesIO(base64.b64decode(response["ids"])))
    wanted = Image.fromarray(small.segment(shrunk).labels).resize((144, 200), Image.Resampling.NEAREST)
    assert ids.shape == (200, 144)
    assert (ids == np.asarray(wanted)).mean() > 0.999
    overlay = post(small, file.read_bytes(), limits, output="overlay")
    with Image.open(io.BytesIO(overlay.content)) as image:
        assert image.size == (84, 117)
