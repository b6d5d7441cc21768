import numpy as np
import pytest

from densecrf import Lattice
from scenes import scene

torch = pytest.importorskip("torch", reason="torch is not installed")
from densecrf.torch import DenseCRFLoss  # noqa: E402
from densecrf.torch import Lattice as TorchLattice  # noqa: E402


def batch(size=(11, 14), classes=3, images=2, dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    photos = 255 * torch.rand(images, 3, *size, generator=rng, dtype=dtype)
    scores = 2 * torch.randn(images, classes, *size, generator=rng, dtype=dtype)
    region = (torch.rand(images, *size, generator=rng) > 0.3).to(dtype)
    return photos, scores, region


def by_the_formula(photos, probabilities, region, weight, sigma_rgb, sigma_xy):
    """rloss's formula with every pair of pixels: −weight / B · Σ_k (R S_k)ᵀ W (R S_k)."""
    photos, probabilities, region = (array.double().numpy() for array in (photos, probabilities, region))
    total = 0.0
    for photo, planes, inside in zip(photos, probabilities, region, strict=True):
        y, x = np.mgrid[: inside.shape[0], : inside.shape[1]]
        colours = photo.reshape(3, -1)
        places = np.stack([x.ravel(), y.ravel()]).astype(float)
        apart = np.square(places[:, :, None] - places[:, None]).sum(0) / sigma_xy**2
        apart += np.square(colours[:, :, None] - colours[:, None]).sum(0) / sigma_rgb**2
        values = (planes * inside).reshape(len(planes), -1)
        total += np.einsum("ki,ij,kj", values, np.exp(-apart / 2), values)
    return -weight * total / len(photos)


def test_exact_loss_is_the_formula():
    photos, scores, region = batch()
    probabilities = scores.softmax(1)
    loss = DenseCRFLoss(2e-3, 60, 5, backend="exact")
    expected = by_the_formula(photos, probabilities, region, 2e-3, 60, 5)
    assert loss(photos, probabilities, region).item() == pytest.approx(expected, rel=1e-5)
    everywhere = by_the_formula(photos, probabilities, torch.ones_like(region), 2e-3, 60, 5)
    assert loss(photos, probabilities).item() == pytest.approx(everywhere, rel=1e-5)
    assert loss(photos, probabilities, region.bool()).item() == pytest.approx(expected, rel=1e-5)
    assert loss(photos, probabilities).shape == ()


def test_two_pixels_by_hand():
    photos = torch.zeros(1, 1, 1, 2)
    photos[..., 1] = 30
    probabilities = torch.tensor([[[[1.0, 0.25]], [[0.0, 0.75]]]])
    between = np.exp(-(1**2 / (2 * 2**2) + 30**2 / (2 * 20**2)))
    agreement = 1 + 0.25**2 + 0.75**2 + 2 * 0.25 * between
    loss = DenseCRFLoss(0.5, 20, 2, backend="exact")
    assert loss(photos, probabilities).item() == pytest.approx(-0.5 * agreement, rel=1e-6)
    only_first = torch.tensor([[[1, 0]]])
    assert loss(photos, probabilities, only_first).item() == pytest.approx(-0.5, rel=1e-6)


def test_scaling_is_that_of_rloss():
    """Image and region by the nearest pixel, probabilities bilinearly, σ in pixels of the scaled image."""
    photos, scores, region = batch((12, 18))
    probabilities = scores.softmax(1)
    loss = DenseCRFLoss(1e-3, 50, 8, 0.5, backend="exact")
    means = torch.nn.functional.avg_pool2d(probabilities, 2)  # bilinear at a factor of ½
    expected = by_the_formula(photos[..., ::2, ::2], means, region[..., ::2, ::2], 1e-3, 50, 4)
    assert loss(photos, probabilities, region).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("backend", ["torch", "exact"])
def test_gradcheck(backend):
    photos, scores, region = batch((4, 5), dtype=torch.float64)
    loss = DenseCRFLoss(0.1, 61.3, 3.17, backend=backend)
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(photos, x.softmax(1), region), scores)


def test_native_gradient_is_that_of_the_torch_lattice():
    photo, probabilities, _ = scene(30, 44, 5)
    photos = torch.from_numpy(photo).permute(2, 0, 1)[None]
    results = {}
    for backend in ("native", "torch"):
        values = torch.from_numpy(probabilities)[None].float().requires_grad_()
        loss = DenseCRFLoss(1e-5, 15.3, 31.7, 0.5, backend=backend)(photos, values)
        loss.backward()
        results[backend] = (loss.detach(), values.grad)
    torch.testing.assert_close(results["native"][0], results["torch"][0], rtol=1e-5, atol=0)
    slope = results["torch"][1]
    torch.testing.assert_close(results["native"][1], slope, rtol=0, atol=1e-4 * float(slope.abs().max()))
    assert slope.min() < 0


def test_lattice_against_the_exact_kernel():
    """The lattice's loss is a nearly constant part of the formula's, so the gradients are nearly parallel."""
    photo, probabilities, _ = scene(40, 56, 4)
    photos = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    losses, slopes = [], []
    for backend in ("native", "exact"):
        values = torch.from_numpy(probabilities)[None].float().requires_grad_()
        loss = DenseCRFLoss(1e-6, 15, 100, 0.5, backend=backend)(photos, values)
        loss.backward()
        losses.append(loss.item())
        slopes.append(values.grad.flatten())
    assert 0.4 < losses[0] / losses[1] < 0.75
    cosine = torch.nn.functional.cosine_similarity(slopes[0], slopes[1], dim=0)
    assert cosine > 0.98


def test_lattice_is_that_of_pydensecrf():
    """rloss filters with the lattice of pydensecrf, without normalisation; a step of mean field shows it.

    A label without probability gets no message, so the other labels' messages are differences from it.
    """
    theirs = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")
    photo, probabilities, _ = scene(40, 56, 4)
    without = np.concatenate([probabilities, np.full((1, 40, 56), 1e-20)])
    unary = -np.log(without).reshape(5, -1).astype(np.float32)
    crf = theirs.DenseCRF2D(56, 40, 5)
    crf.setUnaryEnergy(unary.copy())
    options = {"kernel": theirs.DIAG_KERNEL, "normalization": theirs.NO_NORMALIZATION}
    crf.addPairwiseBilateral(sxy=50, srgb=15, rgbim=photo.copy(), compat=1e-3, **options)
    start = crf.startInference()
    crf.stepInference(*start)
    logits = np.log(np.array(start[0], np.float64).reshape(5, -1)) + unary
    messages = (logits[:4] - logits[4]) / 1e-3
    expected = -(probabilities.reshape(4, -1) * messages).sum()
    photos = torch.from_numpy(photo).permute(2, 0, 1)[None]
    loss = DenseCRFLoss(1, 15, 50)(photos, torch.from_numpy(probabilities)[None])
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_following_the_loss_makes_regions_uniform():
    photo, probabilities, areas = scene(24, 36, 3, seed=1)
    photos = torch.from_numpy(photo).permute(2, 0, 1)[None]
    scores = torch.from_numpy(probabilities).log()[None].float().requires_grad_()
    loss = DenseCRFLoss(1e-3, 15, 20)
    before = (scores.argmax(1)[0].numpy() != areas).mean()
    optimizer = torch.optim.Adam([scores], lr=0.2)
    for _ in range(15):
        optimizer.zero_grad()
        loss(photos, scores.softmax(1)).backward()
        optimizer.step()
    after = (scores.argmax(1)[0].numpy() != areas).mean()
    assert after < 0.7 * before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types(dtype):
    photos, scores, region = batch()
    values = scores.softmax(1).to(dtype).requires_grad_()
    loss = DenseCRFLoss(1e-4, 40, 10)(photos.to(torch.uint8), values, region)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert values.grad.dtype == dtype
    assert torch.isfinite(values.grad).all()


def test_empty_batch():
    loss = DenseCRFLoss(1, 15, 100)(torch.zeros(0, 3, 4, 5), torch.zeros(0, 2, 4, 5))
    assert loss.item() == 0


def test_what_does_not_fit_is_refused():
    photos, scores, region = batch()
    loss = DenseCRFLoss(1, 15, 100)
    with pytest.raises(ValueError, match=r"wanted \(B, C, H, W\) real numbers and"):
        loss(photos[..., :-1], scores)
    with pytest.raises(
        ValueError, match=r"got a region \(2, 1, 11, 14\), wanted \(B, H, W\) = \(2, 11, 14\)"
    ):
        loss(photos, scores, region[:, None])
    with pytest.raises(TypeError, match="got images of type ndarray, wanted a tensor"):
        loss(photos.numpy(), scores)
    with pytest.raises(ValueError, match="probabilities that are NaN or infinite"):
        loss(photos, scores * float("nan"))
    with pytest.raises(ValueError, match="wanted at least one pixel after scaling"):
        DenseCRFLoss(1, 15, 100, 0.05)(photos, scores)
    with pytest.raises(ValueError, match="use backend 'auto', 'torch' or 'exact'"):
        DenseCRFLoss(1, 15, 100, backend="native")(photos, scores.double())
    with pytest.raises(ValueError, match="got sigma_rgb = 0, wanted a finite number above 0"):
        DenseCRFLoss(1, 0, 100)
    with pytest.raises(ValueError, match="got weight = nan"):
        DenseCRFLoss(float("nan"), 15, 100)


def test_the_two_lattices_take_transposed_values():
    features = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    values = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    columns = Lattice(features).filter(values)
    rows = TorchLattice(torch.from_numpy(features)).filter(torch.from_numpy(values.T))
    np.testing.assert_allclose(rows.numpy(), columns.T, atol=1e-5)
