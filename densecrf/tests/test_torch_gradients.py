import subprocess
import sys

import numpy as np
import pytest

from densecrf import Params, lattice
from densecrf.lattice import weighted_messages
from scenes import scene

torch = pytest.importorskip("torch", reason="torch is not installed")
from densecrf.torch import DenseCRF, Kernel  # noqa: E402

NORMALIZATIONS = ("symmetric", "after", "before", "none")
GENERIC = {"appearance_xy_std": 3.17, "appearance_rgb_std": 61.3, "smoothness_xy_std": 1.73}
"""Widths that put no pixel on a face of the lattice, where the filter has kinks."""


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("include_self", [True, False])
def test_native_transpose_is_the_transpose(normalization, include_self):
    rng = np.random.default_rng(0)
    kernels = [
        lattice.Kernel(2 * rng.normal(size=(700, d)).astype(np.float32), normalization, include_self)
        for d in (5, 2, 1)
    ]
    values, slope = rng.normal(size=(2, 9, 700)).astype(np.float32)
    weights = [1.0, -0.5, 2.0]
    forward, none = weighted_messages(kernels, weights, values, threads=2)
    backward, products = weighted_messages(
        kernels, weights, slope, factors=values, transposed=True, threads=2
    )
    assert none == []
    scale = np.abs(values * backward).sum(dtype=np.float64)
    difference = (forward * slope).sum(dtype=np.float64) - (values * backward).sum(dtype=np.float64)
    assert abs(difference) < 1e-5 * scale
    for number, kernel in enumerate(kernels):
        alone, _ = weighted_messages([kernel], [1.0], values, threads=1)
        assert abs(products[number] - (alone * slope).sum(dtype=np.float64)) < 1e-4 * scale


def test_native_messages_are_the_kernels_filter_for_any_number_of_labels_and_threads():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(5000, 3)).astype(np.float32)
    kernel = lattice.Kernel(features, "after", False)
    for labels in (1, 2, 5, 8, 21):
        values = rng.normal(size=(labels, 5000)).astype(np.float32)
        result, _ = weighted_messages([kernel], [0.5], values, threads=1)
        np.testing.assert_allclose(result, 0.5 * kernel.filter(values.T).T, atol=1e-5)
        one, three = (
            weighted_messages([kernel], [0.5], values, factors=values, transposed=True, threads=threads)
            for threads in (1, 3)
        )
        assert np.array_equal(one[0], three[0])
        assert one[1] == three[1]


@pytest.mark.parametrize("backend", ["torch", "exact"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("include_self", [True, False])
def test_gradients_to_everything_in_double_precision(backend, normalization, include_self):
    generator = torch.Generator().manual_seed(0)
    image = 255 * torch.rand(2, 3, 3, 4, dtype=torch.float64, generator=generator)
    logits = torch.randn(2, 3, 3, 4, dtype=torch.float64, generator=generator)
    mu = torch.rand(3, 3, generator=generator)
    params = Params(appearance_weight=2, smoothness_weight=1, normalization=normalization, **GENERIC)
    crf = DenseCRF(
        params, backend=backend, iterations=2, include_self=include_self, compatibility=mu
    ).double()
    crf.log_widths.requires_grad_()
    names, values = zip(*crf.named_parameters(), strict=True)
    assert set(names) == {"weights", "log_widths", "compatibility"}

    def run(image, logits, *values):
        return torch.func.functional_call(crf, dict(zip(names, values, strict=True)), (image, logits))

    inputs = [tensor.detach().clone().requires_grad_() for tensor in (image, logits, *values)]
    assert torch.autograd.gradcheck(run, inputs, atol=1e-5, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("kind", ["Potts", "vector", "matrix"])
def test_native_gradients_are_finite_differences(normalization, kind):
    photo, probabilities, areas = scene(13, 18, 3)
    image, target = torch.from_numpy(photo).permute(2, 0, 1)[None], torch.from_numpy(areas)[None]
    logits = torch.from_numpy(probabilities).log()[None].float().requires_grad_()
    rng = torch.Generator().manual_seed(1)
    mu = {"Potts": None, "vector": torch.rand(3, generator=rng), "matrix": torch.rand(3, 3, generator=rng)}[
        kind
    ]
    weights = (0.1, 0.1) if normalization == "none" else (2, 1)
    params = Params(appearance_weight=weights[0], smoothness_weight=weights[1], normalization=normalization)
    crf = DenseCRF(params, backend="native", iterations=3, compatibility=mu)

    def loss():
        return torch.nn.functional.cross_entropy(crf(image, logits), target)

    loss().backward()
    for tensor in (logits, *(p for p in crf.parameters() if p.requires_grad)):
        direction = tensor.grad / tensor.grad.norm()  # along the gradient the slope is its length
        step = 0.02 * max(1.0, float(tensor.detach().norm())) / (1 if tensor is logits else 4)
        with torch.no_grad():
            tensor += step * direction
            above = loss().item()
            tensor -= 2 * step * direction
            below = loss().item()
            tensor += step * direction
        assert (above - below) / (2 * step) == pytest.approx(float(tensor.grad.norm()), rel=0.02)


@pytest.mark.parametrize("normalization", NORMALIZATIONS[:3])
@pytest.mark.parametrize("include_self", [True, False])
def test_native_and_torch_give_the_same_gradients(normalization, include_self):
    images = torch.from_numpy(scene(30, 44, 5)[0]).permute(2, 0, 1)[None]
    logits = torch.from_numpy(scene(30, 44, 5)[1]).log()[None].float()
    result = {}
    for backend in ("native", "torch"):
        crf = DenseCRF(
            Params(
                appearance_xy_std=31.7,
                appearance_rgb_std=6.13,
                smoothness_xy_std=3.37,
                normalization=normalization,
            ),
            backend=backend,
            include_self=include_self,
            iterations=5,
            compatibility=1 - torch.eye(5),
        )
        scores = logits.clone().requires_grad_()
        crf(images, scores).logsumexp(1).square().mean().backward()
        result[backend] = (scores.grad, crf.weights.grad, crf.compatibility.grad)
    for native, plain in zip(*result.values(), strict=True):
        torch.testing.assert_close(native, plain, atol=1e-3 * float(plain.abs().max()), rtol=0)


def test_auto_gives_gradients_to_widths_and_images():
    photo, probabilities, _ = scene(12, 17, 3)
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float().requires_grad_()
    logits = torch.from_numpy(probabilities).log()[None].float()
    crf = DenseCRF(Params(appearance_rgb_std=20))
    crf(image, logits).square().mean().backward()
    assert image.grad.abs().max() > 0
    assert crf.log_widths.grad is None
    crf.log_widths.requires_grad_()
    crf(image.detach(), logits).square().mean().backward()
    assert (crf.log_widths.grad.abs() > 0).all()


def test_a_kernel_gives_gradients_to_its_features():
    features = torch.randn(
        9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True
    )
    values = torch.randn(
        2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True
    )
    for backend in ("torch", "exact"):
        assert torch.autograd.gradcheck(
            lambda f, v, backend=backend: Kernel(f, normalization="none", backend=backend)(v),
            (features, values),
        )


STEP = """
import torch
from pathlib import Path
from densecrf.torch import DenseCRF

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if "VmHWM" in line)

rng = torch.Generator().manual_seed(0)
image = torch.randint(0, 256, (1, 3, 161, 161), generator=rng)
image = torch.nn.functional.avg_pool2d(image.float(), 5, 1, 2)
logits = torch.randn(1, 21, 161, 161, generator=rng, requires_grad=True)
for backend in ("native", "torch"):
    crf = DenseCRF(iterations=5, backend=backend, compatibility=1 - torch.eye(21), threads=1)
    crf(image[..., :9, :8], logits[..., :9, :8]).sum().backward()  # loads what is loaded on first use
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the memory in use
    before = peak()
    crf(image, logits).logsumexp(1).mean().backward()
    print((peak() - before) // 1000)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells the peak memory of a process"
)
def test_memory_of_a_step_is_bounded():
    run = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, check=True)
    native, plain = map(int, run.stdout.split())
    assert native < 250  # MB, for 161×161, 21 labels, 5 iterations
    assert plain < 375
