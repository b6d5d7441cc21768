import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab.network.upsampling import upsample, upsample_array


def test_upsample_by_hand():
    scores = torch.tensor([[[[0.0, 8.0], [16.0, 24.0]]]])
    expected = torch.arange(9.0)[None, :] + 2 * torch.arange(9.0)[:, None]  # eight even steps between corners
    torch.testing.assert_close(upsample(scores)[0, 0], expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.integers(1, 16), st.integers(0, 99))
def test_both_implementations_agree(classes, height, width, stride, seed):
    scores = np.random.default_rng(seed).normal(size=(classes, height, width)).astype(np.float32)
    expected = upsample(torch.from_numpy(scores)[None], stride)[0].numpy()
    found = upsample_array(scores, stride)
    assert found.shape == expected.shape
    assert np.allclose(found, expected, atol=1e-5)
