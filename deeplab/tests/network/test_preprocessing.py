import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deeplab.network.preprocessing import Preparation, pad_to_stride, padded_size, prepare


def test_prepare_by_hand():
    photo = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)
    batch = prepare(photo, Preparation(mean=(1, 2, 3)))
    assert batch.tolist() == [[[[29, 59]], [[18, 48]], [[7, 37]]]]  # B, G, R, minus the mean of each


@pytest.mark.parametrize(
    ("length", "wanted"), [(1, 1), (2, 9), (9, 9), (321, 321), (322, 329), (500, 505), (513, 513)]
)
def test_padded_sizes(length, wanted):
    assert padded_size(length) == wanted


@given(st.integers(1, 5000), st.integers(1, 600))
def test_padded_size_is_the_smallest_that_fits(length, min_size):
    size = padded_size(length, min_size)
    assert size >= max(length, min_size)
    assert (size - 1) % 8 == 0
    assert size - 8 < max(length, min_size)


def test_padding_is_at_the_bottom_and_right_with_the_mean():
    padded = pad_to_stride(torch.ones(1, 3, 5, 10))
    assert padded.shape == (1, 3, 9, 17)
    assert (padded[:, :, :5, :10] == 1).all()
    assert padded.sum() == 3 * 5 * 10  # the padding is zero
