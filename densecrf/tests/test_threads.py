"""How many threads a call may use: its argument, else DENSECRF_THREADS, never more than processors."""

import numpy as np
import pytest

import densecrf.pydensecrf as dcrf
from densecrf import refine
from densecrf.threads import processors, thread_count
from scenes import scene


@pytest.mark.parametrize("text", ["1", " 2 ", "1000000000", "9" * 30])
def test_the_environment_variable(monkeypatch, text):
    monkeypatch.setenv("DENSECRF_THREADS", text)
    assert thread_count(None) == min(int(text), processors())
    assert thread_count(1) == 1
    assert thread_count(10**9) == processors()


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_counts_as_not_set(monkeypatch, text):
    monkeypatch.setenv("DENSECRF_THREADS", text)
    assert thread_count(None) == processors()


@pytest.mark.parametrize("text", ["0", "-2", "two", "1.5", "²"])
def test_a_bad_variable_is_one_clear_error(monkeypatch, text):
    monkeypatch.setenv("DENSECRF_THREADS", text)
    photo, probabilities, _ = scene()
    for call in (lambda: refine(photo, probabilities), lambda: dcrf.DenseCRF2D(3, 2, 2)):
        with pytest.raises(
            ValueError, match=f"^got DENSECRF_THREADS={text} in the environment, wanted a whole"
        ):
            call()


def test_results_do_not_depend_on_the_number(monkeypatch):
    photo, probabilities, _ = scene()
    expected = refine(photo, probabilities)
    monkeypatch.setenv("DENSECRF_THREADS", "1")
    assert np.array_equal(refine(photo, probabilities), expected)
