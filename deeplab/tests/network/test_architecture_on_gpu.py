import pytest
import torch

from deeplab.network.architecture import build
from deeplab.network.bfloat16 import compute_dtype, to_bfloat16

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: the network on GPUs is not tested"),
]


@pytest.fixture
def exact_convolutions():
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("variant", ["deeplab", "deeplab-largefov", "deeplab-msc-largefov"])
def test_scores_are_those_of_the_cpu(variant, exact_convolutions):
    torch.manual_seed(0)
    network = build(variant).eval()
    batch = 50 * torch.randn(2, 3, network.variant.legal_size(65), network.variant.legal_size(97))
    with torch.no_grad():
        wanted = network.full_scores(batch)
        found = network.cuda().full_scores(batch.cuda().to(memory_format=torch.channels_last)).cpu()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3 * float(wanted.abs().max()))


def test_scores_in_bfloat16_are_close_to_those_in_fp32():
    assert compute_dtype("auto", torch.device("cuda")) == torch.float32
    torch.manual_seed(0)
    network = build().eval()
    batch = 50 * torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        wanted = network.full_scores(batch)
        found = to_bfloat16(network).cuda().full_scores(batch.cuda()).cpu()
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()
