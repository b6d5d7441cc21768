import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplab.model.predictor import Predictor
from deeplab.network.preprocessing import Preparation
from deeplab.network.tiling import margin_of, spans, windows


def test_spans_by_hand():
    found = [(s.start, s.stop, s.first, s.last) for s in spans(50, 20, 8)]
    assert found == [(0, 24, 0, 16), (8, 40, 16, 32), (24, 50, 32, 48), (40, 50, 48, 50)]


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 900), st.sampled_from([0, 8, 64, 224]))
def test_every_pixel_is_labelled_by_one_window(height, width, core, margin):
    core = max(core, max(height, width) // 20)  # not thousands of windows
    count = np.zeros((height, width), np.uint8)
    for rows, columns in windows(height, width, core, margin):
        count[rows.first : rows.last, columns.first : columns.last] += 1
        for span, length in ((rows, height), (columns, width)):
            assert span.start % 8 == span.first % 8 == 0
            assert span.start == max(0, span.first - margin)
            assert min(length, span.last + margin) <= span.stop <= length
    assert (count == 1).all()


def test_margin_covers_half_the_field_of_view():
    assert margin_of("deeplab-largefov") == 232  # 435 // 2 + 8, rounded up to the stride
    assert margin_of("deeplab") == 168  # 308 // 2 + 8


@pytest.mark.parametrize("variant", ["deeplab", "deeplab-7x7", "deeplab-largefov", "deeplab-msc-largefov"])
def test_no_seams_are_visible(narrow, variant):
    # The probabilities are those of the whole photo, near its border as well.
    size = (120, 300) if "msc" in variant else (310, 651)
    photo = np.random.default_rng(0).integers(0, 256, size=(*size, 3), dtype=np.uint8)
    predictor = Predictor(narrow(variant), Preparation(), device="cpu", precision="fp32")
    whole = predictor.probabilities([photo])
    assert whole.std() > 0.01
    for tile in (72, 200):
        # Rounding differs, because the tiles of Winograd's algorithm lie elsewhere.
        np.testing.assert_allclose(predictor.probabilities([photo], tile=tile), whole, atol=5e-4)


def test_a_margin_below_half_the_field_of_view_is_visible(narrow, monkeypatch):
    photo = np.random.default_rng(0).integers(0, 256, size=(310, 651, 3), dtype=np.uint8)
    monkeypatch.setattr("deeplab.model.predictor.margin_of", lambda variant: 64)
    predictor = Predictor(narrow("deeplab-largefov"), Preparation(), device="cpu", precision="fp32")
    whole = predictor.probabilities([photo])
    assert np.abs(predictor.probabilities([photo], tile=72) - whole).max() > 1e-3
