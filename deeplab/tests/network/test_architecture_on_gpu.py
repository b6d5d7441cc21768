import pytest
import torch

from deeplab.network.architecture import build
from deeplab.network.bfloat16 import choose, reduced

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="there is no GPU here: the network on GPUs not tested"
    ),
]


@pytest.fixture
def exact_convolutions():
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("variant", ["deeplab", "deeplab-largefov", "deeplab-msc-largefov"])
def test_scores_are_the_cpus(variant, exact_convolutions):
    torch.manual_seed(0)
    network = build(variant).eval()
    batch = 50 * torch.randn(2, 3, network.variant.legal_size(65), network.variant.legal_size(97))
    with torch.no_grad():
        wanted = network.full_scores(batch)
        found = network.cuda().full_scores(batch.cuda().to(memory_format=torch.channels_last)).cpu()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3 * float(wanted.abs().max()))


def test_bfloat16_is_near():
    assert choose("auto", torch.device("cuda")) == torch.bfloat16
    torch.manual_seed(0)
    network = build().eval()
    batch = 50 * torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        wanted = network.full_scores(batch)
        found = reduced(network).cuda().full_scores(batch.cuda()).cpu()
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()
