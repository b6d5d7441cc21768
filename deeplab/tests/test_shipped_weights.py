from pathlib import Path

import pytest

import deeplab

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture(scope="module")
def shipped():
    return deeplab.load()


@pytest.mark.parametrize(
    ("name", "thing", "least", "most"),
    [("cat", "cat", 0.4, 1.0), ("astronaut", "person", 0.2, 0.8), ("admiral", "person", 0.25, 0.85)],
)
def test_free_photos_show_what_they_show(shipped, name, thing, least, most):
    shares = shipped.segment(PHOTOS / f"{name}.jpg").shares()
    assert least < shares.get(thing, 0) < most
    assert thing in list(shares)[:2]


def test_the_card_tells_the_story(shipped):
    story = shipped.card.story
    assert {"data", "stages", "limits", "scores"} <= set(story)
    assert story["scores"]["network"]["mIoU-7"] >= 58
    assert story["scores"]["network + CRF"]["mIoU-7"] >= 63
    assert story["scores"]["network + CRF"]["mIoU-21"] >= 47
