import pytest

from densecrf import Params
from scenes import scene

torch = pytest.importorskip("torch", reason="torch is not installed")
from densecrf.torch import Attention, DenseCRF, Kernel, Lattice, fused  # noqa: E402

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="there is no GPU here: parity on GPUs not tested"
    ),
]


def batch(height=30, width=44):
    scenes = [scene(height, width, 4, seed)[:2] for seed in (1, 2)]
    images = torch.stack([torch.from_numpy(photo).permute(2, 0, 1) for photo, _ in scenes])
    return images, torch.stack([torch.from_numpy(p).log().float() for _, p in scenes])


def test_kernels_are_used_if_triton_is_installed():
    pytest.importorskip("triton", reason="Triton is not installed: plain PyTorch only")
    assert fused.kernels_for(torch.zeros(1, device="cuda")) is not None


@pytest.mark.parametrize("backend", ["torch", "exact"])
@pytest.mark.parametrize("compatibility", [None, (0.5, 1, 1.5, 1), "matrix"])
@pytest.mark.parametrize("include_self", [True, False])
def test_marginals_and_gradients_are_those_of_the_cpu(backend, compatibility, include_self):
    images, logits = batch()
    mu = 1 - torch.eye(4) if compatibility == "matrix" else compatibility
    crf = DenseCRF(marginals=True, backend=backend, compatibility=mu, include_self=include_self)
    expected = crf(images, logits)
    expected.square().sum().backward()
    gradient = crf.weights.grad.clone()
    crf.zero_grad()
    crf.cuda()
    result = crf(images.cuda(), logits.cuda())
    result.square().sum().backward()
    torch.testing.assert_close(result.cpu(), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(crf.weights.grad.cpu(), gradient, rtol=1e-2, atol=1e-2)
    with torch.no_grad():
        torch.testing.assert_close(crf(images.cuda(), logits.cuda()).cpu(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("normalization", ["symmetric", "after", "before", "none"])
@pytest.mark.parametrize("backend", ["torch", "exact"])
def test_a_filter_is_that_of_the_cpu(backend, normalization):
    rng = torch.Generator().manual_seed(0)
    features, values = 2 * torch.randn(3000, 5, generator=rng), torch.rand(70, 3000, generator=rng)
    expected = Kernel(features, normalization=normalization, backend=backend)(values)
    result = Kernel(features.cuda(), normalization=normalization, backend=backend)(values.cuda())
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_two_runs_give_the_same_bits():
    rng = torch.Generator().manual_seed(1)
    features, values = torch.randn(5000, 5, generator=rng).cuda(), torch.rand(21, 5000, generator=rng).cuda()
    for kind in (Lattice, Attention):
        assert torch.equal(kind(features).filter(values), kind(features).filter(values))


def test_one_vertex_with_many_points():
    features, values = torch.zeros(10_000, 3), torch.rand(5, 10_000)
    expected = Lattice(features).filter(values)
    torch.testing.assert_close(
        Lattice(features.cuda()).filter(values.cuda()).cpu(), expected, rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("backend", ["torch", "exact"])
def test_plain_pytorch_gives_the_same_as_the_kernels(backend):
    images, logits = (tensor.cuda() for tensor in batch(21, 26))
    params = Params(smoothness_weight=0)
    crf = DenseCRF(params, marginals=True, backend=backend).cuda()
    result = crf(images, logits)
    with fused.plain_pytorch():
        torch.testing.assert_close(crf(images, logits), result, atol=1e-3, rtol=0)


def test_double_precision_and_gradients_to_widths():
    images, logits = (tensor.cuda() for tensor in batch(12, 17))
    for backend in ("torch", "exact"):
        crf = DenseCRF(backend=backend).cuda()
        assert crf(images, logits.double()).dtype == torch.float64
        crf.log_widths.requires_grad_()
        crf(images, logits).square().mean().backward()
        assert torch.isfinite(crf.log_widths.grad).all()
        assert (crf.log_widths.grad.abs() > 0).all()
