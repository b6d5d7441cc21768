from pathlib import Path

import pytest

import deeplab

PHOTOS = Path(__file__).parents[3] / "examples" / "photos"


@pytest.fixture(scope="module")
def shipped():
    return deeplab.load()


@pytest.mark.parametrize(
    ("name", "thing", "min_share", "max_share"),
    [("cat", "cat", 0.4, 1.0), ("astronaut", "person", 0.2, 0.8), ("admiral", "person", 0.25, 0.85)],
)
def test_labels_of_free_photos(shipped, name, thing, min_share, max_share):
    shares = shipped.segment(PHOTOS / f"{name}.jpg").shares()
    assert min_share < shares.get(thing, 0) < max_share
    assert thing in list(shares)[:2]


@pytest.mark.parametrize("variant", ["deeplab-largefov", "deeplab-msc-largefov"])
def test_the_card_has_provenance_and_crf_parameters(variant):
    model = deeplab.load(variant)
    provenance = model.card.provenance
    assert model.card.variant == variant
    assert {"data", "stages", "limits", "scores"} <= set(provenance)
    assert provenance["scores"]["network"]["mIoU-7"] >= 70
    assert provenance["scores"]["network + CRF"]["mIoU-7"] >= 74
    assert provenance["scores"]["network + CRF"]["mIoU-21"] >= 52
    assert model.crf_params.normalization == "after"


def test_the_multi_scale_network_gives_nearly_the_same_labels(shipped):
    multi_scale = deeplab.load("deeplab-msc-largefov")
    photo = PHOTOS / "cameraman.jpg"
    one, other = (model.segment(photo, crf=False).labels for model in (shipped, multi_scale))
    assert (one == other).mean() > 0.9
