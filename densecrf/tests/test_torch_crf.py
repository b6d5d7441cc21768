import copy
import io
import subprocess
import sys

import numpy as np
import pytest

import densecrf
from densecrf import Features, Params, refine
from scenes import scene

torch = pytest.importorskip("torch", reason="torch is not installed")
from densecrf.torch import DenseCRF, mean_field  # noqa: E402

BACKENDS = ("native", "torch", "exact")
NORMALIZATIONS = ("symmetric", "after", "before", "none")


def batch(*seeds, height=30, width=44, labels=4):
    """Images (B, 3, H, W) uint8, logits (B, K, H, W) float32, and the NumPy arrays they are made from."""
    scenes = [scene(height, width, labels, seed)[:2] for seed in seeds or (0,)]
    images = torch.stack([torch.from_numpy(photo).permute(2, 0, 1) for photo, _ in scenes])
    logits = torch.stack([torch.from_numpy(p).log().float() for _, p in scenes])
    return images, logits, scenes


def params_for(normalization):
    """Parameters whose results do not saturate: without normalisation the sums are large."""
    weights = (0.05, 0.03) if normalization == "none" else (5, 3)
    return Params(appearance_weight=weights[0], smoothness_weight=weights[1], normalization=normalization)


def numpy_crf(photo, probabilities, params, **options):
    """Marginals of densecrf.DenseCRF without approximations."""
    size = probabilities.shape[1:]
    crf = densecrf.DenseCRF(
        [
            densecrf.Gaussian(size, params.smoothness_xy_std, params.smoothness_weight),
            densecrf.Bilateral(
                photo, params.appearance_xy_std, params.appearance_rgb_std, params.appearance_weight
            ),
        ],
        normalization=params.normalization,
        merge_threshold=0,
        convergence_tolerance=0,
        **options,
    )
    return crf.infer(-np.log(probabilities))


def test_two_pixels_two_labels_by_hand():
    # Smoothness alone, pixels one width apart: K = [[1, k], [k, 1]] with k = exp(-1/2); one step of weight 2.
    p = torch.tensor([[0.8, 0.4], [0.2, 0.6]])
    k = np.exp(-0.5)
    message = 2 * p @ torch.tensor([[1, k], [k, 1]], dtype=torch.float32) / (1 + k)
    expected = (p.log() + message).softmax(0)
    params = Params(appearance_weight=0, smoothness_weight=2, smoothness_xy_std=1)
    crf = DenseCRF(params, iterations=1, backend="exact", marginals=True)
    result = crf(torch.zeros(1, 3, 1, 2), p.log().reshape(1, 2, 1, 2))
    torch.testing.assert_close(result.reshape(2, 2), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("include_self", [True, False])
def test_same_numbers_as_the_numpy_crf(backend, normalization, include_self):
    images, logits, [(photo, probabilities)] = batch(3)
    params = params_for(normalization)
    twin = "exact" if backend == "exact" else "lattice"
    expected = numpy_crf(photo, probabilities, params, include_self=include_self, backend=twin)
    assert np.abs(expected - probabilities).max() > 0.1  # the CRF does something here
    result = DenseCRF(params, include_self=include_self, backend=backend)(images, logits)
    off = np.abs(result[0].detach().softmax(0).numpy() - expected)
    if backend == "torch":  # rounding decides which vertex of weight 0 a pixel on a face touches
        assert off.max() < 1e-2
        assert (off > 1e-4).mean() < 1e-3
    else:
        assert off.max() < 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["Potts", "vector", "matrix"])
def test_compatibility_is_that_of_the_numpy_crf(backend, kind):
    images, logits, [(photo, probabilities)] = batch(3)
    rng = np.random.default_rng(0)
    mu = {"Potts": None, "vector": rng.uniform(0.5, 1.5, 4), "matrix": rng.uniform(0, 1, (4, 4))}[kind]
    twin = "exact" if backend == "exact" else "lattice"
    expected = numpy_crf(photo, probabilities, Params(), compatibility=mu, backend=twin)
    crf = DenseCRF(compatibility=mu, backend=backend, marginals=True)
    np.testing.assert_allclose(crf(images, logits)[0].detach().numpy(), expected, atol=1e-4)
    assert (crf.compatibility is None) == (mu is None)


@pytest.mark.parametrize("kind", ["Potts", "vector", "matrix"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("include_self", [True, False])
def test_the_lattice_gives_the_same_without_gradients(kind, normalization, include_self):
    images, logits, _ = batch(3, height=20, width=27)
    rng = np.random.default_rng(0)
    mu = {"Potts": None, "vector": rng.uniform(0.5, 1.5, 4), "matrix": rng.uniform(0, 1, (4, 4))}[kind]
    crf = DenseCRF(
        params_for(normalization),
        compatibility=mu,
        include_self=include_self,
        backend="torch",
        marginals=True,
    )
    expected = crf(images, logits)
    assert expected.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(crf(images, logits), expected, atol=1e-4, rtol=0)
    with torch.inference_mode():
        torch.testing.assert_close(crf(images, logits), expected, atol=1e-4, rtol=0)
    crf(images, logits.requires_grad_()).square().sum().backward()  # the cached kernel has gradients too
    assert logits.grad.abs().max() > 0


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_potts_matrix_is_potts(backend):
    images, logits, _ = batch(3)
    potts, matrix = DenseCRF(backend=backend), DenseCRF(backend=backend, compatibility=1 - torch.eye(4))
    torch.testing.assert_close(
        matrix(images, logits).softmax(1), potts(images, logits).softmax(1), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_gives_the_same_as_its_images_one_by_one(backend):
    images, logits, _ = batch(1, 2, 3, height=18, width=25)
    crf = DenseCRF(backend=backend)
    together = crf(images, logits)
    for image, score, result in zip(images, logits, together, strict=True):
        torch.testing.assert_close(crf(image[None], score[None])[0], result, atol=0, rtol=0)


def test_no_images_no_pixels_no_steps():
    crf = DenseCRF()
    assert crf(torch.zeros(0, 3, 4, 5), torch.zeros(0, 2, 4, 5)).shape == (0, 2, 4, 5)
    assert crf(torch.zeros(2, 3, 0, 5), torch.zeros(2, 7, 0, 5)).shape == (2, 7, 0, 5)
    images, logits, _ = batch(1)
    assert torch.equal(DenseCRF(iterations=0)(images, logits), logits)
    alone = DenseCRF(Params(appearance_weight=0, smoothness_weight=0))
    assert torch.equal(alone(images, logits), logits)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_volume_gives_the_same_as_its_features(backend):
    rng = np.random.default_rng(4)
    size = (4, 7, 6)
    volume, scores = rng.uniform(0, 255, (1, *size)), rng.normal(size=(3, *size))
    spacing = (2.5, 1.0, 1.0)  # slices are further apart than pixels
    params = Params(appearance_xy_std=4, appearance_rgb_std=80, smoothness_xy_std=2)
    positions = (
        np.stack([axis.ravel() for axis in np.meshgrid(*map(np.arange, size), indexing="ij")], 1) * spacing
    )
    positions = positions[:, ::-1]
    bilateral = np.concatenate([positions / 4, volume.reshape(-1, 1) / 80], axis=1)
    kernels = [Features(bilateral, weight=5), Features(positions / 2, weight=3)]
    twin = densecrf.DenseCRF(
        kernels,
        merge_threshold=0,
        convergence_tolerance=0,
        backend="exact" if backend == "exact" else "lattice",
    )
    expected = twin.infer(densecrf.unary_from_logits(scores))
    crf = DenseCRF(params, spacing=spacing, backend=backend, marginals=True)
    result = crf(torch.from_numpy(volume)[None].float(), torch.from_numpy(scores)[None].float())
    np.testing.assert_allclose(result[0].detach().numpy(), expected, atol=1e-4)


def test_types_of_images_and_logits():
    images, logits, _ = batch(2)
    crf = DenseCRF(marginals=True)
    expected = crf(images, logits)
    assert torch.equal(crf(images.float(), logits), expected)
    assert torch.equal(crf(images, logits.to(memory_format=torch.channels_last)), expected)
    double = crf(images, logits.double())  # plain PyTorch
    assert double.dtype == torch.float64
    assert (double - expected).abs().mean() < 1e-5
    half = crf(images, logits.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(
        half.float(), crf(images, logits.to(torch.bfloat16).float()), atol=4e-3, rtol=0
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_changes_nothing(backend):
    images, logits, _ = batch(2)
    crf = DenseCRF(backend=backend, compatibility=torch.ones(4, 4) - torch.eye(4))
    expected = crf(images, logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(crf(images, logits), expected)


def test_approximations_are_those_of_the_numpy_crf_and_only_without_gradients():
    photo, probabilities, _ = scene(60, 90, 21, seed=5)
    images, logits = (
        torch.from_numpy(photo).permute(2, 0, 1)[None],
        torch.from_numpy(probabilities).log()[None].float(),
    )
    approximate = DenseCRF(merge_threshold=0.1, convergence_tolerance=1e-4, marginals=True)
    plain = DenseCRF(marginals=True)
    with torch.no_grad():
        result = approximate(images, logits)
        assert not torch.equal(result, plain(images, logits))
    np.testing.assert_allclose(result[0].numpy(), refine(photo, probabilities), atol=1e-6)
    assert torch.equal(approximate(images, logits), plain(images, logits))


def test_state_dict_round_trip_and_params():
    images, logits, _ = batch(2)
    first = DenseCRF(Params(appearance_xy_std=30, normalization="after"), compatibility=1 - torch.eye(4))
    with torch.no_grad():
        first.weights.copy_(torch.tensor([7.0, 2.0]))
        first.log_widths.copy_(torch.tensor([2.0, 1.0, 0.5]).log())
        first.compatibility.mul_(1.25)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = DenseCRF(Params(normalization="after"), compatibility=torch.zeros(4, 4))
    second.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(second(images, logits), first(images, logits))
    assert torch.equal(copy.deepcopy(first)(images, logits), first(images, logits))
    params = second.params()
    expected = {
        "appearance_weight": 7,
        "smoothness_weight": 2,
        "appearance_xy_std": 60,
        "appearance_rgb_std": 3,
    }
    assert {name: getattr(params, name) for name in expected} == pytest.approx(expected)
    assert params.smoothness_xy_std == pytest.approx(1.5)
    assert params.normalization == "after"


def test_mean_field_with_any_kernel():
    from densecrf.torch import Kernel

    rng = np.random.default_rng(7)
    features, scores = (
        rng.normal(size=(40, 2)).astype(np.float32),
        rng.normal(size=(3, 40)).astype(np.float32),
    )
    kernel = Kernel(torch.from_numpy(features), backend="exact")
    result = mean_field(torch.from_numpy(scores), lambda q: 2 * kernel(q), iterations=4).softmax(0)
    twin = densecrf.DenseCRF([Features(features, weight=2)], backend="exact")
    expected = twin.infer(densecrf.unary_from_logits(scores), iterations=4)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


def test_importing_densecrf_loads_no_torch():
    code = "import densecrf, sys; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


class Cascade(torch.nn.Module):
    """A CRF between other operations."""

    def __init__(self):
        super().__init__()
        self.crf = DenseCRF(iterations=3)

    def forward(self, image, scores):
        return self.crf(image, scores * 2).relu()


@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_a_compiled_module_gives_the_same():
    rng = torch.Generator().manual_seed(0)
    image, scores = 255 * torch.rand(1, 3, 9, 13, generator=rng), torch.randn(1, 4, 9, 13, generator=rng)
    cascade = Cascade()
    compiled = torch.compile(cascade, backend="eager")
    assert torch.equal(compiled(image, scores), cascade(image, scores))


IMAGE, LOGITS = torch.zeros(1, 3, 4, 6), torch.zeros(1, 2, 4, 6)


@pytest.mark.parametrize(
    ("image", "logits", "message"),
    [
        (torch.zeros(1, 3, 6, 4), LOGITS, r"got an image \(1, 3, 6, 4\) .* and logits \(1, 2, 4, 6\)"),
        (torch.zeros(2, 3, 4, 6), LOGITS, "wanted .B, C, H, W. real numbers"),
        (IMAGE, LOGITS.long(), "wanted .B, C, H, W. real numbers and .B, K, H, W. floats"),
        (IMAGE * float("nan"), LOGITS, "NaN"),
        (IMAGE + 1e20, LOGITS, "span more lattice cells"),
    ],
)
def test_unusable_tensors_are_refused(image, logits, message):
    with pytest.raises(ValueError, match=message):
        DenseCRF()(image, logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "cuda"}, "wanted one of: auto, native, torch, exact"),
        ({"iterations": -1}, "wanted at least 0"),
        ({"compatibility": torch.zeros(2, 3)}, r"got compatibility \(2, 3\), wanted"),
        ({"spacing": (1, 0)}, "got spacing = 0, wanted a finite number above 0"),
        ({"threads": 0}, "wanted at least 1"),
        ({"merge_threshold": 1}, "got merge_threshold = 1.*, wanted at least 0 and under 1"),
    ],
)
def test_unusable_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DenseCRF(**options)


def test_what_does_not_fit_the_call_is_refused():
    with pytest.raises(ValueError, match=r"got spacing \(1.0, 1.0, 1.0\) for 2 axes"):
        DenseCRF(spacing=(1, 1, 1))(IMAGE, LOGITS)
    with pytest.raises(ValueError, match=r"got compatibility \(3,\) and 2 labels"):
        DenseCRF(compatibility=[1, 1, 1])(IMAGE, LOGITS)
    with pytest.raises(ValueError, match="one device"):
        DenseCRF()(IMAGE, LOGITS.to("meta"))
    with pytest.raises(ValueError, match="use backend 'auto', 'torch' or 'exact'"):
        DenseCRF(backend="native")(IMAGE.clone().requires_grad_(), LOGITS)
    with pytest.raises(ValueError, match=r"float64 on cpu, wanted float32"):
        DenseCRF(backend="native")(IMAGE, LOGITS.double())


@pytest.mark.parametrize("name", ["appearance_weight", "smoothness_weight"])
def test_weights_that_would_overflow_are_refused(name):
    with pytest.raises(ValueError, match=rf"got {name} = 3e\+38, wanted at most 1e\+20"):
        DenseCRF(densecrf.Params(**{name: 3e38}))
